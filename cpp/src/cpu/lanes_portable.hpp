#pragma once

#include <cstdint>

#include "itop/bitset.hpp"
#include "itop/ordered_key.hpp"
#include "itop/random.hpp"

namespace itop::cpu::lanes_portable {

/// Bit i is set where keys[i] < threshold.
template <class Key>
Word less_mask(const Key* keys, Key threshold) {
  Word mask = 0;
  for (int i = 0; i < kWordBits; ++i) mask |= Word{keys[i] < threshold} << i;
  return mask;
}

/// Bit i is set where keys[i] > threshold.
template <class Key>
Word greater_mask(const Key* keys, Key threshold) {
  Word mask = 0;
  for (int i = 0; i < kWordBits; ++i) mask |= Word{keys[i] > threshold} << i;
  return mask;
}

/// Where the keys of 64 float32 bit patterns lie beside a bracket [low, high], and whether all patterns were finite.
template <ScoreTransform kTransform>
class KeyBracket {
 public:
  KeyBracket(std::int32_t flip, std::int32_t low, std::int32_t high) : flip_(flip), low_(low), high_(high) {}

  void compare(const std::uint32_t* bits, Word& below, Word& above) {
    below = above = 0;
    for (int i = 0; i < kWordBits; ++i) {
      const auto magnitude = static_cast<std::int32_t>(bits[i] & 0x7FFFFFFFu);
      const std::int32_t sign = kTransform == ScoreTransform::kSigned ? static_cast<std::int32_t>(bits[i]) >> 31 : 0;
      const std::int32_t key = ((magnitude ^ sign) - sign) ^ flip_;
      below |= Word{key < low_} << i;
      above |= Word{key > high_} << i;
      largest_ = magnitude > largest_ ? magnitude : largest_;
    }
  }
  bool all_finite() const { return largest_ < OrderedKey32::kExponent; }

 private:
  std::int32_t flip_;
  std::int32_t low_;
  std::int32_t high_;
  std::int32_t largest_ = 0;
};

inline void widen_float16(const std::uint16_t* values, std::uint32_t* bits) {
  for (int i = 0; i < kWordBits; ++i) bits[i] = float32_bits_of_float16(values[i]);
}

/// Eight Philox blocks of coarse keys at once: keys[8 * i + j] is key j of block counters[i].
class CoarseKeyLanes {
 public:
  static constexpr int kKeyWords = 1;

  explicit CoarseKeyLanes(const KeyStream& stream) : stream_(stream) {}

  void draw(const std::uint64_t* counters, std::uint16_t* keys) const {
    for (int i = 0; i < kCoarseKeysPerBlock; ++i) {
      const PhiloxBlock block = philox(stream_.counter_block(counters[i], 0), stream_.key0(), stream_.key1());
      for (int j = 0; j < kCoarseKeysPerBlock; ++j) {
        keys[i * kCoarseKeysPerBlock + j] = static_cast<std::uint16_t>(block.word[j / 2] >> (16 * (j % 2)));
      }
    }
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
    std::uint64_t counters[kCoarseKeysPerBlock];
    for (int i = 0; i < kCoarseKeysPerBlock; ++i) counters[i] = first + static_cast<std::uint64_t>(i);
    draw(counters, keys);
  }

  KeyStream stream_;
};

/// Zeroes data[i] where bit i is set.
template <class Element>
void zero_lanes(Element* data, Word zeros) {
  for (int i = 0; i < kWordBits; ++i) data[i] = (zeros >> i) & 1u ? Element{0} : data[i];
}

}  // namespace itop::cpu::lanes_portable
