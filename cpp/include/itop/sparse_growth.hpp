#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "itop/bitset.hpp"
#include "itop/ordered_key.hpp"
#include "itop/random.hpp"
#include "itop/scratch_memory.hpp"
#include "itop/tensor_view.hpp"

namespace itop {

class ThreadPool;

/// Positions of a matrix in row order, without the matrix: row pointers and ascending columns; borrowed.
struct PositionList {
  std::int64_t num_rows = 0;
  std::int64_t num_columns = 0;
  const std::int64_t* row_pointers = nullptr;  ///< [num_rows + 1]
  const std::int32_t* columns = nullptr;       ///< [row_pointers[num_rows]]

  std::int64_t count() const noexcept { return row_pointers[num_rows]; }
  std::int64_t num_free() const noexcept { return num_rows * num_columns - count(); }
};

/// One pass through a linear layer, of whose weight gradient^T x is the gradient; both row-major, borrowed.
struct ProductFactor {
  const void* x = nullptr;         ///< [depth, columns of the weight]
  const void* gradient = nullptr;  ///< [depth, rows of the weight]
  std::int64_t depth = 0;
};

/// A free position whose score may be among the best; smaller keys are better.
struct GrowthCandidate {
  std::int64_t key;
  std::int64_t index;  ///< row * num_columns + column
};

/// The `k` free positions with the best scores, from scores that pass by a few rows at a time: the matrix of scores
/// never exists. The choice is the masked execution's: larger magnitude, then smaller tie key, then lower index
/// (row-major).
class StreamedGrowth {
 public:
  /// @param taken    positions that are never chosen; borrowed for the life of this object
  /// @param k        at most the number of free positions
  /// @param at_least only magnitudes from here on are kept. A guess from a sample saves work; where it was too high,
  ///                 fewer than `k` are found, and the caller streams once more with 0
  /// @throws std::invalid_argument if k is negative or larger than the number of free positions
  StreamedGrowth(const PositionList& taken, std::int64_t k, const KeyStream& stream, double at_least);

  /// Offers rows [first_row, first_row + num_rows) of the scores; each row once, in any order.
  /// @param scores [num_rows, num_columns] of a floating type, contiguous
  /// @throws NonFiniteError (of no layer) if a free position's score is NaN or infinite
  void offer(std::int64_t first_row, std::int64_t num_rows, const void* scores, DType type, ThreadPool& pool);

  /// Offers the sum of products, all rows of it, formed a cache's worth at a time and never held; `at_least` is found
  /// from a sample. A product of an empty depth is zero.
  /// @param type float32 or float64: of the factors and of the scores
  /// @throws NonFiniteError (of no layer) if a score is NaN or infinite
  void offer_product(std::span<const ProductFactor> factors, DType type, ThreadPool& pool);

  /// The chosen positions, row * num_columns + column, ascending; fewer than `k` if `at_least` was too high.
  ScratchArray<std::int64_t> finish(ThreadPool& pool);

 private:
  template <class Scalar>
  void offer_product_of(std::span<const ProductFactor> factors, ThreadPool& pool);
  void keep_best(ThreadPool& pool);

  PositionList taken_;
  std::int64_t k_;
  KeyStream stream_;
  double at_least_;
  bool has_limit_ = false;
  std::int64_t limit_ = 0;  ///< keys above it are no candidates
  ScratchArray<GrowthCandidate> candidates_;
};

/// Exactly `k` free positions, uniformly at random, ascending. Up to `max_streamed` positions they are those with the
/// smallest tie keys, as in the masked execution; beyond, ranks among the free positions are drawn, and neither time
/// nor memory depends on the size of the matrix.
/// @throws std::invalid_argument if k is negative or larger than the number of free positions
ScratchArray<std::int64_t> grow_uniformly(const PositionList& taken, std::int64_t k, const KeyStream& stream,
                                          std::int64_t max_streamed, ThreadPool& pool);

/// What a selection among entries compares: one value an entry, and which end of them is better.
struct EntryScores {
  const void* values = nullptr;
  DType type = DType::kFloat32;
  ScoreTransform transform = ScoreTransform::kMagnitude;
  SelectionOrder order = SelectionOrder::kSmallest;
};

/// Sets is_chosen[e] to 1 for the `k` best entries and to 0 for all others, exactly. Equal scores: the smaller tie key
/// of the position (row * num_columns + column) is better, then the lower position, as in the masked execution.
/// @param scores    [pattern.count()] of any floating type
/// @param is_chosen [pattern.count()], written
/// @throws std::invalid_argument if k is negative or larger than the number of entries
/// @throws NonFiniteError (of no layer) if a score is NaN or infinite; `is_chosen` is undefined then
void select_entries(const PositionList& pattern, const EntryScores& scores, std::int64_t k, const KeyStream& stream,
                    std::uint8_t* is_chosen, ThreadPool& pool);

/// to[i] = from[sources[i]], zero where the source is negative.
/// @param element_size bytes: 2, 4 or 8
void carry_values(const void* from, const std::int32_t* sources, std::int64_t count, std::size_t element_size, void* to,
                  ThreadPool& pool);

/// A pattern after a topology update, and where its values come from.
struct UpdatedPattern {
  ScratchArray<std::int64_t> row_pointers;
  ScratchArray<std::int32_t> columns;
  ScratchArray<std::int32_t> sources;  ///< entry of the old pattern whose value stays, -1 for a grown one
  std::int64_t num_regrown = 0;        ///< positions that are dropped and grown
};

/// Removes the entries that are not kept and adds the grown positions, in one merge of both.
/// @param keep  [pattern.count()] 0 or 1
/// @param grown [num_grown] row * num_columns + column, ascending
/// @param regrown_keeps_value a position that is dropped and grown keeps its value
/// @throws std::invalid_argument if a grown position is kept already, out of order or out of range, or if the result
///         has 2^31 entries or more
UpdatedPattern update_pattern(const PositionList& pattern, const std::uint8_t* keep, const std::int64_t* grown,
                              std::int64_t num_grown, bool regrown_keeps_value, ThreadPool& pool);

}  // namespace itop
