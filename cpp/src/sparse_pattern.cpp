#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "itop/sparse_matrix.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kRowsPerChunk = 2048;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

std::size_t value_size(ValueType type) {
  switch (type) {
    case ValueType::kFloat64:
      return 8;
    case ValueType::kFloat32:
      return 4;
    case ValueType::kBFloat16:
      return 2;
  }
  return 0;
}

void fill_block_starts(std::int64_t num_rows, std::int64_t num_columns, const std::int64_t* row_pointers,
                       const std::int32_t* columns, std::int64_t block_width, std::uint32_t* block_starts,
                       ThreadPool& pool) {
  if (block_width < 1) {
    throw std::invalid_argument("block width must be positive, got " + std::to_string(block_width));
  }
  if (row_pointers[num_rows] > std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("a sparse matrix holds fewer than 2^32 entries, got " +
                                std::to_string(row_pointers[num_rows]));
  }
  const std::int64_t num_blocks = std::max<std::int64_t>(1, divide_up(num_columns, block_width));
  pool.parallel_for(divide_up(num_rows, kRowsPerChunk), [&](std::int64_t chunk) {
    const std::int64_t last = std::min(num_rows, (chunk + 1) * kRowsPerChunk);
    for (std::int64_t row = chunk * kRowsPerChunk; row < last; ++row) {
      std::int64_t entry = row_pointers[row];
      const std::int64_t end = row_pointers[row + 1];
      block_starts[row] = static_cast<std::uint32_t>(entry);
      for (std::int64_t block = 1; block < num_blocks; ++block) {
        const std::int64_t first_column = block * block_width;
        while (entry < end && columns[entry] < first_column) ++entry;
        block_starts[block * num_rows + row] = static_cast<std::uint32_t>(entry);
      }
      block_starts[num_blocks * num_rows + row] = static_cast<std::uint32_t>(end);
    }
  });
}

void transpose_pattern(std::int64_t num_rows, std::int64_t num_columns, const std::int64_t* row_pointers,
                       const std::int32_t* columns, std::int64_t* column_pointers, std::int32_t* rows,
                       std::uint32_t* permutation, ThreadPool& pool) {
  const std::int64_t num_entries = row_pointers[num_rows];
  if (num_entries > std::numeric_limits<std::uint32_t>::max()) {
    throw std::invalid_argument("a sparse matrix holds fewer than 2^32 entries, got " + std::to_string(num_entries));
  }
  // Each part counts its rows' columns; a part's entries of a column follow those of the parts before it.
  const std::int64_t num_parts =
      std::clamp<std::int64_t>(std::min<std::int64_t>(pool.num_threads(), num_entries / (num_columns + 1)), 1, 16);
  std::vector<std::int64_t> first_row(static_cast<std::size_t>(num_parts) + 1, num_rows);
  for (std::int64_t part = 0; part < num_parts; ++part) {
    first_row[part] =
        std::lower_bound(row_pointers, row_pointers + num_rows, num_entries * part / num_parts) - row_pointers;
  }
  first_row[0] = 0;
  std::vector<std::uint32_t> next(static_cast<std::size_t>(num_parts * num_columns), 0);
  pool.parallel_for(num_parts, [&](std::int64_t part) {
    std::uint32_t* const counts = next.data() + part * num_columns;
    for (std::int64_t e = row_pointers[first_row[part]]; e < row_pointers[first_row[part + 1]]; ++e) {
      ++counts[columns[e]];
    }
  });
  std::int64_t total = 0;
  for (std::int64_t column = 0; column < num_columns; ++column) {
    column_pointers[column] = total;
    for (std::int64_t part = 0; part < num_parts; ++part) {
      const std::uint32_t count = next[part * num_columns + column];
      next[part * num_columns + column] = static_cast<std::uint32_t>(total);
      total += count;
    }
  }
  column_pointers[num_columns] = total;
  pool.parallel_for(num_parts, [&](std::int64_t part) {
    std::uint32_t* const place = next.data() + part * num_columns;
    for (std::int64_t row = first_row[part]; row < first_row[part + 1]; ++row) {
      for (std::int64_t e = row_pointers[row]; e < row_pointers[row + 1]; ++e) {
        const std::uint32_t to = place[columns[e]]++;
        rows[to] = static_cast<std::int32_t>(row);
        permutation[to] = static_cast<std::uint32_t>(e);
      }
    }
  });
}

void check_pattern(std::int64_t num_rows, std::int64_t num_columns, std::int64_t num_entries,
                   const std::int64_t* row_pointers, const std::int32_t* columns, ThreadPool& pool) {
  if (row_pointers[0] != 0 || row_pointers[num_rows] != num_entries) {
    throw std::invalid_argument("row pointers must run from 0 to " + std::to_string(num_entries) + ", got " +
                                std::to_string(row_pointers[0]) + " to " + std::to_string(row_pointers[num_rows]));
  }
  for (std::int64_t row = 0; row < num_rows; ++row) {
    if (row_pointers[row] > row_pointers[row + 1]) {
      throw std::invalid_argument("row pointers must not descend, they do after row " + std::to_string(row));
    }
  }
  std::atomic<std::int64_t> first_wrong{num_rows};
  pool.parallel_for(divide_up(num_rows, kRowsPerChunk), [&](std::int64_t chunk) {
    const std::int64_t last = std::min(num_rows, (chunk + 1) * kRowsPerChunk);
    for (std::int64_t row = chunk * kRowsPerChunk; row < last; ++row) {
      std::int64_t previous = -1;
      bool right = true;
      for (std::int64_t e = row_pointers[row]; e < row_pointers[row + 1]; ++e) {
        right = right && columns[e] > previous && columns[e] < num_columns;
        previous = columns[e];
      }
      if (right) continue;
      std::int64_t seen = first_wrong.load();
      while (row < seen && !first_wrong.compare_exchange_weak(seen, row)) {
      }
      return;
    }
  });
  if (first_wrong < num_rows) {
    throw std::invalid_argument("the columns of row " + std::to_string(first_wrong) + " must ascend within [0, " +
                                std::to_string(num_columns) + ")");
  }
}

}  // namespace itop
