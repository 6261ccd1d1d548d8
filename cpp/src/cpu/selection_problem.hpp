#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "cpu/kernels.hpp"
#include "itop/selection.hpp"

namespace itop::cpu {

inline constexpr std::int64_t kChunkWords = 2048;  // 131,072 weights: small enough to balance, large enough to stream
inline constexpr std::int64_t kSmallSelection = 1 << 14;  // up to here candidates are resolved without a bracket

/// A piece of a segment that one thread goes through.
struct Chunk {
  std::size_t segment = 0;
  WordRange range;
  PassResult result;
};

/// What is known of the k-th best candidate as the rounds go on.
enum class Stage : std::uint8_t {
  kBracketed,  ///< its key lies in [low, high], if the sample did not mislead
  kTies,       ///< its key is `low`; `wanted` of the `num_equal` candidates with that key are to be taken by tie keys
  kDone,
};

/// One k-selection on its way through the rounds.
struct Problem {
  const Selection* selection = nullptr;
  std::vector<Chunk> chunks;
  std::int64_t num_scored_segments = 0;  // over all parts, as is every count below
  std::int64_t num_wide_segments = 0;
  bool has_scores = false;
  bool wide = false;
  Stage stage = Stage::kDone;
  std::int64_t num_candidates = 0;
  std::int64_t numel = 0;
  std::int64_t low = 0;
  std::int64_t high = 0;
  bool lists_inside = true;
  std::int64_t num_below = 0;
  std::int64_t num_inside = 0;
  std::int64_t num_equal = 0;
  std::int64_t wanted = 0;
  std::int64_t threshold = 0;
  std::int64_t listed_here = 0;
  std::uint16_t tie_low = 0;
  std::uint16_t tie_high = 0;

  /// Sums up what the latest pass counted in the chunks held here.
  void count_chunks() {
    num_below = num_inside = listed_here = 0;
    for (const Chunk& chunk : chunks) {
      num_below += chunk.result.num_below;
      num_inside += chunk.result.num_inside;
      listed_here += static_cast<std::int64_t>(chunk.result.inside.size());
    }
  }

  std::int64_t key_min() const {
    return wide ? std::numeric_limits<std::int64_t>::min() : std::numeric_limits<std::int32_t>::min();
  }
  std::int64_t key_max() const {
    return wide ? std::numeric_limits<std::int64_t>::max() : std::numeric_limits<std::int32_t>::max();
  }
};

inline KeyFormat format_of(const Problem& problem, const SelectionSegment& segment) {
  return {segment.scores.dtype, segment.transform, problem.selection->order, problem.wide};
}

}  // namespace itop::cpu
