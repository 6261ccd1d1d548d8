#pragma once

#include <cstdint>
#include <set>

#include "itop/position_set.hpp"

namespace itop {

/// The multiples of `step` in a matrix.
inline Positions multiples(std::int64_t rows, std::int64_t columns, std::int64_t step) {
  Positions positions{rows, columns, {}, {}};
  positions.row_pointers.push_back(0);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      if ((row * columns + column) % step == 0) positions.columns.push_back(static_cast<std::int32_t>(column));
    }
    positions.row_pointers.push_back(static_cast<std::int64_t>(positions.columns.size()));
  }
  return positions;
}

inline std::set<std::int64_t> indices(const Positions& positions) {
  std::set<std::int64_t> result;
  for (std::int64_t row = 0; row < positions.num_rows; ++row) {
    for (auto entry = positions.row_pointers[static_cast<std::size_t>(row)];
         entry < positions.row_pointers[static_cast<std::size_t>(row) + 1]; ++entry) {
      result.insert(row * positions.num_columns + positions.columns[static_cast<std::size_t>(entry)]);
    }
  }
  return result;
}

}  // namespace itop
