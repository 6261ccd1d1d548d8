#include "product_scores.hpp"

#include <algorithm>
#include <cstring>

#include "cpu/sparse_kernels.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kDepthAtOnce = 256;  // a tile of columns this deep stays in the first-level cache

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Tiles of `width` columns of `dense` [depth][num_columns], block of depth after block.
template <class Scalar>
void pack_tiles(const Scalar* dense, std::int64_t depth, std::int64_t num_columns, std::int64_t width, Scalar* packed,
                ThreadPool& pool) {
  const std::int64_t num_tiles = divide_up(num_columns, width);
  pool.parallel_for(num_tiles, [&](std::int64_t tile) {
    const std::int64_t first_column = tile * width;
    const auto in_matrix = static_cast<std::size_t>(std::min(width, num_columns - first_column));
    for (std::int64_t first = 0; first < depth; first += kDepthAtOnce) {
      const std::int64_t last = std::min(depth, first + kDepthAtOnce);
      Scalar* to = packed + first * num_tiles * width + tile * (last - first) * width;
      for (std::int64_t s = first; s < last; ++s, to += width) {
        std::memcpy(to, dense + s * num_columns + first_column, in_matrix * sizeof(Scalar));
        std::fill(to + in_matrix, to + width, Scalar{0});
      }
    }
  });
}

}  // namespace

template <class Scalar>
ProductScores<Scalar>::ProductScores(std::span<const ProductFactor> factors, std::int64_t num_rows,
                                     std::int64_t num_columns, ThreadPool& pool)
    : rows_at_once_(cpu::sparse_kernels<Scalar>().product_rows),
      columns_at_once_(cpu::sparse_kernels<Scalar>().product_columns),
      num_row_tiles_(divide_up(num_rows, rows_at_once_)),
      num_column_tiles_(divide_up(num_columns, columns_at_once_)) {
  for (const ProductFactor& factor : factors) {
    if (factor.depth == 0) continue;  // a product of zeros
    const auto bytes = [&](std::int64_t width) {
      return static_cast<std::size_t>(factor.depth * width) * sizeof(Scalar);
    };
    Packed packed{factor.depth, ScratchLease(bytes(num_row_tiles_ * rows_at_once_)),
                  ScratchLease(bytes(num_column_tiles_ * columns_at_once_))};
    pack_tiles(static_cast<const Scalar*>(factor.gradient), factor.depth, num_rows, rows_at_once_,
               packed.rows.template as<Scalar>(), pool);
    pack_tiles(static_cast<const Scalar*>(factor.x), factor.depth, num_columns, columns_at_once_,
               packed.columns.template as<Scalar>(), pool);
    factors_.push_back(std::move(packed));
  }
}

template <class Scalar>
void ProductScores<Scalar>::write(std::int64_t first_row, std::int64_t num_rows, std::int64_t first_column,
                                  std::int64_t num_columns, Scalar* out, Scalar* spare) const {
  const auto product = cpu::sparse_kernels<Scalar>().product;
  const std::int64_t first_row_tile = first_row / rows_at_once_;
  const std::int64_t first_column_tile = first_column / columns_at_once_;
  // Tiles past the matrix were not packed: their scores are zero.
  const std::int64_t row_tiles = std::min(num_rows / rows_at_once_, num_row_tiles_ - first_row_tile);
  const std::int64_t column_tiles = std::min(num_columns / columns_at_once_, num_column_tiles_ - first_column_tile);
  if (row_tiles * rows_at_once_ < num_rows || column_tiles * columns_at_once_ < num_columns || factors_.empty()) {
    std::fill_n(out, num_rows * num_columns, Scalar{0});
  }
  bool is_first = true;
  for (const Packed& factor : factors_) {
    Scalar* const target = is_first ? out : spare;
    for (std::int64_t first = 0; first < factor.depth; first += kDepthAtOnce) {
      const std::int64_t depth = std::min(kDepthAtOnce, factor.depth - first);
      const Scalar* const rows = factor.rows.template as<Scalar>() + first * num_row_tiles_ * rows_at_once_;
      const Scalar* const columns = factor.columns.template as<Scalar>() + first * num_column_tiles_ * columns_at_once_;
      for (std::int64_t j = 0; j < column_tiles; ++j) {
        const Scalar* const of_columns = columns + (first_column_tile + j) * depth * columns_at_once_;
        for (std::int64_t i = 0; i < row_tiles; ++i) {
          product(rows + (first_row_tile + i) * depth * rows_at_once_, of_columns, depth,
                  target + i * rows_at_once_ * num_columns + j * columns_at_once_, num_columns, first > 0);
        }
      }
    }
    if (!is_first) {
      for (std::int64_t row = 0; row < row_tiles * rows_at_once_; ++row) {
        for (std::int64_t column = row * num_columns; column < row * num_columns + column_tiles * columns_at_once_;
             ++column) {
          out[column] += spare[column];
        }
      }
    }
    is_first = false;
  }
}

template class ProductScores<float>;
template class ProductScores<double>;

}  // namespace itop
