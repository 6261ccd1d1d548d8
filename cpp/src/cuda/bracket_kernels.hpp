#pragma once

#include <cstdint>

#include "cuda/block_search.hpp"
#include "cuda/row_lookup.hpp"
#include "cuda/score_reader.hpp"
#include "cuda/selection_tables.hpp"
#include "cuda/simt.hpp"

/// The first two kernels of a selection: count the candidates and sample their keys; find a bracket of keys around the
/// k-th.
namespace itop::cuda {

struct CountShared {
  std::uint64_t warp_sums[kStreamThreads / kWarpSize];
};

ITOP_DEVICE void count_chunk(const SelectionTables& tables, std::int64_t chunk, CountShared& shared) {
  const int row = row_of(tables.chunk_offsets, tables.num_segments, chunk);
  const SegmentEntry& segment = tables.segments[row];
  const std::int64_t word = (chunk - tables.chunk_offsets[row]) * kChunkWords + simt::thread();
  std::uint64_t count = 0;
  if (word < words_for(segment.numel)) count = static_cast<std::uint64_t>(simt::popcount(segment.candidates[word]));
  const std::uint64_t of_warp = simt::warp_sum(count);
  if (simt::lane() == 0) shared.warp_sums[simt::warp()] = of_warp;
  simt::sync_block();
  if (simt::thread() != 0) return;
  std::uint64_t sum = 0;
  for (int warp = 0; warp < simt::num_threads() / kWarpSize; ++warp) sum += shared.warp_sums[warp];
  if (sum != 0) simt::atomic_add(&tables.states[segment.problem].num_candidates, sum);
}

/// Group `i` of the sample: all groups of a small problem, else groups at scattered places so that rows do not alias.
ITOP_HOST_DEVICE std::int64_t sampled_group(const ProblemEntry& problem, std::int64_t i) {
  if (problem.samples_all) return i;
  const std::int64_t num_groups = problem.num_words * (kWordBits / kSampleGroup);
  const double stride = static_cast<double>(num_groups) / static_cast<double>(problem.num_sample_groups);
  const double jitter = static_cast<double>((static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15ULL) >> 40) / 16777216.0;
  const auto group = static_cast<std::int64_t>((static_cast<double>(i) + jitter) * stride);
  return group < num_groups ? group : num_groups - 1;
}

/// The segment of a problem to which one of the problem's words belongs.
ITOP_DEVICE int segment_of_word(const SelectionTables& tables, const ProblemEntry& problem, std::int64_t word) {
  int first = problem.first_segment;
  int last = problem.first_segment + problem.num_segments - 1;
  while (first < last) {
    const int middle = (first + last + 1) / 2;
    if (tables.segments[middle].first_word <= word) {
      first = middle;
    } else {
      last = middle - 1;
    }
  }
  return first;
}

ITOP_DEVICE void sample_block(const SelectionTables& tables, std::int64_t block) {
  const int row = row_of(tables.sample_block_offsets, tables.num_problems, block);
  const ProblemEntry& problem = tables.problems[row];
  const std::int64_t i =
      (block - tables.sample_block_offsets[row]) * kSampleGroupsPerBlock + simt::thread() / kSampleGroup;
  bool taken = false;
  std::uint64_t key = 0;
  if (i < problem.num_sample_groups) {
    const std::int64_t weight = sampled_group(problem, i) * kSampleGroup + simt::thread() % kSampleGroup;
    const SegmentEntry& segment = tables.segments[segment_of_word(tables, problem, weight / kWordBits)];
    const std::int64_t position = weight - segment.first_word * kWordBits;
    taken = position < segment.numel && test_bit(segment.candidates, position);
    if (taken) key = ordered_key(segment.scores, segment.format, position);
  }
  const std::uint64_t slot = simt::reserve(&tables.states[row].num_sampled, taken ? 1 : 0);
  if (taken) tables.samples[problem.sample_begin + static_cast<std::int64_t>(slot)] = key;
}

/// Blocks [0, num_chunks) count, the others sample. kStreamThreads threads.
ITOP_DEVICE void count_and_sample(const SelectionTables& tables, CountShared& shared) {
  if (simt::block() < tables.num_chunks) {
    count_chunk(tables, simt::block(), shared);
  } else {
    sample_block(tables, simt::block() - tables.num_chunks);
  }
}

struct BracketShared {
  std::uint32_t bins[2][kBins];
  BinSearchShared search;
};

/// Sampled keys that a thread has under way at once: a block alone waits for memory and little else.
inline constexpr int kSampleLoads = 8;

/// Finds the keys of two ranks in a sample of `size`, exactly, and how many of the sample have each, by the whole
/// block.
ITOP_DEVICE void search_sample(const std::uint64_t* sample, std::int64_t size, RangeSearch (&ranges)[2],
                               std::uint64_t (&num_equal)[2], BracketShared& shared) {
  while (!ranges[0].is_single() || !ranges[1].is_single()) {
    // While the two searches go on in the same range they share a histogram.
    const bool together = ranges[0].low == ranges[1].low && ranges[0].high == ranges[1].high;
    const bool counts[2] = {!ranges[0].is_single(), !ranges[1].is_single() && !together};
    const int shifts[2] = {ranges[0].shift(), ranges[1].shift()};
    clear_bins(shared.bins[0]);
    clear_bins(shared.bins[1]);
    simt::sync_block();
    RunCounter<std::uint32_t> counters[2] = {RunCounter(shared.bins[0]), RunCounter(shared.bins[1])};
    const std::int64_t step = simt::num_threads();
    for (std::int64_t first = simt::thread(); first < size; first += kSampleLoads * step) {
      std::uint64_t keys[kSampleLoads];
      ITOP_UNROLL
      for (int i = 0; i < kSampleLoads; ++i) {
        keys[i] = first + i * step < size ? sample[first + i * step] : 0;
      }
      ITOP_UNROLL
      for (int i = 0; i < kSampleLoads; ++i) {
        if (first + i * step >= size) continue;
        ITOP_UNROLL
        for (int which = 0; which < 2; ++which) {
          if (counts[which] && ranges[which].contains(keys[i])) {
            counters[which].add(RangeSearch::bin(keys[i], ranges[which].low, shifts[which]));
          }
        }
      }
    }
    counters[0].flush();
    counters[1].flush();
    const bool second_is_open = !ranges[1].is_single();
    if (counts[0]) {
      const BinOfRank found = find_bin(shared.bins[0], ranges[0].rank, shared.search);
      ranges[0].enter(found);
      num_equal[0] = found.count;
    }
    if (second_is_open) {
      const BinOfRank found = find_bin(shared.bins[together ? 0 : 1], ranges[1].rank, shared.search);
      ranges[1].enter(found);
      num_equal[1] = found.count;
    }
    simt::sync_block();
  }
}

ITOP_HOST_DEVICE std::int64_t clamp_rank(std::int64_t rank, std::int64_t size) {
  return rank < 1 ? 1 : rank > size ? size : rank;
}

/// Candidates that share a key on an edge of the bracket would overflow its list: then they are counted and not listed.
ITOP_HOST_DEVICE void count_heavy_edges(Window& window, const SampleRanks& ranks, std::int64_t size,
                                        const std::uint64_t (&num_equal)[2], std::int64_t num_candidates,
                                        std::int64_t capacity) {
  if (window.low == window.high) return;
  const auto width = static_cast<double>(clamp_rank(ranks.high, size) - clamp_rank(ranks.low, size) + 1);
  const double at_low = ranks.low >= 1 ? static_cast<double>(num_equal[0]) : 0.0;
  const double at_high = ranks.high <= size ? static_cast<double>(num_equal[1]) : 0.0;
  const double share = static_cast<double>(num_candidates) / static_cast<double>(size);
  if ((width + at_low + at_high) * share < 0.9 * static_cast<double>(capacity)) return;
  window.counts_low = 8.0 * at_low > width;
  window.counts_high = 8.0 * at_high > width;
}

/// One block of kSearchThreads threads a problem: decides how the pass over the weights splits its candidates.
ITOP_DEVICE void find_bracket(const SelectionTables& tables, BracketShared& shared) {
  const ProblemEntry& problem = tables.problems[simt::block()];
  ProblemState& state = tables.states[simt::block()];
  const auto num_candidates = static_cast<std::int64_t>(state.num_candidates);
  Window window;  // low = high = 0: nothing is below, and no key is 0
  Action action = Action::kSettled;
  if (problem.k > 0 && problem.k >= num_candidates) {
    window.low = window.high = problem.highest_key;  // every key is below
  } else if (problem.k > 0 && !problem.has_scores) {
    window = tie_window(kNoScore, state.num_candidates, static_cast<std::uint64_t>(problem.k));
    action = Action::kByTies;
  } else if (problem.k > 0) {
    action = Action::kByKey;
    window.high = problem.highest_key;
    const auto size = static_cast<std::int64_t>(state.num_sampled);
    if (size > 0) {
      const SampleRanks ranks = sample_ranks(size, problem.k, num_candidates);
      RangeSearch ranges[2];
      ranges[0].high = ranges[1].high = problem.highest_key;
      ranges[0].rank = static_cast<std::uint64_t>(clamp_rank(ranks.low, size));
      ranges[1].rank = static_cast<std::uint64_t>(clamp_rank(ranks.high, size));
      std::uint64_t num_equal[2] = {};
      search_sample(tables.samples + problem.sample_begin, size, ranges, num_equal, shared);
      if (ranks.low >= 1) window.low = ranges[0].low;
      if (ranks.high <= size) window.high = ranges[1].low;
      count_heavy_edges(window, ranks, size, num_equal, num_candidates, problem.broad.capacity);
    }
  }
  if (simt::thread() == 0) {
    state.window = window;
    state.action = action;
  }
}

}  // namespace itop::cuda
