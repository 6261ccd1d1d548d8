#pragma once

#include <cstdint>

#include "cuda/range_search.hpp"
#include "cuda/selection_tables.hpp"
#include "cuda/simt.hpp"

namespace itop::cuda {

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
  const Count first = bins[2 * thread];
  const Count second = bins[2 * thread + 1];
  const Count in_warp = simt::inclusive_sum(first + second);
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
  for (int bin = simt::thread(); bin < kBins; bin += simt::num_threads()) bins[bin] = 0;
}

}  // namespace itop::cuda
