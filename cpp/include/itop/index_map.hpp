#pragma once

#include <array>
#include <cstdint>

#include "itop/host_device.hpp"

namespace itop {

/// From a weight's position in storage to its index in the whole layer (row-major over the layer's logical shape).
///
/// Keys are drawn by the logical index, so a channels-last tensor, a shard of rows or columns and the plain tensor
/// agree. Storage is seen as up to four nested loops, outermost first: position = ((d0 * sizes[1] + d1) * sizes[2] +
/// d2) ..., logical index = offset + d0 * strides[0] + d1 * strides[1] + ...
struct IndexMap {
  static constexpr int kDims = 4;
  std::int64_t offset = 0;
  std::array<std::int64_t, kDims> sizes{1, 1, 1, 0};
  std::array<std::int64_t, kDims> strides{0, 0, 0, 1};

  /// A layer of `numel` weights stored in logical order, its first weight at logical index `offset`.
  static constexpr IndexMap contiguous(std::int64_t numel, std::int64_t offset = 0) {
    IndexMap map;
    map.offset = offset;
    map.sizes[3] = numel;
    return map;
  }

  constexpr bool is_contiguous() const { return strides[3] == 1 && (sizes[0] == 1 && sizes[1] == 1 && sizes[2] == 1); }

  constexpr std::int64_t numel() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3]; }

  ITOP_HOST_DEVICE std::int64_t operator()(std::int64_t position) const {
    std::int64_t logical = offset;
    for (int dim = kDims - 1; dim > 0; --dim) {
      const std::int64_t quotient = position / sizes[dim];
      logical += (position - quotient * sizes[dim]) * strides[dim];
      position = quotient;
    }
    return logical + position * strides[0];
  }
};

}  // namespace itop
