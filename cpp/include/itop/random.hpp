#pragma once

#include <cstdint>

#include "itop/host_device.hpp"

namespace itop {

/// Philox 4x32-10, a counter-based generator (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011).
/// Nothing is stored: the same counter and key give the same 128 bits on every device and thread.
struct PhiloxBlock {
  std::uint32_t word[4];
};

struct PhiloxConstants {
  static constexpr std::uint32_t kMultiplier0 = 0xD2511F53u;
  static constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57u;
  static constexpr std::uint32_t kWeyl0 = 0x9E3779B9u;
  static constexpr std::uint32_t kWeyl1 = 0xBB67AE85u;
  static constexpr int kRounds = 10;
};

ITOP_HOST_DEVICE PhiloxBlock philox(PhiloxBlock counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < PhiloxConstants::kRounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{PhiloxConstants::kMultiplier0} * counter.word[0];
    const std::uint64_t product1 = std::uint64_t{PhiloxConstants::kMultiplier1} * counter.word[2];
    counter = {
        {static_cast<std::uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<std::uint32_t>(product1),
         static_cast<std::uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<std::uint32_t>(product0)}};
    key0 += PhiloxConstants::kWeyl0;
    key1 += PhiloxConstants::kWeyl1;
  }
  return counter;
}

/// Names one sequence of random keys: a layer's keys for one draw (initial masks, drop, grow ...) of one update.
struct KeyStream {
  std::uint64_t seed = 0;
  std::uint32_t layer = 0;
  std::uint32_t update = 0;
  std::uint32_t draw = 0;  ///< in [0, 128)

  static constexpr std::uint32_t kMaxDraws = 128;

  ITOP_HOST_DEVICE std::uint32_t key0() const { return static_cast<std::uint32_t>(seed); }
  ITOP_HOST_DEVICE std::uint32_t key1() const { return static_cast<std::uint32_t>(seed >> 32); }

  /// @param counter up to 2^56 - 1
  /// @param fine    0 for coarse keys, 1 for fine keys
  ITOP_HOST_DEVICE PhiloxBlock counter_block(std::uint64_t counter, std::uint32_t fine) const {
    return {{static_cast<std::uint32_t>(counter),
             static_cast<std::uint32_t>(counter >> 32) | (draw << 25) | (fine << 24), layer, update}};
  }
};

/// Weights whose coarse keys come from one Philox block.
inline constexpr int kCoarseKeysPerBlock = 8;
inline constexpr int kCoarseKeyBits = 16;

/// The first 16 bits of a weight's tie key. Eight neighbours share a block, so that a pass over a whole layer costs one
/// block for eight weights; the rest of the key is drawn only for the few weights whose coarse keys decide nothing.
ITOP_HOST_DEVICE std::uint32_t coarse_key(const KeyStream& stream, std::uint64_t index) {
  const PhiloxBlock block = philox(stream.counter_block(index / kCoarseKeysPerBlock, 0), stream.key0(), stream.key1());
  const std::uint32_t within = static_cast<std::uint32_t>(index % kCoarseKeysPerBlock);
  return (block.word[within / 2] >> (16 * (within % 2))) & 0xFFFFu;
}

/// The other bits of a weight's tie key.
inline constexpr int kFineKeyBits = 48;
ITOP_HOST_DEVICE std::uint64_t fine_key(const KeyStream& stream, std::uint64_t index) {
  const PhiloxBlock fine = philox(stream.counter_block(index, 1), stream.key0(), stream.key1());
  return (std::uint64_t{fine.word[0]} << 16) | (fine.word[1] & 0xFFFFu);
}

/// The 64-bit tie key of a weight: its coarse key, then its fine key. Smaller is better.
ITOP_HOST_DEVICE std::uint64_t tie_key(const KeyStream& stream, std::uint64_t index) {
  return (std::uint64_t{coarse_key(stream, index)} << kFineKeyBits) | fine_key(stream, index);
}

}  // namespace itop
