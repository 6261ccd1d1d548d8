#pragma once

#include <cstdint>

#include "cuda/index_walk.hpp"
#include "cuda/row_lookup.hpp"
#include "cuda/score_reader.hpp"
#include "cuda/score_tile.hpp"
#include "cuda/selection_tables.hpp"
#include "cuda/simt.hpp"

/// The pass over the weights: every candidate is split by its problem's window into chosen, inside and not chosen.
///
/// A warp owns a tile of 32 mask words, a word a lane, and masks are written whole (score_tile.hpp says how scores
/// become the bits of a word).
namespace itop::cuda {

/// Bits of one mask word: candidates below and inside a window, and at edges of it that are counted only.
struct SplitWord {
  Word below = 0;
  Word inside = 0;
  Word at_low = 0;
  Word at_high = 0;
};

/// Splits a tile of scores. Returns whether all that this lane has read are finite.
template <bool kCountsEdges, class Scores>
ITOP_DEVICE bool split_tile(const Scores& scores, std::int64_t first, std::int64_t numel, const Window& window,
                            SplitWord& word) {
  using Key = typename Scores::OrderedKey;
  constexpr int kPlanes = kCountsEdges ? 4 : 2;
  const Key low = static_cast<Key>(window.low);
  const Key high = static_cast<Key>(window.high);
  bool finite = true;
  Word planes[kPlanes] = {};
  read_tile(
      scores, first, numel,
      [&](typename Scores::Bits bits) {
        const Key key = scores.key(bits);
        finite = finite && scores.is_finite(bits);
        if constexpr (kCountsEdges) {
          return Sides<4>{key < low, key <= high, window.counts_low && key == low, window.counts_high && key == high};
        } else {
          return Sides<2>{key < low, key <= high};
        }
      },
      planes);
  word.below = planes[0];
  word.inside = planes[1] & ~planes[0];
  if constexpr (kCountsEdges) {
    word.at_low = planes[2];
    word.at_high = planes[3];
  }
  return finite;
}

/// Moves the bits inside that have a coarse tie key below `tie_low` to `below`, and drops those above `tie_high`.
ITOP_DEVICE void split_word_by_ties(const SegmentEntry& segment, std::int64_t word, const Window& window,
                                    SplitWord& split) {
  Word better = 0;
  Word undecided = 0;
  const std::int64_t first = word * kWordBits;
  if (segment.draws_blocks) {
    const auto counter = static_cast<std::uint64_t>(segment.index_map.offset + first) / kCoarseKeysPerBlock;
    for (int eight = 0; eight < kWordBits / kCoarseKeysPerBlock; ++eight) {
      if (((split.inside >> (eight * kCoarseKeysPerBlock)) & 0xFFu) == 0) continue;
      const PhiloxBlock block = philox(segment.stream.counter_block(counter + static_cast<std::uint64_t>(eight), 0),
                                       segment.stream.key0(), segment.stream.key1());
      std::uint32_t better_bits = 0;
      std::uint32_t undecided_bits = 0;
      ITOP_UNROLL
      for (int i = 0; i < kCoarseKeysPerBlock; ++i) {
        const auto key = static_cast<std::int32_t>((block.word[i / 2] >> (16 * (i % 2))) & 0xFFFFu);
        better_bits |= std::uint32_t{key < window.tie_low} << i;
        undecided_bits |= std::uint32_t{key >= window.tie_low && key <= window.tie_high} << i;
      }
      better |= Word{better_bits} << (eight * kCoarseKeysPerBlock);
      undecided |= Word{undecided_bits} << (eight * kCoarseKeysPerBlock);
    }
  } else {
    IndexWalk walk(segment.index_map, first);
    for (int bit = 0; bit < kWordBits && (split.inside >> bit) != 0; ++bit) {
      if ((split.inside >> bit) & 1u) {
        const auto key =
            static_cast<std::int32_t>(coarse_key(segment.stream, static_cast<std::uint64_t>(walk.index())));
        better |= Word{key < window.tie_low} << bit;
        undecided |= Word{key >= window.tie_low && key <= window.tie_high} << bit;
      }
      walk.advance();
    }
  }
  split.below |= split.inside & better;
  split.inside &= undecided;
}

/// Appends the lanes' bits inside to a list; a list that is full only goes on counting. Counts the keys in `bins` where
/// asked to. The whole warp takes part.
ITOP_DEVICE void list_inside(const SelectionTables& tables, const SegmentEntry& segment, int segment_number,
                             std::int64_t word, Word inside, std::uint64_t* length, const ListSpan& list,
                             std::uint32_t* bins, const Window& window) {
  std::uint64_t slot = simt::reserve(length, static_cast<std::uint32_t>(simt::popcount(inside)));
  const auto capacity = static_cast<std::uint64_t>(list.capacity);
  if (slot >= capacity) inside = 0;
  const int shift = RangeSearch{window.low, window.high, 1}.shift();
  while (simt::ballot(inside != 0) != 0) {
    const bool has_entry = inside != 0 && slot < capacity;
    std::uint32_t bin = kBins + static_cast<std::uint32_t>(simt::lane());  // matches no other lane
    if (has_entry) {
      const std::int64_t position = word * kWordBits + simt::lowest_bit(inside);
      std::uint64_t key = kNoScore;
      if (segment.scores != nullptr) key = ordered_key(segment.scores, segment.format, position);
      tables.entries[list.begin + static_cast<std::int64_t>(slot)] = {key, place_of(segment_number, position)};
      bin = RangeSearch::bin(key, window.low, shift);
      ++slot;
    }
    inside &= inside - 1;
    if (bins == nullptr) continue;
    const std::uint32_t same = simt::match(bin);
    if (has_entry && simt::lowest_bit(same) == simt::lane()) {
      simt::atomic_add(&bins[bin], static_cast<std::uint32_t>(simt::popcount(same)));
    }
  }
}

/// A chunk by one block of kStreamThreads threads; of those with Action::kRefineData only where `refines`. Warps are
/// independent of each other.
ITOP_DEVICE void split_chunk(const SelectionTables& tables, std::int64_t chunk, bool refines) {
  const int row = row_of(tables.chunk_offsets, tables.num_segments, chunk);
  const SegmentEntry& segment = tables.segments[row];
  const ProblemEntry& problem = tables.problems[segment.problem];
  ProblemState& state = tables.states[segment.problem];
  if (refines && state.action != Action::kRefineData) return;
  const std::int64_t first_word = (chunk - tables.chunk_offsets[row]) * kChunkWords + simt::warp() * kWarpSize;
  const std::int64_t num_words = words_for(segment.numel);
  if (first_word >= num_words) return;

  const std::int64_t word = first_word + simt::lane();
  const Word candidates = word < num_words ? segment.candidates[word] : Word{0};
  const Window window = state.window;
  SplitWord split;
  if (segment.scores == nullptr) {
    split.below = kNoScore < window.low ? ~Word{0} : Word{0};
    split.inside = kNoScore >= window.low && kNoScore <= window.high ? ~Word{0} : Word{0};
  } else {
    bool finite = true;
    const std::int64_t first = first_word * kWordBits;
    with_scores(segment.scores, segment.format, [&](const auto& scores) {
      finite = window.counts_low || window.counts_high ? split_tile<true>(scores, first, segment.numel, window, split)
                                                       : split_tile<false>(scores, first, segment.numel, window, split);
    });
    if (simt::ballot(!finite) != 0 && simt::lane() == 0) {
      tables.not_finite[row] = 1;
      tables.not_finite[tables.num_segments] = 1;
    }
  }
  split.below &= candidates;
  split.at_low &= candidates;
  split.at_high &= candidates;
  split.inside &= candidates & ~(split.at_low | split.at_high);
  if (window.by_ties && split.inside != 0) split_word_by_ties(segment, word, window, split);
  if (word < num_words) segment.chosen[word] = split.below;

  if (window.counts_low) simt::add_warp_sum(&state.at_low, static_cast<std::uint64_t>(simt::popcount(split.at_low)));
  if (window.counts_high) simt::add_warp_sum(&state.at_high, static_cast<std::uint64_t>(simt::popcount(split.at_high)));
  // A window of one key needs no histogram; one that was narrowed, or that ties have split, is as narrow as it gets.
  const bool is_fine = refines || window.by_ties;
  Tally& tally = is_fine ? state.fine : state.broad;
  std::uint32_t* bins =
      is_fine || window.low == window.high ? nullptr : tables.bins + std::int64_t{segment.problem} * kBins;
  simt::add_warp_sum(&tally.below, static_cast<std::uint64_t>(simt::popcount(split.below)));
  list_inside(tables, segment, row, word, split.inside, &tally.inside, is_fine ? problem.fine : problem.broad, bins,
              window);
}

}  // namespace itop::cuda
