#pragma once

#include <cstdint>

#include "itop/scratch_memory.hpp"
#include "itop/sparse_growth.hpp"

namespace itop {

class ThreadPool;

/// A set of positions of a matrix with memory of its own, in row order.
struct Positions {
  std::int64_t num_rows = 0;
  std::int64_t num_columns = 0;
  ScratchArray<std::int64_t> row_pointers;  ///< [num_rows + 1]
  ScratchArray<std::int32_t> columns;       ///< ascending inside a row

  PositionList list() const { return {num_rows, num_columns, row_pointers.data(), columns.data()}; }
};

enum class SetOperation : std::uint8_t { kUnion, kIntersection, kDifference };

/// The union, intersection or difference a - b, in one merge of both lists.
/// @throws std::invalid_argument if the shapes differ, or the result has 2^31 positions or more in a row
Positions combine(const PositionList& a, const PositionList& b, SetOperation operation, ThreadPool& pool);

/// The entries whose `is_member` is not 0.
/// @param is_member [all.count()]
Positions filter(const PositionList& all, const std::uint8_t* is_member, ThreadPool& pool);

/// is_member[e] = whether entry e of `all` is in `set`.
/// @param is_member [all.count()], written
/// @throws std::invalid_argument if the shapes differ
void find_members(const PositionList& all, const PositionList& set, std::uint8_t* is_member, ThreadPool& pool);

/// The positions of ascending indices, row * num_columns + column.
/// @throws std::invalid_argument if an index is out of range or out of order
Positions positions_of(std::int64_t num_rows, std::int64_t num_columns, const std::int64_t* indices, std::int64_t count,
                       ThreadPool& pool);

}  // namespace itop
