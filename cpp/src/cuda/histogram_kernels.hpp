#pragma once

#include <cstdint>

#include "cuda/block_search.hpp"
#include "cuda/row_lookup.hpp"
#include "cuda/score_reader.hpp"
#include "cuda/selection_tables.hpp"
#include "cuda/simt.hpp"

/// Exact selection without samples: a digit of the key (then of the tie key, then of the index) a round, over all
/// weights. As kernels of its own for selections over several processes, which must sum counts between the rounds;
/// inside the last kernel of a selection for the few problems whose sampled bracket missed.
namespace itop::cuda {

ITOP_DEVICE RankedCandidate candidate_at(const SegmentEntry& segment, int segment_number, std::int64_t position,
                                         std::uint64_t key, const HistogramSearch& search) {
  RankedCandidate candidate{key, 0, 0};
  if (search.stage == Stage::kKey || key != search.exact_key) return candidate;
  const std::int64_t index = segment.index_map(position);
  candidate.tie = tie_key(segment.stream, static_cast<std::uint64_t>(index));
  candidate.index = place_of(segment_number, index);
  return candidate;
}

/// Loads that a thread has under way at once where it reads scores in their order.
inline constexpr int kLoadsAtOnce = 8;

/// Counts the candidates at [first, last) of a segment by the bins of a search, by the whole block. Returns whether all
/// scores that this thread has read are finite.
template <class Count>
ITOP_DEVICE bool count_positions(const SegmentEntry& segment, int segment_number, std::int64_t first, std::int64_t last,
                                 const HistogramSearch& search, Count* bins) {
  const int shift = search.range.shift();
  const auto count = [&](std::int64_t position, std::uint64_t key) {
    if (!search.is_open || !test_bit(segment.candidates, position)) return;
    const RankedCandidate candidate = candidate_at(segment, segment_number, position, key, search);
    const std::uint64_t value = search.value_of(candidate);
    if (search.side_of(candidate) != 0 || !search.range.contains(value)) return;
    simt::atomic_add(&bins[RangeSearch::bin(value, search.range.low, shift)], Count{1});
  };
  if (segment.scores == nullptr) {
    for (std::int64_t position = first + simt::thread(); position < last; position += simt::num_threads()) {
      count(position, kNoScore);
    }
    return true;
  }
  bool finite = true;
  with_scores(segment.scores, segment.format, [&](const auto& scores) {
    using Bits = decltype(scores.load(0));
    const std::int64_t step = simt::num_threads();
    for (std::int64_t begin = first + simt::thread(); begin < last; begin += kLoadsAtOnce * step) {
      Bits bits[kLoadsAtOnce];
      ITOP_UNROLL
      for (int i = 0; i < kLoadsAtOnce; ++i) {
        bits[i] = begin + i * step < last ? scores.load(begin + i * step) : Bits{0};
      }
      ITOP_UNROLL
      for (int i = 0; i < kLoadsAtOnce; ++i) {
        if (begin + i * step >= last) continue;
        finite = finite && scores.is_finite(bits[i]);
        count(begin + i * step, scores.key(bits[i]));
      }
    }
  });
  return finite;
}

/// Writes the chosen bits of a tile of 32 words, by the whole warp.
ITOP_DEVICE void write_tile(const SegmentEntry& segment, int segment_number, std::int64_t first_word,
                            const HistogramSearch& search) {
  Word chosen = 0;
  for (int half = 0; half < kWordBits; ++half) {
    const std::int64_t position = first_word * kWordBits + half * kWarpSize + simt::lane();
    bool is_chosen = false;
    if (position < segment.numel && test_bit(segment.candidates, position)) {
      std::uint64_t key = kNoScore;
      if (segment.scores != nullptr) key = ordered_key(segment.scores, segment.format, position);
      const RankedCandidate candidate = candidate_at(segment, segment_number, position, key, search);
      const int side = search.side_of(candidate);
      is_chosen = side < 0 || (side == 0 && search.value_of(candidate) <= search.range.high);
    }
    const std::uint32_t bits = simt::ballot(is_chosen);
    if (simt::lane() == half / 2) chosen |= Word{bits} << (half % 2 * kWarpSize);
  }
  const std::int64_t word = first_word + simt::lane();
  if (word < words_for(segment.numel)) segment.chosen[word] = chosen;
}

struct HistogramShared {
  std::uint32_t bins[kBins];
};

/// A block a chunk, kStreamThreads threads: counts candidates by the bins of their problem's search.
ITOP_DEVICE void count_bins(const SelectionTables& tables, HistogramShared& shared) {
  const int row = row_of(tables.chunk_offsets, tables.num_segments, simt::block());
  const SegmentEntry& segment = tables.segments[row];
  const HistogramSearch search = tables.searches[segment.problem];
  const bool checks_finite = tables.checks_finite && segment.scores != nullptr;
  if (!search.is_open && !checks_finite) return;
  clear_bins(shared.bins);
  simt::sync_block();
  const std::int64_t first = (simt::block() - tables.chunk_offsets[row]) * kChunkWeights;
  const std::int64_t last = first + kChunkWeights < segment.numel ? first + kChunkWeights : segment.numel;
  if (!count_positions(segment, row, first, last, search, shared.bins)) tables.not_finite[row] = 1;
  simt::sync_block();
  std::uint64_t* bins = tables.search_bins + std::int64_t{segment.problem} * kBins;
  for (int bin = simt::thread(); bin < kBins; bin += simt::num_threads()) {
    if (shared.bins[bin] != 0) simt::atomic_add(&bins[bin], std::uint64_t{shared.bins[bin]});
  }
}

/// A block a chunk, kStreamThreads threads: writes the chosen bits.
ITOP_DEVICE void write_chosen(const SelectionTables& tables) {
  const int row = row_of(tables.chunk_offsets, tables.num_segments, simt::block());
  const SegmentEntry& segment = tables.segments[row];
  const HistogramSearch search = tables.searches[segment.problem];
  const std::int64_t first_word = (simt::block() - tables.chunk_offsets[row]) * kChunkWords + simt::warp() * kTileWords;
  if (first_word < words_for(segment.numel)) write_tile(segment, row, first_word, search);
}

struct ExactShared {
  std::uint64_t bins[kBins];
  BinSearchShared search;
};

/// A whole problem by one block of kSearchThreads threads: finds its last candidate digit by digit and writes the
/// chosen bits. Slow, and always right.
ITOP_DEVICE void choose_exactly(const SelectionTables& tables, const ProblemEntry& problem, std::int64_t num_candidates,
                                ExactShared& shared) {
  HistogramSearch search = HistogramSearch::of(problem, num_candidates);
  const int end = problem.first_segment + problem.num_segments;
  while (search.is_open) {
    simt::sync_block();
    clear_bins(shared.bins);
    simt::sync_block();
    for (int i = problem.first_segment; i < end; ++i) {
      count_positions(tables.segments[i], i, 0, tables.segments[i].numel, search, shared.bins);
    }
    search.enter(find_bin(shared.bins, search.range.rank, shared.search));
  }
  for (int i = problem.first_segment; i < end; ++i) {
    const std::int64_t num_words = words_for(tables.segments[i].numel);
    const std::int64_t step = simt::num_threads() / kWarpSize * kTileWords;
    for (std::int64_t word = simt::warp() * kTileWords; word < num_words; word += step) {
      write_tile(tables.segments[i], i, word, search);
    }
  }
}

}  // namespace itop::cuda
