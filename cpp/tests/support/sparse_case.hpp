#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "itop/sparse_matrix.hpp"
#include "itop/thread_pool.hpp"

namespace itop::testing {

inline std::vector<double> random_values(std::size_t count, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::uniform_real_distribution<double> value(-1.0, 1.0);
  std::vector<double> values(count);
  for (double& v : values) v = value(generator);
  return values;
}

/// A random sparse matrix with its dense form; every fifth row and column is empty.
struct SparseCase {
  std::int64_t num_rows;
  std::int64_t num_columns;
  std::int64_t block_width;
  std::vector<std::int64_t> row_pointers{0};
  std::vector<std::int32_t> columns;
  std::vector<double> values;
  std::vector<double> dense;  ///< [num_rows, num_columns]
  std::vector<std::uint32_t> block_starts;

  SparseCase(std::int64_t rows, std::int64_t width, double density, std::int64_t block, ThreadPool& pool)
      : num_rows(rows), num_columns(width), block_width(block), dense(static_cast<std::size_t>(rows * width), 0.0) {
    std::mt19937_64 generator(static_cast<std::uint64_t>(rows * 1000 + width));
    std::bernoulli_distribution is_active(density);
    std::uniform_real_distribution<double> value(-1.0, 1.0);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t column = 0; column < width; ++column) {
        if (row % 5 == 3 || column % 5 == 2 || !is_active(generator)) continue;
        columns.push_back(static_cast<std::int32_t>(column));
        values.push_back(value(generator));
        dense[static_cast<std::size_t>(row * width + column)] = values.back();
      }
      row_pointers.push_back(static_cast<std::int64_t>(columns.size()));
    }
    block_starts = starts_of(rows, width, row_pointers, columns, block, pool);
  }

  static std::vector<std::uint32_t> starts_of(std::int64_t rows, std::int64_t width,
                                              const std::vector<std::int64_t>& pointers,
                                              const std::vector<std::int32_t>& columns, std::int64_t block,
                                              ThreadPool& pool) {
    const std::int64_t num_blocks = width <= block ? 1 : (width + block - 1) / block;
    std::vector<std::uint32_t> starts(static_cast<std::size_t>((num_blocks + 1) * rows));
    fill_block_starts(rows, width, pointers.data(), columns.data(), block, starts.data(), pool);
    return starts;
  }

  SparsePattern pattern() const {
    return {num_rows, num_columns, block_width, block_starts.data(), columns.data(), nullptr};
  }
};

}  // namespace itop::testing
