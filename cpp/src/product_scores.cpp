#include "product_scores.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu/sparse_kernels.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kDepthAtOnce = 256;  // a tile of columns this deep stays in the first-level cache

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Columns that are copied at a time: whole cache lines of the dense operand, which narrow tiles share.
constexpr std::int64_t kColumnsAtOnce = 128;

/// Tiles of `kWidth` columns of `dense` [depth][num_columns], block of depth after block.
template <int kWidth, class Scalar>
void pack_tiles_of(const Scalar* dense, std::int64_t depth, std::int64_t num_columns, Scalar* packed,
                   ThreadPool& pool) {
  const std::int64_t num_tiles = divide_up(num_columns, kWidth);
  constexpr std::int64_t tiles_at_once = kColumnsAtOnce / kWidth;
  pool.parallel_for(divide_up(num_tiles, tiles_at_once), [&](std::int64_t group) {
    const std::int64_t first_tile = group * tiles_at_once;
    const std::int64_t last_tile = std::min(num_tiles, first_tile + tiles_at_once);
    for (std::int64_t first = 0; first < depth; first += kDepthAtOnce) {
      const std::int64_t block_depth = std::min(depth - first, kDepthAtOnce);
      Scalar* const block = packed + first * num_tiles * kWidth;
      for (std::int64_t s = 0; s < block_depth; ++s) {
        for (std::int64_t tile = first_tile; tile < last_tile; ++tile) {
          Scalar* const to = block + (tile * block_depth + s) * kWidth;
          const Scalar* const from = dense + (first + s) * num_columns + tile * kWidth;
          const std::int64_t in_matrix = num_columns - tile * kWidth;
          if (in_matrix >= kWidth) {
            std::memcpy(to, from, kWidth * sizeof(Scalar));
          } else {
            std::copy_n(from, in_matrix, to);
            std::fill(to + in_matrix, to + kWidth, Scalar{0});
          }
        }
      }
    }
  });
}

/// The same with a width that the kernels name as the program runs.
template <class Scalar>
void pack_tiles(const Scalar* dense, std::int64_t depth, std::int64_t num_columns, std::int64_t width, Scalar* packed,
                ThreadPool& pool) {
  switch (width) {
    case 4:
      return pack_tiles_of<4>(dense, depth, num_columns, packed, pool);
    case 8:
      return pack_tiles_of<8>(dense, depth, num_columns, packed, pool);
    case 16:
      return pack_tiles_of<16>(dense, depth, num_columns, packed, pool);
    case 32:
      return pack_tiles_of<32>(dense, depth, num_columns, packed, pool);
    default:
      throw std::logic_error("no product takes tiles of " + std::to_string(width));
  }
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
