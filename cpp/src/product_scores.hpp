#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "itop/sparse_growth.hpp"
#include "itop/sparse_scratch.hpp"

namespace itop {

class ThreadPool;

/// The matrix sum over factors of gradient^T x, of which any block can be formed: operands packed once for all blocks.
template <class Scalar>
class ProductScores {
 public:
  ProductScores(std::span<const ProductFactor> factors, std::int64_t num_rows, std::int64_t num_columns,
                ThreadPool& pool);

  /// Blocks begin and end at multiples of these; what lies outside the matrix is zero.
  std::int64_t rows_at_once() const noexcept { return rows_at_once_; }
  std::int64_t columns_at_once() const noexcept { return columns_at_once_; }

  /// The block from (first_row, first_column) on, `out` [num_rows][num_columns]. Each factor's products are summed one
  /// after the other, then the factors' sums: as gradients of several passes are.
  /// @param spare [num_rows][num_columns], overwritten where there are several factors
  void write(std::int64_t first_row, std::int64_t num_rows, std::int64_t first_column, std::int64_t num_columns,
             Scalar* out, Scalar* spare) const;

 private:
  struct Packed {
    std::int64_t depth;
    ScratchLease rows;     ///< by blocks of depth, then by tiles of rows: [depth of the block][rows_at_once]
    ScratchLease columns;  ///< likewise
  };

  std::int64_t rows_at_once_;
  std::int64_t columns_at_once_;
  std::int64_t num_row_tiles_;
  std::int64_t num_column_tiles_;
  std::vector<Packed> factors_;
};

}  // namespace itop
