#pragma once

#include <cstdint>

#include "cuda/range_search.hpp"
#include "cuda/selection_tables.hpp"
#include "cuda/simt.hpp"

namespace itop::cuda {

/// A count beyond 32 bits in shared memory, where only 32 bits can be added to at once. Without initialisers, like all
/// that lies there.
struct LongCount {
  std::uint32_t low;
  std::uint32_t high;

  ITOP_HOST_DEVICE std::uint64_t value() const { return (std::uint64_t{high} << 32) | low; }
};
ITOP_HOST_DEVICE std::uint64_t value_of(std::uint32_t count) { return count; }
ITOP_HOST_DEVICE std::uint64_t value_of(const LongCount& count) { return count.value(); }

ITOP_DEVICE void add_to(std::uint32_t& count, std::uint32_t more) { simt::atomic_add(&count, more); }
ITOP_DEVICE void add_to(LongCount& count, std::uint32_t more) {
  const std::uint32_t before = simt::atomic_add(&count.low, more);
  if (before + more < before) simt::atomic_add(&count.high, std::uint32_t{1});
}

/// Counts what one thread finds in shared bins. Equal values in a row, zeros mostly, are one atomic operation: bins
/// that all threads of a warp ask for take them one after the other.
template <class Count>
class RunCounter {
 public:
  ITOP_HOST_DEVICE explicit RunCounter(Count* bins) : bins_(bins) {}

  ITOP_DEVICE void add(std::uint32_t bin) {
    if (bin != bin_) flush();
    bin_ = bin;
    ++length_;
  }
  ITOP_DEVICE void flush() {
    if (length_ > 0) add_to(bins_[bin_], length_);
    length_ = 0;
  }

 private:
  Count* bins_;
  std::uint32_t bin_ = 0;
  std::uint32_t length_ = 0;
};

/// Shared memory of find_bin.
struct BinSearchShared {
  std::uint64_t warp_sums[kSearchThreads / kWarpSize];
  BinOfRank found;
};

/// The bin that holds the element of rank `rank` (from 1, at most the number of elements), found by the whole block;
/// every thread gets it. Begins and ends with a barrier.
template <class Count>
ITOP_DEVICE BinOfRank find_bin(const Count* bins, std::uint64_t rank, BinSearchShared& shared) {
  static_assert(kBins == 2 * kSearchThreads, "two bins a thread");
  simt::sync_block();
  const int thread = simt::thread();
  const std::uint64_t first = value_of(bins[2 * thread]);
  const std::uint64_t second = value_of(bins[2 * thread + 1]);
  const std::uint64_t in_warp = simt::inclusive_sum(first + second);
  if (simt::lane() == kWarpSize - 1) shared.warp_sums[simt::warp()] = in_warp;
  simt::sync_block();
  if (simt::warp() == 0) shared.warp_sums[simt::lane()] = simt::inclusive_sum(shared.warp_sums[simt::lane()]);
  simt::sync_block();
  const std::uint64_t warps_before = simt::warp() == 0 ? 0 : shared.warp_sums[simt::warp() - 1];
  const std::uint64_t up_to_here = warps_before + in_warp;
  const std::uint64_t before = up_to_here - first - second;
  if (rank > before && rank <= up_to_here) {
    const bool in_first = rank <= before + first;
    shared.found.bin = static_cast<std::uint32_t>(in_first ? 2 * thread : 2 * thread + 1);
    shared.found.before = in_first ? before : before + first;
    shared.found.count = in_first ? first : second;
  }
  simt::sync_block();
  return shared.found;
}

/// Sets all bins to zero; a barrier must follow before they are used.
template <class Count>
ITOP_DEVICE void clear_bins(Count* bins) {
  for (int bin = simt::thread(); bin < kBins; bin += simt::num_threads()) bins[bin] = Count{};
}

}  // namespace itop::cuda
