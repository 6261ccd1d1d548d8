#pragma once

#include <cstdint>

#include "cuda/row_lookup.hpp"
#include "cuda/score_reader.hpp"
#include "cuda/selection_tables.hpp"
#include "cuda/simt.hpp"

/// The kernels of the histogram rounds: a digit of the key (then of the tie key, then of the index) a round, over all
/// weights. They serve selections over several processes, which must sum counts between the rounds, and the few
/// problems whose sampled bracket missed.
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
  for (int bin = simt::thread(); bin < kBins; bin += simt::num_threads()) shared.bins[bin] = 0;
  simt::sync_block();
  const std::int64_t first = (simt::block() - tables.chunk_offsets[row]) * kChunkWeights;
  const std::int64_t last = first + kChunkWeights < segment.numel ? first + kChunkWeights : segment.numel;
  const int shift = search.range.shift();
  const auto count = [&](std::int64_t position, std::uint64_t key) {
    if (!search.is_open || !test_bit(segment.candidates, position)) return;
    const RankedCandidate candidate = candidate_at(segment, row, position, key, search);
    const std::uint64_t value = search.value_of(candidate);
    if (search.side_of(candidate) != 0 || !search.range.contains(value)) return;
    simt::atomic_add(&shared.bins[RangeSearch::bin(value, search.range.low, shift)], 1u);
  };
  if (segment.scores == nullptr) {
    for (std::int64_t position = first + simt::thread(); position < last; position += simt::num_threads()) {
      count(position, kNoScore);
    }
  } else {
    bool finite = true;
    with_scores(segment.scores, segment.format, [&](const auto& scores) {
      for (std::int64_t position = first + simt::thread(); position < last; position += simt::num_threads()) {
        const auto bits = scores.load(position);
        finite = finite && scores.is_finite(bits);
        count(position, scores.key(bits));
      }
    });
    if (!finite) tables.not_finite[row] = 1;
  }
  simt::sync_block();
  std::uint64_t* bins = tables.search_bins + std::int64_t{segment.problem} * kBins;
  for (int bin = simt::thread(); bin < kBins; bin += simt::num_threads()) {
    if (shared.bins[bin] != 0) simt::atomic_add(&bins[bin], std::uint64_t{shared.bins[bin]});
  }
}

/// A block a chunk, kStreamThreads threads: writes the chosen bits of the problems that took part.
ITOP_DEVICE void write_chosen(const SelectionTables& tables) {
  const int row = row_of(tables.chunk_offsets, tables.num_segments, simt::block());
  const SegmentEntry& segment = tables.segments[row];
  const HistogramSearch search = tables.searches[segment.problem];
  if (!search.takes_part) return;
  const std::int64_t first_word = (simt::block() - tables.chunk_offsets[row]) * kChunkWords + simt::warp() * kWarpSize;
  const std::int64_t num_words = words_for(segment.numel);
  if (first_word >= num_words) return;
  Word chosen = 0;
  for (int half = 0; half < kWordBits; ++half) {
    const std::int64_t position = first_word * kWordBits + half * kWarpSize + simt::lane();
    bool is_chosen = false;
    if (position < segment.numel && test_bit(segment.candidates, position)) {
      std::uint64_t key = kNoScore;
      if (segment.scores != nullptr) key = ordered_key(segment.scores, segment.format, position);
      const RankedCandidate candidate = candidate_at(segment, row, position, key, search);
      const int side = search.side_of(candidate);
      is_chosen = side < 0 || (side == 0 && search.value_of(candidate) <= search.range.high);
    }
    const std::uint32_t bits = simt::ballot(is_chosen);
    if (simt::lane() == half / 2) chosen |= Word{bits} << (half % 2 * kWarpSize);
  }
  const std::int64_t word = first_word + simt::lane();
  if (word < num_words) segment.chosen[word] = chosen;
}

}  // namespace itop::cuda
