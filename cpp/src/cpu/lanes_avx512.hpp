#pragma once

#include <immintrin.h>

#include <cstdint>

#include "itop/bitset.hpp"
#include "itop/ordered_key.hpp"
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
  return Word{_mm512_cmplt_epu16_mask(load512(keys), limit)} |
         (Word{_mm512_cmplt_epu16_mask(load512(keys + 32), limit)} << 32);
}
inline Word greater_mask(const std::uint16_t* keys, std::uint16_t threshold) {
  const __m512i limit = _mm512_set1_epi16(static_cast<std::int16_t>(threshold));
  return Word{_mm512_cmpgt_epu16_mask(load512(keys), limit)} |
         (Word{_mm512_cmpgt_epu16_mask(load512(keys + 32), limit)} << 32);
}

/// Where the keys of 64 float32 bit patterns lie beside a bracket [low, high], and whether all patterns were finite.
template <ScoreTransform kTransform>
class KeyBracket {
 public:
  KeyBracket(std::int32_t flip, std::int32_t low, std::int32_t high)
      : flip_(_mm512_set1_epi32(flip)), low_(_mm512_set1_epi32(low)), high_(_mm512_set1_epi32(high)) {}

  [[gnu::always_inline]] void compare(const std::uint32_t* bits, Word& below, Word& above) {
    below = above = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i pattern = _mm512_loadu_si512(bits + 16 * i);
      const __m512i magnitude = _mm512_and_si512(pattern, _mm512_set1_epi32(0x7FFFFFFF));
      __m512i key = magnitude;
      if constexpr (kTransform == ScoreTransform::kSigned) {
        key = _mm512_mask_sub_epi32(key, _mm512_movepi32_mask(pattern), _mm512_setzero_si512(), key);
      }
      key = _mm512_xor_si512(key, flip_);
      below |= Word{_mm512_cmplt_epi32_mask(key, low_)} << (16 * i);
      above |= Word{_mm512_cmpgt_epi32_mask(key, high_)} << (16 * i);
      largest_ = _mm512_max_epi32(largest_, magnitude);
    }
  }
  bool all_finite() const { return _mm512_cmpge_epi32_mask(largest_, _mm512_set1_epi32(OrderedKey32::kExponent)) == 0; }

 private:
  __m512i flip_;
  __m512i low_;
  __m512i high_;
  __m512i largest_ = _mm512_setzero_si512();
};

inline void widen_float16(const std::uint16_t* values, std::uint32_t* bits) {
  for (int i = 0; i < 4; ++i) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + 16 * i));
    _mm512_store_si512(bits + 16 * i, _mm512_castps_si512(_mm512_cvtph_ps(half)));
  }
}

/// Philox blocks of coarse keys, eight to a register, each word in the low half of a 64-bit lane.
/// Upper halves hold rubbish between rounds: the multiplication does not look at them.
class CoarseKeyLanes {
 public:
  static constexpr int kKeyWords = 4;

  explicit CoarseKeyLanes(const KeyStream& stream) {
    const PhiloxBlock base = stream.counter_block(0, 0);
    for (int word = 1; word < 4; ++word) base_[word] = _mm512_set1_epi64(base.word[word]);
    std::uint32_t key0 = stream.key0();
    std::uint32_t key1 = stream.key1();
    for (auto& keys : round_keys_) {
      keys[0] = _mm512_set1_epi64(key0);
      keys[1] = _mm512_set1_epi64(key1);
      key0 += PhiloxConstants::kWeyl0;
      key1 += PhiloxConstants::kWeyl1;
    }
  }

  /// keys[8 * i + j] is key j of block counters[i].
  void draw(const std::uint64_t* counters, std::uint16_t* keys) const {
    Blocks blocks = blocks_of(_mm512_loadu_si512(counters));
    encrypt<1>(&blocks);
    const __m512i words01 = joined(blocks.word[0], blocks.word[1]);
    const __m512i words23 = joined(blocks.word[2], blocks.word[3]);
    const __m512i first_four = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    const __m512i last_four = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    _mm512_storeu_si512(keys, _mm512_permutex2var_epi64(words01, first_four, words23));
    _mm512_storeu_si512(keys + 32, _mm512_permutex2var_epi64(words01, last_four, words23));
  }

  /// Where the keys of the blocks first, first + 1, ... lie beside [low, high]: `kKeyWords` words of 64 keys.
  void compare(std::uint64_t first, std::uint16_t low, std::uint16_t high, Word* below, Word* above) const {
    const __m512i lane = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    Blocks blocks[kKeyWords];
    for (int i = 0; i < kKeyWords; ++i) {
      const auto counter = static_cast<long long>(first + static_cast<std::uint64_t>(i) * kCoarseKeysPerBlock);
      blocks[i] = blocks_of(_mm512_add_epi64(_mm512_set1_epi64(counter), lane));
    }
    encrypt<kKeyWords>(blocks);
    const __m512i lower = _mm512_set1_epi16(static_cast<std::int16_t>(low));
    const __m512i upper = _mm512_set1_epi16(static_cast<std::int16_t>(high));
    for (int i = 0; i < kKeyWords; ++i) {
      const __m512i words01 = joined(blocks[i].word[0], blocks[i].word[1]);
      const __m512i words23 = joined(blocks[i].word[2], blocks[i].word[3]);
      below[i] = in_turn(_mm512_cmplt_epu16_mask(words01, lower), _mm512_cmplt_epu16_mask(words23, lower));
      above[i] = in_turn(_mm512_cmpgt_epu16_mask(words01, upper), _mm512_cmpgt_epu16_mask(words23, upper));
    }
  }

 private:
  struct Blocks {
    __m512i word[4];
  };

  [[gnu::always_inline]] Blocks blocks_of(__m512i counter) const {
    return {{counter, _mm512_or_si512(_mm512_srli_epi64(counter, 32), base_[1]), base_[2], base_[3]}};
  }

  /// All rounds of some registers of blocks. One waits for its own multiplications; several keep the processor busy.
  template <int kNum>
  [[gnu::always_inline]] void encrypt(Blocks* blocks) const {
    const __m512i multiplier0 = _mm512_set1_epi64(PhiloxConstants::kMultiplier0);
    const __m512i multiplier1 = _mm512_set1_epi64(PhiloxConstants::kMultiplier1);
    constexpr int xor_of_three = 0x96;
#pragma GCC unroll 10
    for (const auto& round_key : round_keys_) {
#pragma GCC unroll 4
      for (int i = 0; i < kNum; ++i) {
        __m512i* const c = blocks[i].word;
        const __m512i product0 = _mm512_mul_epu32(c[0], multiplier0);
        const __m512i product1 = _mm512_mul_epu32(c[2], multiplier1);
        c[0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(product1, 32), c[1], round_key[0], xor_of_three);
        c[2] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(product0, 32), c[3], round_key[1], xor_of_three);
        c[1] = product1;
        c[3] = product0;
      }
    }
  }

  /// The low halves of `even` and `odd`, side by side.
  static __m512i joined(__m512i even, __m512i odd) {
    return _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
  }

  /// Four bits of `first`, four of `second`, and so on: the first and the last keys of each block.
  static Word in_turn(__mmask32 first, __mmask32 second) {
    constexpr Word firsts = 0x0F0F0F0F0F0F0F0F;
    return _pdep_u64(first, firsts) | _pdep_u64(second, ~firsts);
  }

  __m512i base_[4] = {};
  __m512i round_keys_[PhiloxConstants::kRounds][2];
};

/// Zeroes data[i] where bit i is set. What is zero already is not written, so that its cache line need not go back to
/// memory: of the weights that change, the grown ones were zero before.
inline void zero_lanes(std::uint32_t* data, Word zeros) {
  for (int i = 0; i < 4; ++i) {
    const auto clear = static_cast<__mmask16>(zeros >> (16 * i));
    const __m512i values = _mm512_loadu_si512(data + 16 * i);
    if (_mm512_mask_test_epi32_mask(clear, values, values) != 0) {
      _mm512_storeu_si512(data + 16 * i, _mm512_mask_mov_epi32(values, clear, _mm512_setzero_si512()));
    }
  }
}
inline void zero_lanes(std::uint64_t* data, Word zeros) {
  for (int i = 0; i < 8; ++i) {
    const auto clear = static_cast<__mmask8>(zeros >> (8 * i));
    const __m512i values = _mm512_loadu_si512(data + 8 * i);
    if (_mm512_mask_test_epi64_mask(clear, values, values) != 0) {
      _mm512_storeu_si512(data + 8 * i, _mm512_mask_mov_epi64(values, clear, _mm512_setzero_si512()));
    }
  }
}
inline void zero_lanes(std::uint16_t* data, Word zeros) {
  for (int i = 0; i < 2; ++i) {
    const auto clear = static_cast<__mmask32>(zeros >> (32 * i));
    const __m512i values = _mm512_loadu_si512(data + 32 * i);
    if (_mm512_mask_test_epi16_mask(clear, values, values) != 0) {
      _mm512_storeu_si512(data + 32 * i, _mm512_mask_mov_epi16(values, clear, _mm512_setzero_si512()));
    }
  }
}

}  // namespace itop::cpu::lanes_avx512
