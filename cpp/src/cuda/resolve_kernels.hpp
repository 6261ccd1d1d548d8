#pragma once

#include <cstdint>

#include "cuda/block_search.hpp"
#include "cuda/histogram_kernels.hpp"
#include "cuda/row_lookup.hpp"
#include "cuda/selection_tables.hpp"
#include "cuda/simt.hpp"
#include "cuda/split_kernels.hpp"

/// The kernels after the pass over the weights: narrow the bracket by the histogram of what fell inside, split the
/// listed candidates again, and order the few that remain.
namespace itop::cuda {

struct NarrowShared {
  std::uint32_t bins[kBins];
  BinSearchShared search;
};

/// One block of kSearchThreads threads a problem.
ITOP_DEVICE void narrow_window(const SelectionTables& tables, NarrowShared& shared) {
  const ProblemEntry& problem = tables.problems[simt::block()];
  ProblemState& state = tables.states[simt::block()];
  if (state.action != Action::kByKey) return;
  const auto k = static_cast<std::uint64_t>(problem.k);
  const Tally tally = state.broad;
  const std::uint64_t at_low = state.at_low;
  const std::uint64_t at_high = state.at_high;
  const std::uint64_t up_to_inside = tally.below + at_low + tally.inside;
  Window window = state.window;
  Action action = Action::kUnresolved;
  const bool is_listed = tally.inside <= static_cast<std::uint64_t>(problem.broad.capacity);
  // The list does not hold what is at a counted edge, so the weights themselves are split again.
  const Action next = window.counts_low || window.counts_high ? Action::kRefineData : Action::kRefineList;
  if (tally.below == k) {
    action = Action::kSettled;
  } else if (tally.below < k && tally.below + at_low >= k) {
    window = tie_window(window.low, at_low, k - tally.below);
    action = next;
  } else if (tally.below < k && up_to_inside >= k) {
    const std::uint64_t wanted = k - tally.below - at_low;
    if (window.low == window.high) {
      window = tie_window(window.low, tally.inside, wanted);
      action = is_listed ? Action::kRefineList : Action::kRefineData;
    } else if (is_listed) {
      const std::uint32_t* bins = tables.bins + simt::block() * kBins;
      for (int bin = simt::thread(); bin < kBins; bin += simt::num_threads()) shared.bins[bin] = bins[bin];
      RangeSearch range{window.low, window.high, wanted};
      const BinOfRank found = find_bin(shared.bins, wanted, shared.search);
      range.enter(found);
      if (window.counts_low && range.low == window.low) ++range.low;
      if (window.counts_high && range.high == window.high) --range.high;
      if (range.is_single()) {
        window = tie_window(range.low, found.count, range.rank);
      } else {
        window = Window{};
        window.low = range.low;
        window.high = range.high;
      }
      action = next;
    }
  } else if (tally.below < k && up_to_inside + at_high >= k) {
    window = tie_window(window.high, at_high, k - up_to_inside);
    action = next;
  }
  simt::sync_block();  // everybody has read the state
  if (simt::thread() == 0) {
    state.window = window;
    state.action = action;
    if (action == Action::kRefineData) *tables.refines_data = 1;
  }
}

ITOP_DEVICE void set_chosen(const SelectionTables& tables, std::uint64_t place) {
  const std::int64_t position = position_of(place);
  simt::atomic_or(&tables.segments[segment_of(place)].chosen[position / kWordBits], Word{1} << (position % kWordBits));
}

/// Splits listed candidates by the narrowed window; those inside go on to the fine list. kStreamThreads threads.
ITOP_DEVICE void refine_list(const SelectionTables& tables) {
  const int row = row_of(tables.list_block_offsets, tables.num_problems, simt::block());
  const ProblemEntry& problem = tables.problems[row];
  ProblemState& state = tables.states[row];
  if (state.action != Action::kRefineList) return;
  const auto length = static_cast<std::int64_t>(state.broad.inside);
  const Window window = state.window;
  const std::int64_t first = (simt::block() - tables.list_block_offsets[row]) * kListChunk;
  std::uint64_t num_below = 0;
  for (int step = 0; step < kListSteps; ++step) {
    const std::int64_t i = first + step * kStreamThreads + simt::thread();
    if (i - simt::lane() >= length) break;  // the whole warp is past the end
    bool below = false;
    bool inside = false;
    ListEntry entry;
    if (i < length) {
      entry = tables.entries[problem.broad.begin + i];
      below = entry.key < window.low;
      inside = !below && entry.key <= window.high;
      if (inside && window.by_ties) {
        const SegmentEntry& segment = tables.segments[segment_of(entry.place)];
        const auto index = static_cast<std::uint64_t>(segment.index_map(position_of(entry.place)));
        const auto key = static_cast<std::int32_t>(coarse_key(segment.stream, index));
        below = key < window.tie_low;
        inside = !below && key <= window.tie_high;
      }
      if (below) set_chosen(tables, entry.place);
    }
    num_below += below ? 1 : 0;
    const std::uint64_t slot = simt::reserve(&state.fine.inside, inside ? 1 : 0);
    if (inside && slot < static_cast<std::uint64_t>(problem.fine.capacity)) {
      tables.entries[problem.fine.begin + static_cast<std::int64_t>(slot)] = entry;
    }
  }
  simt::add_warp_sum(&state.fine.below, num_below);
}

/// As many blocks as the lists have chunks, then kRefiningBlocks or fewer, kStreamThreads threads each: splits listed
/// candidates, or all weights again where too many to list shared the threshold.
ITOP_DEVICE void refine(const SelectionTables& tables) {
  if (simt::block() < tables.list_block_offsets[tables.num_problems]) return refine_list(tables);
  if (*tables.refines_data == 0) return;
  for (int round = 0;; ++round) {
    // Computed anew for every chunk: registers are for the scores under way.
    const std::int64_t num_list_blocks = tables.list_block_offsets[tables.num_problems];
    const std::int64_t chunk = simt::block() - num_list_blocks + round * (simt::num_blocks() - num_list_blocks);
    if (chunk >= tables.num_chunks) return;
    split_chunk(tables, chunk, true);
  }
}

/// So many candidates are ordered by comparing each with all others.
inline constexpr std::uint64_t kRankable = 1024;

struct RankShared {
  std::uint32_t bins[kBins];
  BinSearchShared search;
  RankedCandidate ranked[kRankable];
  std::uint64_t place[kRankable];
  std::uint32_t num_ranked;
};

/// One after the other.
union FinishShared {
  RankShared rank;
  ExactShared exact;
};

ITOP_DEVICE std::uint64_t tie_key_of(const SelectionTables& tables, std::uint64_t place) {
  const SegmentEntry& segment = tables.segments[segment_of(place)];
  return tie_key(segment.stream, static_cast<std::uint64_t>(segment.index_map(position_of(place))));
}

ITOP_DEVICE RankedCandidate ranked_candidate(const SelectionTables& tables, const ListEntry& entry) {
  const int segment = segment_of(entry.place);
  const std::int64_t index = tables.segments[segment].index_map(position_of(entry.place));
  return {entry.key, tie_key(tables.segments[segment].stream, static_cast<std::uint64_t>(index)),
          place_of(segment, index)};
}

/// Takes the `wanted` best of a list, exactly. Returns false where more candidates than can be ranked share one tie
/// key.
ITOP_DEVICE bool choose_from_list(const SelectionTables& tables, const ListEntry* list, std::int64_t length,
                                  const Window& window, std::uint64_t wanted, RankShared& shared) {
  RangeSearch keys{window.low, window.high, wanted};
  RangeSearch ties{0, ~std::uint64_t{0}, wanted};
  bool at_ties = window.by_ties;
  if (at_ties) {
    ties.low = static_cast<std::uint64_t>(window.tie_low) << 48;
    ties.high = (static_cast<std::uint64_t>(window.tie_high) << 48) | ((std::uint64_t{1} << 48) - 1);
  }
  auto undecided = static_cast<std::uint64_t>(length);
  while (undecided > kRankable) {
    if (!at_ties && keys.is_single()) {
      at_ties = true;
      ties.rank = keys.rank;
    }
    RangeSearch& range = at_ties ? ties : keys;
    if (range.is_single()) return false;
    const int shift = range.shift();
    clear_bins(shared.bins);
    simt::sync_block();
    for (std::int64_t i = simt::thread(); i < length; i += simt::num_threads()) {
      const ListEntry entry = list[i];
      if (!keys.contains(entry.key)) continue;
      const std::uint64_t value = at_ties ? tie_key_of(tables, entry.place) : entry.key;
      if (range.contains(value)) simt::atomic_add(&shared.bins[RangeSearch::bin(value, range.low, shift)], 1u);
    }
    const BinOfRank found = find_bin(shared.bins, range.rank, shared.search);
    range.enter(found);
    undecided = found.count;
    simt::sync_block();
  }

  if (simt::thread() == 0) shared.num_ranked = 0;
  simt::sync_block();
  for (std::int64_t i = simt::thread(); i < length; i += simt::num_threads()) {
    const ListEntry entry = list[i];
    if (entry.key > keys.high) continue;
    const RankedCandidate candidate = ranked_candidate(tables, entry);
    if (entry.key < keys.low || (at_ties && candidate.tie < ties.low)) {
      set_chosen(tables, entry.place);
    } else if (!at_ties || candidate.tie <= ties.high) {
      const std::uint32_t slot = simt::atomic_add(&shared.num_ranked, 1u);
      shared.ranked[slot] = candidate;
      shared.place[slot] = entry.place;
    }
  }
  simt::sync_block();
  const std::uint64_t rank = at_ties ? ties.rank : keys.rank;
  for (std::uint32_t i = static_cast<std::uint32_t>(simt::thread()); i < shared.num_ranked;
       i += static_cast<std::uint32_t>(simt::num_threads())) {
    std::uint64_t num_better = 0;
    for (std::uint32_t other = 0; other < shared.num_ranked; ++other) {
      num_better += shared.ranked[other].precedes(shared.ranked[i]) ? 1 : 0;
    }
    if (num_better < rank) set_chosen(tables, shared.place[i]);
  }
  return true;
}

/// One block of kSearchThreads threads a problem: orders what is left on the fine list. Where the bracket missed or a
/// list was too short it looks at all weights again.
ITOP_DEVICE void finish(const SelectionTables& tables, FinishShared& shared) {
  const ProblemEntry& problem = tables.problems[simt::block()];
  const ProblemState& state = tables.states[simt::block()];
  const Action action = state.action;
  if (action == Action::kSettled) return;
  bool is_resolved = action != Action::kUnresolved;
  if (is_resolved) {
    const Tally fine = state.fine;
    // The second pass over the weights wrote all chosen bits again; otherwise they add to those of the first.
    const std::uint64_t num_chosen = fine.below + (action == Action::kRefineData ? 0 : state.broad.below);
    const auto k = static_cast<std::uint64_t>(problem.k);
    is_resolved = num_chosen <= k && num_chosen + fine.inside >= k &&
                  fine.inside <= static_cast<std::uint64_t>(problem.fine.capacity);
    if (is_resolved && num_chosen < k) {
      is_resolved = choose_from_list(tables, tables.entries + problem.fine.begin,
                                     static_cast<std::int64_t>(fine.inside), state.window, k - num_chosen, shared.rank);
    }
  }
  if (is_resolved || tables.not_finite[tables.num_segments] != 0) return;
  simt::sync_block();
  choose_exactly(tables, problem, static_cast<std::int64_t>(state.num_candidates), shared.exact);
}

}  // namespace itop::cuda
