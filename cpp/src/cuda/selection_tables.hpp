#pragma once

#include <cstdint>

#include "cuda/range_search.hpp"
#include "cuda/window.hpp"
#include "itop/bitset.hpp"
#include "itop/index_map.hpp"
#include "itop/ordered_key.hpp"
#include "itop/random.hpp"
#include "itop/tensor_view.hpp"

/// The tables in device memory that the kernels of a selection share. A selection is called a problem here: one
/// layer's, or that of all layers together; its segments are the layers (or shards) it draws from.
namespace itop::cuda {

/// The key of all weights of a layer without scores.
inline constexpr std::uint64_t kNoScore = 1;

/// A weight of a selection: its segment and its position there in one integer.
inline constexpr int kPositionBits = 44;
ITOP_HOST_DEVICE std::uint64_t place_of(int segment, std::int64_t position) {
  return (static_cast<std::uint64_t>(segment) << kPositionBits) | static_cast<std::uint64_t>(position);
}
ITOP_HOST_DEVICE int segment_of(std::uint64_t place) { return static_cast<int>(place >> kPositionBits); }
ITOP_HOST_DEVICE std::int64_t position_of(std::uint64_t place) {
  return static_cast<std::int64_t>(place & ((std::uint64_t{1} << kPositionBits) - 1));
}

/// What is compared and how. `wide` keys are those of float64, for selections in which a float64 tensor takes part.
struct ScoreFormat {
  DType dtype = DType::kFloat32;
  ScoreTransform transform = ScoreTransform::kMagnitude;
  SelectionOrder order = SelectionOrder::kLargest;
  bool wide = false;
};

struct SegmentEntry {
  const void* scores = nullptr;  ///< null: all weights have the key kNoScore
  const Word* candidates = nullptr;
  Word* chosen = nullptr;
  std::int64_t numel = 0;
  std::int64_t first_word = 0;  ///< words of the problem's earlier segments
  IndexMap index_map;
  KeyStream stream;
  ScoreFormat format;
  std::int32_t problem = 0;
  bool draws_blocks = false;  ///< eight neighbours in storage share one Philox block
};

/// A part of the device's array of list entries.
struct ListSpan {
  std::int64_t begin = 0;
  std::int64_t capacity = 0;
};

struct ProblemEntry {
  std::int64_t k = 0;
  std::int64_t num_words = 0;
  std::uint64_t highest_key = 0;       ///< no key is greater
  std::int64_t num_sample_groups = 0;  ///< eight neighbouring weights each
  std::int64_t sample_begin = 0;
  ListSpan broad;  ///< for candidates inside the sampled bracket
  ListSpan fine;   ///< for those that remain after narrowing
  std::int32_t first_segment = 0;
  std::int32_t num_segments = 0;
  bool has_scores = false;
  bool samples_all = false;
};

/// How far a problem has come; written by one kernel, read by the next.
enum class Action : std::uint32_t {
  kSettled,     ///< the window of the pass over the weights decides everything
  kByKey,       ///< a bracket of keys: the pass lists what falls inside
  kByTies,      ///< all keys are equal: the pass lists what falls inside a bracket of coarse tie keys
  kRefineList,  ///< the listed candidates are to be split by the narrowed window
  kRefineData,  ///< too many to list: the weights are to be split again by the narrowed window
  kUnresolved,  ///< the bracket missed, or a list was too short: found again, digit by digit
};

/// Candidates below and inside a window. `inside` is the list's length too; it may exceed the list's capacity.
struct Tally {
  std::uint64_t below = 0;
  std::uint64_t inside = 0;
};

struct ProblemState {
  std::uint64_t num_candidates = 0;
  std::uint64_t num_sampled = 0;
  Window window;
  Tally broad;
  Tally fine;
  std::uint64_t at_low = 0;  ///< candidates at the edges of a window that counts them
  std::uint64_t at_high = 0;
  Action action = Action::kSettled;
};

struct ListEntry {
  std::uint64_t key = 0;
  std::uint64_t place = 0;
};

/// A candidate in the order of selection: by key, then tie key, then index (segments in their order).
struct RankedCandidate {
  std::uint64_t key;
  std::uint64_t tie;
  std::uint64_t index;

  ITOP_HOST_DEVICE bool precedes(const RankedCandidate& other) const {
    if (key != other.key) return key < other.key;
    if (tie != other.tie) return tie < other.tie;
    return index < other.index;
  }
};

/// What an exact search looks for next, one a problem: the key, then the tie key, then the index of the last candidate
/// to be chosen.
enum class Stage : std::int32_t { kKey, kTie, kIndex };

struct HistogramSearch {
  RangeSearch range;
  std::uint64_t exact_key = 0;  ///< known from stage kTie on
  std::uint64_t exact_tie = 0;  ///< known in stage kIndex
  Stage stage = Stage::kKey;
  bool is_open = false;  ///< otherwise everything up to `range.high` is chosen

  /// Where the candidate lies: -1 chosen, 1 not chosen whatever the range, 0 for the range to decide.
  ITOP_HOST_DEVICE int side_of(const RankedCandidate& candidate) const {
    if (stage == Stage::kKey) return 0;
    if (candidate.key != exact_key) return candidate.key < exact_key ? -1 : 1;
    if (stage == Stage::kTie) return 0;
    if (candidate.tie != exact_tie) return candidate.tie < exact_tie ? -1 : 1;
    return 0;
  }
  ITOP_HOST_DEVICE std::uint64_t value_of(const RankedCandidate& candidate) const {
    return stage == Stage::kKey ? candidate.key : stage == Stage::kTie ? candidate.tie : candidate.index;
  }

  /// Where a search begins.
  ITOP_HOST_DEVICE static HistogramSearch of(const ProblemEntry& problem, std::int64_t num_candidates) {
    HistogramSearch search;
    search.range.high = problem.highest_key;
    if (problem.k <= 0) {
      search.range.high = 0;  // no key is 0: nothing is chosen
    } else if (problem.k < num_candidates) {
      search.is_open = true;
      search.range.rank = static_cast<std::uint64_t>(problem.k);
      if (!problem.has_scores) {
        search.stage = Stage::kTie;
        search.exact_key = kNoScore;
        search.range.high = ~std::uint64_t{0};
      }
    }
    return search;
  }

  /// Goes on in the bin that holds the rank. A range all of whose candidates are wanted is closed: everything up to its
  /// end is chosen. A single value with more candidates than wanted hands over to the next stage.
  ITOP_HOST_DEVICE void enter(const BinOfRank& found) {
    range.enter(found);
    if (range.rank == found.count) {
      is_open = false;
      return;
    }
    if (!range.is_single()) return;
    const RangeSearch everything{0, ~std::uint64_t{0}, range.rank};
    switch (stage) {
      case Stage::kKey:
        exact_key = range.low;
        stage = Stage::kTie;
        range = everything;
        break;
      case Stage::kTie:
        exact_tie = range.low;
        stage = Stage::kIndex;
        range = everything;
        break;
      case Stage::kIndex:
        is_open = false;
        break;
    }
  }
};

/// The argument of every kernel of a selection, passed by value; all pointers are the device's.
struct SelectionTables {
  const SegmentEntry* segments = nullptr;
  const std::int64_t* chunk_offsets = nullptr;  ///< [num_segments + 1]
  const ProblemEntry* problems = nullptr;
  const std::int64_t* sample_block_offsets = nullptr;  ///< [num_problems + 1]
  const std::int64_t* list_block_offsets = nullptr;    ///< [num_problems + 1]
  ProblemState* states = nullptr;
  std::uint32_t* not_finite =
      nullptr;  ///< [num_segments + 1], set where scores hold NaN or infinity; the last: anywhere
  std::uint32_t* refines_data = nullptr;  ///< set where a problem has Action::kRefineData
  std::uint32_t* bins = nullptr;          ///< [num_problems][kBins], keys inside the sampled bracket
  std::uint64_t* samples = nullptr;
  ListEntry* entries = nullptr;
  HistogramSearch* searches = nullptr;   ///< [num_problems], of the histogram rounds
  std::uint64_t* search_bins = nullptr;  ///< [num_problems][kBins]
  std::int64_t num_chunks = 0;
  std::int32_t num_segments = 0;
  std::int32_t num_problems = 0;
  bool checks_finite = false;  ///< this histogram round looks at every score, to refuse NaN and infinity
};

}  // namespace itop::cuda
