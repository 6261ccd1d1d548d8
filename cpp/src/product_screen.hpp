#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "itop/bitset.hpp"
#include "itop/sparse_growth.hpp"
#include "itop/sparse_scratch.hpp"

namespace itop {

class ThreadPool;

/// Which scores of a product gradient^T x can be large, about three times faster than by forming them: from operands
/// rounded to bytes, with a bound of the error. By Cauchy and Schwarz, rounding g to g' and x to x' moves a score by at
/// most |g' - g| |x'| + |g| |x' - x|, some percent of |g| |x|. Nothing that reaches a magnitude is missed; scores that
/// may are formed one by one, to the bits of ProductScores.
class ProductScreen {
 public:
  /// None where the processor does not multiply bytes, or operands are too long, or not finite.
  static std::optional<ProductScreen> of(std::span<const ProductFactor> factors, std::int64_t num_rows,
                                         std::int64_t num_columns, ThreadPool& pool);

  /// Clears the bits of a block's positions that cannot reach the magnitude. Both sizes are multiples of tiles
  /// (kScreenRows, kScreenColumns); rows of `bits` are num_columns long.
  void keep_reachable(std::int64_t first_row, std::int64_t num_rows, std::int64_t first_column,
                      std::int64_t num_columns, float magnitude, Word* bits) const;

  /// out[i] = the score of (row, columns[i]).
  /// @param out [count], and room for kListedScores more
  void scores_of(std::int64_t row, std::span<const std::int32_t> columns, float* out) const;

 private:
  /// One side of the product; vectors have an element a column, and more for a last tile.
  struct Operand {
    std::int64_t num_tiles;
    ScratchLease quads;                    ///< [tile][num_quads][columns of a tile], of all factors
    std::vector<float> scales;             ///< of a step
    std::vector<float> norms;              ///< rounded up, as errors are
    std::vector<float> errors;             ///< norms of what rounding changed
    std::vector<std::int32_t> offsets;     ///< 128 times the sum of the steps
    std::vector<ScratchLease> transposed;  ///< of a factor, [num_columns][padded depth]
  };
  struct Side;

  ProductScreen(std::vector<ProductFactor> factors, std::int64_t num_rows, std::int64_t num_columns, ThreadPool& pool);
  Operand pack(const Side& side, ThreadPool& pool) const;
  void pack_group(const Side& side, std::int64_t group, Operand& operand) const;

  std::vector<ProductFactor> factors_;  ///< of some depth
  std::int64_t depth_;                  ///< of all factors
  std::int64_t num_quads_;
  Operand rows_;
  Operand columns_;
};

}  // namespace itop
