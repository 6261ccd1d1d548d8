#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "itop/bitset.hpp"
#include "itop/ordered_key.hpp"
#include "itop/thread_pool.hpp"

/// What methods ask of a layer as a matrix [output units, inputs], in host memory: the best of each group of weights of
/// a row, whole blocks, weights beyond a threshold. Weights, scores and bits lie row by row.
namespace itop {

/// A selection in each group of `group_size` consecutive weights of a row; the last of a row may be smaller.
struct GroupSelection {
  std::int64_t num_rows = 0;
  std::int64_t num_columns = 0;
  std::int64_t group_size = 0;
  const float* scores = nullptr;          ///< [num_rows, num_columns]
  const Word* candidates = nullptr;       ///< others are never chosen
  const Word* present = nullptr;          ///< counted towards the targets; may be null
  const std::int32_t* targets = nullptr;  ///< [num_rows, groups in a row]
  Word* chosen = nullptr;                 ///< gains max(0, target - present) candidates of each group, or all there are

  std::int64_t num_groups() const { return (num_columns + group_size - 1) / group_size; }
};

/// Chooses the best candidates of every group: by score, equal scores by the lower index.
/// @return the first selection whose compared scores hold NaN or infinity, or their number if all are finite
std::size_t select_in_groups(std::span<const GroupSelection> selections, ScoreTransform transform, SelectionOrder order,
                             ThreadPool& threads);

/// counts[r] <- the set bits of row r.
void count_in_rows(const Word* set, std::int64_t num_rows, std::int64_t num_columns, std::int64_t* counts,
                   ThreadPool& threads);

/// A matrix cut into blocks; those at the right and lower edges may be smaller.
struct BlockGrid {
  std::int64_t num_rows = 0;
  std::int64_t num_columns = 0;
  std::int64_t block_rows = 1;
  std::int64_t block_columns = 1;

  std::int64_t grid_rows() const { return (num_rows + block_rows - 1) / block_rows; }
  std::int64_t grid_columns() const { return (num_columns + block_columns - 1) / block_columns; }
  std::int64_t num_blocks() const { return grid_rows() * grid_columns(); }
};

/// sums[b]: the values of each block, or their magnitudes, added down its columns and then along its row: the same bits
/// on every processor.
void block_sums(const BlockGrid& grid, const float* values, ScoreTransform transform, float* sums, ThreadPool& threads);

/// blocks <- those of which any weight is in the set.
void blocks_with_any(const BlockGrid& grid, const Word* weights, Word* blocks, ThreadPool& threads);

/// weights <- those of the blocks in the set.
void weights_of_blocks(const BlockGrid& grid, const Word* blocks, Word* weights, ThreadPool& threads);

/// bits <- where values (or magnitudes) are smaller than the limit, or greater.
void compare_with(const float* values, std::int64_t numel, ScoreTransform transform, bool greater, float limit,
                  Word* bits, ThreadPool& threads);

/// Exponents of finite float32 values, subnormal ones counted as if normalised.
inline constexpr std::int64_t kNumExponents = 278;

/// sums[e] <- the mantissas (whole numbers of 24 bits) of the magnitudes at the set bits whose exponent is e - 148:
/// sums that are exact, so that they add up alike however the values are cut into parts.
/// @param sums [kNumExponents]
void sum_magnitudes(const Word* set, const float* values, std::int64_t numel, std::int64_t* sums, ThreadPool& threads);

/// The smallest magnitude among the weights of a set; infinity where the set is empty.
float smallest_magnitude(const Word* set, const float* values, std::int64_t numel, ThreadPool& threads);

/// counts[i] += active[i], up to the largest there is, then scores[i] = abs(gradients[i]) + bonus / (counts[i] +
/// epsilon), each rounded once.
void exploration_scores(const Word* active, const float* gradients, std::int64_t numel, float bonus, float epsilon,
                        std::int16_t* counts, float* scores, ThreadPool& threads);

}  // namespace itop
