#pragma once

#include <cstdint>

#include "itop/host_device.hpp"

namespace itop::cuda {

/// The row of a table to which item `item` belongs, where row r holds the items [offsets[r], offsets[r + 1]). Rows may
/// be empty; `item` is below the last offset. This is how one launch serves all layers of a model: a block looks up its
/// layer.
ITOP_HOST_DEVICE int row_of(const std::int64_t* offsets, int num_rows, std::int64_t item) {
  int first = 0;
  int last = num_rows - 1;  // the last row that starts at or before the item lies in [first, last]
  while (first < last) {
    const int middle = (first + last + 1) / 2;
    if (offsets[middle] <= item) {
      first = middle;
    } else {
      last = middle - 1;
    }
  }
  return first;
}

}  // namespace itop::cuda
