#pragma once

#include <immintrin.h>

#include <cstdint>

#include "itop/bitset.hpp"
#include "itop/random.hpp"

namespace itop::cpu::lanes_avx512 {

inline __m512i load512(const void* from) { return _mm512_load_si512(from); }

inline Word less_mask(const std::int32_t* keys, std::int32_t threshold) {
  const __m512i limit = _mm512_set1_epi32(threshold);
  Word mask = 0;
  for (int i = 0; i < 4; ++i) mask |= Word{_mm512_cmplt_epi32_mask(load512(keys + 16 * i), limit)} << (16 * i);
  return mask;
}
inline Word greater_mask(const std::int32_t* keys, std::int32_t threshold) {
  const __m512i limit = _mm512_set1_epi32(threshold);
  Word mask = 0;
  for (int i = 0; i < 4; ++i) mask |= Word{_mm512_cmpgt_epi32_mask(load512(keys + 16 * i), limit)} << (16 * i);
  return mask;
}
inline Word less_mask(const std::int64_t* keys, std::int64_t threshold) {
  const __m512i limit = _mm512_set1_epi64(threshold);
  Word mask = 0;
  for (int i = 0; i < 8; ++i) mask |= Word{_mm512_cmplt_epi64_mask(load512(keys + 8 * i), limit)} << (8 * i);
  return mask;
}
inline Word greater_mask(const std::int64_t* keys, std::int64_t threshold) {
  const __m512i limit = _mm512_set1_epi64(threshold);
  Word mask = 0;
  for (int i = 0; i < 8; ++i) mask |= Word{_mm512_cmpgt_epi64_mask(load512(keys + 8 * i), limit)} << (8 * i);
  return mask;
}
inline Word less_mask(const std::uint16_t* keys, std::uint16_t threshold) {
  const __m512i limit = _mm512_set1_epi16(static_cast<std::int16_t>(threshold));
  return Word{_mm512_cmplt_epu16_mask(load512(keys), limit)} | (Word{_mm512_cmplt_epu16_mask(load512(keys + 32), limit)} << 32);
}
inline Word greater_mask(const std::uint16_t* keys, std::uint16_t threshold) {
  const __m512i limit = _mm512_set1_epi16(static_cast<std::int16_t>(threshold));
  return Word{_mm512_cmpgt_epu16_mask(load512(keys), limit)} | (Word{_mm512_cmpgt_epu16_mask(load512(keys + 32), limit)} << 32);
}

inline void widen_float16(const std::uint16_t* values, std::uint32_t* bits) {
  for (int i = 0; i < 4; ++i) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + 16 * i));
    _mm512_store_si512(bits + 16 * i, _mm512_castps_si512(_mm512_cvtph_ps(half)));
  }
}

/// Eight Philox blocks of coarse keys at once, each word in the low half of a 64-bit lane.
/// Upper halves hold rubbish between rounds: the multiplication does not look at them.
class CoarseKeyLanes {
 public:
  explicit CoarseKeyLanes(const KeyStream& stream) : stream_(stream) {}

  void draw(const std::uint64_t* counters, std::uint16_t* keys) const {
    const __m512i counter = _mm512_loadu_si512(counters);
    const PhiloxBlock base = stream_.counter_block(0, 0);
    __m512i c0 = counter;
    __m512i c1 = _mm512_or_si512(_mm512_srli_epi64(counter, 32), _mm512_set1_epi64(base.word[1]));
    __m512i c2 = _mm512_set1_epi64(base.word[2]);
    __m512i c3 = _mm512_set1_epi64(base.word[3]);
    std::uint32_t key0 = stream_.key0();
    std::uint32_t key1 = stream_.key1();
    const __m512i multiplier0 = _mm512_set1_epi64(PhiloxConstants::kMultiplier0);
    const __m512i multiplier1 = _mm512_set1_epi64(PhiloxConstants::kMultiplier1);
    for (int round = 0; round < PhiloxConstants::kRounds; ++round) {
      const __m512i product0 = _mm512_mul_epu32(c0, multiplier0);
      const __m512i product1 = _mm512_mul_epu32(c2, multiplier1);
      c0 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(product1, 32), c1), _mm512_set1_epi64(key0));
      c2 = _mm512_xor_si512(_mm512_xor_si512(_mm512_srli_epi64(product0, 32), c3), _mm512_set1_epi64(key1));
      c1 = product1;
      c3 = product0;
      key0 += PhiloxConstants::kWeyl0;
      key1 += PhiloxConstants::kWeyl1;
    }
    const __m512i low = _mm512_set1_epi64(0xFFFFFFFF);
    const __m512i words01 = _mm512_or_si512(_mm512_and_si512(c0, low), _mm512_slli_epi64(c1, 32));
    const __m512i words23 = _mm512_or_si512(_mm512_and_si512(c2, low), _mm512_slli_epi64(c3, 32));
    const __m512i first_four = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i last_four = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    _mm512_storeu_si512(keys, _mm512_permutex2var_epi64(words01, first_four, words23));
    _mm512_storeu_si512(keys + 32, _mm512_permutex2var_epi64(words01, last_four, words23));
  }

 private:
  KeyStream stream_;
};

/// Zeroes data[i] where bit i is set. Whole stores of a masked load: as fast as masked stores or faster.
inline void zero_lanes(std::uint32_t* data, Word zeros) {
  for (int i = 0; i < 4; ++i) {
    const auto keep = static_cast<__mmask16>(~zeros >> (16 * i));
    _mm512_storeu_si512(data + 16 * i, _mm512_maskz_loadu_epi32(keep, data + 16 * i));
  }
}
inline void zero_lanes(std::uint64_t* data, Word zeros) {
  for (int i = 0; i < 8; ++i) {
    const auto keep = static_cast<__mmask8>(~zeros >> (8 * i));
    _mm512_storeu_si512(data + 8 * i, _mm512_maskz_loadu_epi64(keep, data + 8 * i));
  }
}
inline void zero_lanes(std::uint16_t* data, Word zeros) {
  for (int i = 0; i < 2; ++i) {
    const auto keep = static_cast<__mmask32>(~zeros >> (32 * i));
    _mm512_storeu_si512(data + 32 * i, _mm512_maskz_loadu_epi16(keep, data + 32 * i));
  }
}

}  // namespace itop::cpu::lanes_avx512
