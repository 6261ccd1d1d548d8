#pragma once

#include <cstdint>

#include "cuda/block_search.hpp"
#include "cuda/row_lookup.hpp"
#include "cuda/score_reader.hpp"
#include "cuda/score_tile.hpp"
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

/// Counts the candidates at [first, last) of a segment by the bins of a search, by the whole block. Returns whether all
/// scores that this thread has read are finite.
/// @param first a multiple of kWordBits
template <class Count>
ITOP_DEVICE bool count_positions(const SegmentEntry& segment, int segment_number, std::int64_t first, std::int64_t last,
                                 const HistogramSearch& search, Count* bins) {
  const int shift = search.range.shift();
  RunCounter<Count> counter(bins);
  const auto count = [&](std::int64_t position, std::uint64_t key) {
    if (!search.is_open || !test_bit(segment.candidates, position)) return;
    const RankedCandidate candidate = candidate_at(segment, segment_number, position, key, search);
    const std::uint64_t value = search.value_of(candidate);
    if (search.side_of(candidate) != 0 || !search.range.contains(value)) return;
    counter.add(RangeSearch::bin(value, search.range.low, shift));
  };
  bool finite = true;
  if (segment.scores == nullptr) {
    for (std::int64_t position = first + simt::thread(); position < last; position += simt::num_threads()) {
      count(position, kNoScore);
    }
  } else {
    with_scores(segment.scores, segment.format, [&](const auto& scores) {
      finite = for_each_score(scores, first, last,
                              [&](std::int64_t position, auto bits) { count(position, scores.key(bits)); });
    });
  }
  counter.flush();
  return finite;
}

/// Writes the chosen bits of a tile of 32 words, by the whole warp.
ITOP_DEVICE void write_tile(const SegmentEntry& segment, int segment_number, std::int64_t first_word,
                            const HistogramSearch& search) {
  // The last key of which all are chosen, and the key of which some may be: it follows, or there is none.
  const bool splits_key = search.stage != Stage::kKey;
  const std::uint64_t last_key = splits_key ? search.exact_key - 1 : search.range.high;
  Word planes[2] = {};
  if (segment.scores == nullptr) {
    planes[0] = kNoScore <= last_key ? ~Word{0} : Word{0};
    planes[1] = splits_key && kNoScore == search.exact_key ? ~Word{0} : Word{0};
  } else {
    with_scores(segment.scores, segment.format, [&](const auto& scores) {
      read_tile(
          scores, first_word * kWordBits, segment.numel,
          [&](auto bits) {
            const std::uint64_t key = scores.key(bits);
            return Sides<2>{key <= last_key, splits_key && key == search.exact_key};
          },
          planes);
    });
  }
  const std::int64_t word = first_word + simt::lane();
  if (word >= words_for(segment.numel)) return;
  const Word candidates = segment.candidates[word];
  Word chosen = planes[0] & candidates;
  for (Word ties = planes[1] & candidates; ties != 0; ties &= ties - 1) {
    const int bit = simt::lowest_bit(ties);
    const RankedCandidate candidate =
        candidate_at(segment, segment_number, word * kWordBits + bit, search.exact_key, search);
    const int side = search.side_of(candidate);
    const bool is_chosen = side < 0 || (side == 0 && search.value_of(candidate) <= search.range.high);
    chosen |= Word{is_chosen} << bit;
  }
  segment.chosen[word] = chosen;
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
  LongCount bins[kBins];
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
