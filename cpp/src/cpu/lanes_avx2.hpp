#pragma once

#include <immintrin.h>

#include <cstdint>

#include "itop/bitset.hpp"
#include "itop/ordered_key.hpp"
#include "itop/random.hpp"

namespace itop::cpu::lanes_avx2 {

inline __m256i load256(const void* from) { return _mm256_load_si256(static_cast<const __m256i*>(from)); }

inline Word bits_of_32(__m256i comparison) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(comparison)));
}
inline Word bits_of_64(__m256i comparison) {
  return static_cast<std::uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(comparison)));
}

inline Word less_mask(const std::int32_t* keys, std::int32_t threshold) {
  const __m256i limit = _mm256_set1_epi32(threshold);
  Word mask = 0;
  for (int i = 0; i < 8; ++i) mask |= bits_of_32(_mm256_cmpgt_epi32(limit, load256(keys + 8 * i))) << (8 * i);
  return mask;
}
inline Word greater_mask(const std::int32_t* keys, std::int32_t threshold) {
  const __m256i limit = _mm256_set1_epi32(threshold);
  Word mask = 0;
  for (int i = 0; i < 8; ++i) mask |= bits_of_32(_mm256_cmpgt_epi32(load256(keys + 8 * i), limit)) << (8 * i);
  return mask;
}
inline Word less_mask(const std::int64_t* keys, std::int64_t threshold) {
  const __m256i limit = _mm256_set1_epi64x(threshold);
  Word mask = 0;
  for (int i = 0; i < 16; ++i) mask |= bits_of_64(_mm256_cmpgt_epi64(limit, load256(keys + 4 * i))) << (4 * i);
  return mask;
}
inline Word greater_mask(const std::int64_t* keys, std::int64_t threshold) {
  const __m256i limit = _mm256_set1_epi64x(threshold);
  Word mask = 0;
  for (int i = 0; i < 16; ++i) mask |= bits_of_64(_mm256_cmpgt_epi64(load256(keys + 4 * i), limit)) << (4 * i);
  return mask;
}

/// One bit for each of 32 comparisons of 16 bits.
inline Word bits_of_16(__m256i first, __m256i second) {
  const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(first, second), 0b11011000);
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
}
/// AVX2 compares signed: both sides are moved by 2^15.
inline __m256i signed_16(__m256i values) { return _mm256_xor_si256(values, _mm256_set1_epi16(INT16_MIN)); }

inline Word less_mask(const std::uint16_t* keys, std::uint16_t threshold) {
  const __m256i limit = signed_16(_mm256_set1_epi16(static_cast<std::int16_t>(threshold)));
  Word mask = 0;
  for (int i = 0; i < 2; ++i) {
    const __m256i first = _mm256_cmpgt_epi16(limit, signed_16(load256(keys + 32 * i)));
    const __m256i second = _mm256_cmpgt_epi16(limit, signed_16(load256(keys + 32 * i + 16)));
    mask |= bits_of_16(first, second) << (32 * i);
  }
  return mask;
}
inline Word greater_mask(const std::uint16_t* keys, std::uint16_t threshold) {
  const __m256i limit = signed_16(_mm256_set1_epi16(static_cast<std::int16_t>(threshold)));
  Word mask = 0;
  for (int i = 0; i < 2; ++i) {
    const __m256i first = _mm256_cmpgt_epi16(signed_16(load256(keys + 32 * i)), limit);
    const __m256i second = _mm256_cmpgt_epi16(signed_16(load256(keys + 32 * i + 16)), limit);
    mask |= bits_of_16(first, second) << (32 * i);
  }
  return mask;
}

/// Where the keys of 64 float32 bit patterns lie beside a bracket [low, high], and whether all patterns were finite.
template <ScoreTransform kTransform>
class KeyBracket {
 public:
  KeyBracket(std::int32_t flip, std::int32_t low, std::int32_t high)
      : flip_(_mm256_set1_epi32(flip)), low_(_mm256_set1_epi32(low)), high_(_mm256_set1_epi32(high)) {}

  [[gnu::always_inline]] void compare(const std::uint32_t* bits, Word& below, Word& above) {
    below = above = 0;
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const __m256i pattern = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits + 8 * i));
      const __m256i magnitude = _mm256_and_si256(pattern, _mm256_set1_epi32(0x7FFFFFFF));
      __m256i key = magnitude;
      if constexpr (kTransform == ScoreTransform::kSigned) {
        const __m256i sign = _mm256_srai_epi32(pattern, 31);
        key = _mm256_sub_epi32(_mm256_xor_si256(key, sign), sign);
      }
      key = _mm256_xor_si256(key, flip_);
      below |= bits_of_32(_mm256_cmpgt_epi32(low_, key)) << (8 * i);
      above |= bits_of_32(_mm256_cmpgt_epi32(key, high_)) << (8 * i);
      largest_ = _mm256_max_epi32(largest_, magnitude);
    }
  }
  bool all_finite() const {
    return bits_of_32(_mm256_cmpgt_epi32(largest_, _mm256_set1_epi32(OrderedKey32::kExponent - 1))) == 0;
  }

 private:
  __m256i flip_;
  __m256i low_;
  __m256i high_;
  __m256i largest_ = _mm256_setzero_si256();
};

inline void widen_float16(const std::uint16_t* values, std::uint32_t* bits) {
  for (int i = 0; i < 8; ++i) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + 8 * i));
    _mm256_store_si256(reinterpret_cast<__m256i*>(bits + 8 * i), _mm256_castps_si256(_mm256_cvtph_ps(half)));
  }
}

/// Eight Philox blocks of coarse keys at once, four to a register, each word in the low half of a 64-bit lane.
/// Upper halves hold rubbish between rounds: the multiplication does not look at them.
class CoarseKeyLanes {
 public:
  static constexpr int kKeyWords = 1;

  explicit CoarseKeyLanes(const KeyStream& stream) {
    const PhiloxBlock base = stream.counter_block(0, 0);
    for (int word = 1; word < 4; ++word) base_[word] = _mm256_set1_epi64x(base.word[word]);
    std::uint32_t key0 = stream.key0();
    std::uint32_t key1 = stream.key1();
    for (auto& keys : round_keys_) {
      keys[0] = _mm256_set1_epi64x(key0);
      keys[1] = _mm256_set1_epi64x(key1);
      key0 += PhiloxConstants::kWeyl0;
      key1 += PhiloxConstants::kWeyl1;
    }
  }

  void draw(const std::uint64_t* counters, std::uint16_t* keys) const {
    const auto* four = reinterpret_cast<const __m256i*>(counters);
    draw(_mm256_loadu_si256(four), _mm256_loadu_si256(four + 1), keys);
  }

  /// Where the keys of the blocks first, first + 1, ... lie beside [low, high]: `kKeyWords` words of 64 keys.
  void compare(std::uint64_t first, std::uint16_t low, std::uint16_t high, Word* below, Word* above) const {
    alignas(64) std::uint16_t keys[kWordBits];
    draw_consecutive(first, keys);
    *below = less_mask(keys, low);
    *above = greater_mask(keys, high);
  }

 private:
  /// The keys of the blocks first, first + 1, ... first + 7.
  void draw_consecutive(std::uint64_t first, std::uint16_t* keys) const {
    const __m256i counter = _mm256_set1_epi64x(static_cast<long long>(first));
    draw(_mm256_add_epi64(counter, _mm256_setr_epi64x(0, 1, 2, 3)),
         _mm256_add_epi64(counter, _mm256_setr_epi64x(4, 5, 6, 7)), keys);
  }

  [[gnu::always_inline]] void draw(__m256i first_four, __m256i last_four, std::uint16_t* keys) const {
    const __m256i multiplier0 = _mm256_set1_epi64x(PhiloxConstants::kMultiplier0);
    const __m256i multiplier1 = _mm256_set1_epi64x(PhiloxConstants::kMultiplier1);
    for (int half = 0; half < 2; ++half) {
      const __m256i counter = half == 0 ? first_four : last_four;
      __m256i c0 = counter;
      __m256i c1 = _mm256_or_si256(_mm256_srli_epi64(counter, 32), base_[1]);
      __m256i c2 = base_[2];
      __m256i c3 = base_[3];
      for (const auto& round_key : round_keys_) {
        const __m256i product0 = _mm256_mul_epu32(c0, multiplier0);
        const __m256i product1 = _mm256_mul_epu32(c2, multiplier1);
        c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product1, 32), c1), round_key[0]);
        c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product0, 32), c3), round_key[1]);
        c1 = product1;
        c3 = product0;
      }
      const __m256i low = _mm256_set1_epi64x(0xFFFFFFFF);
      const __m256i words01 = _mm256_or_si256(_mm256_and_si256(c0, low), _mm256_slli_epi64(c1, 32));
      const __m256i words23 = _mm256_or_si256(_mm256_and_si256(c2, low), _mm256_slli_epi64(c3, 32));
      const __m256i blocks02 = _mm256_unpacklo_epi64(words01, words23);
      const __m256i blocks13 = _mm256_unpackhi_epi64(words01, words23);
      auto* out = reinterpret_cast<__m256i*>(keys + 32 * half);
      _mm256_storeu_si256(out, _mm256_permute2x128_si256(blocks02, blocks13, 0x20));
      _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(blocks02, blocks13, 0x31));
    }
  }

  __m256i base_[4] = {};
  __m256i round_keys_[PhiloxConstants::kRounds][2];
};

/// Zeroes data[i] where bit i is set. What is zero already is not written, so that its cache line need not go back to
/// memory: of the weights that change, the grown ones were zero before.
inline void clear_lanes(__m256i* lanes, __m256i hit) {
  const __m256i values = _mm256_loadu_si256(lanes);
  if (_mm256_testz_si256(hit, values) == 0) _mm256_storeu_si256(lanes, _mm256_andnot_si256(hit, values));
}
inline void zero_lanes(std::uint32_t* data, Word zeros) {
  const __m256i bit_of_lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  for (int i = 0; i < 8; ++i, zeros >>= 8) {
    auto* lanes = reinterpret_cast<__m256i*>(data + 8 * i);
    const __m256i spread = _mm256_set1_epi32(static_cast<int>(zeros & 0xFF));
    const __m256i hit = _mm256_cmpeq_epi32(_mm256_and_si256(spread, bit_of_lane), bit_of_lane);
    clear_lanes(lanes, hit);
  }
}
inline void zero_lanes(std::uint64_t* data, Word zeros) {
  const __m256i bit_of_lane = _mm256_setr_epi64x(1, 2, 4, 8);
  for (int i = 0; i < 16; ++i, zeros >>= 4) {
    auto* lanes = reinterpret_cast<__m256i*>(data + 4 * i);
    const __m256i spread = _mm256_set1_epi64x(static_cast<long long>(zeros & 0xF));
    const __m256i hit = _mm256_cmpeq_epi64(_mm256_and_si256(spread, bit_of_lane), bit_of_lane);
    clear_lanes(lanes, hit);
  }
}
inline void zero_lanes(std::uint16_t* data, Word zeros) {
  const __m256i bit_of_lane =
      _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, INT16_MIN);
  for (int i = 0; i < 4; ++i, zeros >>= 16) {
    auto* lanes = reinterpret_cast<__m256i*>(data + 16 * i);
    const __m256i spread = _mm256_set1_epi16(static_cast<std::int16_t>(zeros & 0xFFFF));
    const __m256i hit = _mm256_cmpeq_epi16(_mm256_and_si256(spread, bit_of_lane), bit_of_lane);
    clear_lanes(lanes, hit);
  }
}

}  // namespace itop::cpu::lanes_avx2
