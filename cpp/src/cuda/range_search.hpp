#pragma once

#include <cstdint>

#include "itop/host_device.hpp"

namespace itop::cuda {

/// Bins of the histograms that a search narrows by: a digit of 11 bits, 8 KB of shared memory.
inline constexpr int kDigitBits = 11;
inline constexpr int kBins = 1 << kDigitBits;

/// Where in a histogram the element of some rank lies. Without initialisers, like all that lies in shared memory.
struct BinOfRank {
  std::uint32_t bin;
  std::uint64_t before;  ///< elements in lower bins
  std::uint64_t count;   ///< elements in this bin
};

/// Looks for the `rank`-th smallest (from 1) of the integers in [low, high], a histogram at a time. Each round cuts the
/// range into at most kBins equal bins, whatever its width, so the first round already separates values that lie close
/// together.
struct RangeSearch {
  std::uint64_t low = 0;
  std::uint64_t high = ~std::uint64_t{0};
  std::uint64_t rank = 1;

  ITOP_HOST_DEVICE bool is_single() const { return low == high; }
  ITOP_HOST_DEVICE bool contains(std::uint64_t value) const { return value >= low && value <= high; }

  ITOP_HOST_DEVICE int shift() const {
    int bits = 0;
    for (std::uint64_t width = high - low; width != 0; width >>= 1) ++bits;
    return bits > kDigitBits ? bits - kDigitBits : 0;
  }
  /// @param value one that the range contains
  ITOP_HOST_DEVICE static std::uint32_t bin(std::uint64_t value, std::uint64_t low, int shift) {
    return static_cast<std::uint32_t>((value - low) >> shift);
  }

  /// Goes on inside the bin that holds the rank.
  ITOP_HOST_DEVICE void enter(const BinOfRank& found) {
    const int shift_bits = shift();
    const std::uint64_t last_of_bin = (std::uint64_t{1} << shift_bits) - 1;
    low += static_cast<std::uint64_t>(found.bin) << shift_bits;
    if (high - low > last_of_bin) high = low + last_of_bin;
    rank -= found.before;
  }
};

}  // namespace itop::cuda
