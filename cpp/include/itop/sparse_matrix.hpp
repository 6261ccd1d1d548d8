#pragma once

#include <cstddef>
#include <cstdint>

namespace itop {

class ThreadPool;

/// Types of values and activations. Products of float32 and bfloat16 accumulate in float32, of float64 in float64.
enum class ValueType { kFloat32, kFloat64, kBFloat16 };

std::size_t value_size(ValueType type);

/// Where the active weights of a matrix `[num_rows, num_columns]` are; a view that owns nothing.
///
/// Entries are in row order, ascending columns inside a row. Columns are cut into blocks of `block_width`, so
/// that a product reads a cache-sized piece of the dense operand at a time; row `r` owns in block `b` the entries
/// [block_starts[b * num_rows + r], block_starts[(b + 1) * num_rows + r]).
struct SparsePattern {
  std::int64_t num_rows = 0;
  std::int64_t num_columns = 0;
  std::int64_t block_width = 1;
  const std::uint32_t* block_starts = nullptr;  ///< [num_blocks + 1, num_rows]
  const std::int32_t* columns = nullptr;        ///< [num_entries]
  /// Where an entry's value lies in the array of values; null: entry e at e. A transposed pattern has one, so that
  /// both orders share the values.
  const std::uint32_t* permutation = nullptr;  ///< [num_entries] or null

  std::int64_t num_blocks() const noexcept {
    return num_columns <= block_width ? 1 : (num_columns + block_width - 1) / block_width;
  }
  std::int64_t num_entries() const noexcept {
    return num_rows == 0 ? 0 : block_starts[num_blocks() * num_rows + num_rows - 1];
  }
};

/// Fills `block_starts` [num_blocks + 1, num_rows] for blocks of `block_width` columns.
/// @param row_pointers int64 [num_rows + 1], ascending from 0
/// @param columns      int32 [row_pointers[num_rows]], ascending inside a row
/// @throws std::invalid_argument if there are 2^32 entries or more, or the block width is not positive
void fill_block_starts(std::int64_t num_rows, std::int64_t num_columns, const std::int64_t* row_pointers,
                       const std::int32_t* columns, std::int64_t block_width, std::uint32_t* block_starts,
                       ThreadPool& pool);

/// The transposed pattern: entries in column order, ascending rows inside a column.
/// @param column_pointers int64 [num_columns + 1], written
/// @param rows            int32 [num_entries], written: the row of each entry in column order
/// @param permutation     [num_entries], written: its place in row order
void transpose_pattern(std::int64_t num_rows, std::int64_t num_columns, const std::int64_t* row_pointers,
                       const std::int32_t* columns, std::int64_t* column_pointers, std::int32_t* rows,
                       std::uint32_t* permutation, ThreadPool& pool);

/// Checks what every kernel trusts: ascending row pointers from 0 to `num_entries`, ascending columns in range.
/// @throws std::invalid_argument that names the first row at fault
void check_pattern(std::int64_t num_rows, std::int64_t num_columns, std::int64_t num_entries,
                   const std::int64_t* row_pointers, const std::int32_t* columns, ThreadPool& pool);

}  // namespace itop
