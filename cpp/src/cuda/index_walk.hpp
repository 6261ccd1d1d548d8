#pragma once

#include <cstdint>

#include "itop/host_device.hpp"
#include "itop/index_map.hpp"

namespace itop::cuda {

/// Logical indices of consecutive storage positions: an IndexMap that divides once and then counts.
class IndexWalk {
 public:
  ITOP_HOST_DEVICE IndexWalk(const IndexMap& map, std::int64_t position) : map_(map), index_(map(position)) {
    for (int dim = IndexMap::kDims - 1; dim > 0; --dim) {
      const std::int64_t quotient = position / map.sizes[static_cast<std::size_t>(dim)];
      at_[dim] = position - quotient * map.sizes[static_cast<std::size_t>(dim)];
      position = quotient;
    }
  }

  ITOP_HOST_DEVICE std::int64_t index() const { return index_; }

  /// On to the next position.
  ITOP_HOST_DEVICE void advance() {
    for (int dim = IndexMap::kDims - 1; dim > 0; --dim) {
      const auto d = static_cast<std::size_t>(dim);
      index_ += map_.strides[d];
      if (++at_[dim] < map_.sizes[d]) return;
      index_ -= map_.sizes[d] * map_.strides[d];
      at_[dim] = 0;
    }
    index_ += map_.strides[0];
  }

 private:
  const IndexMap& map_;
  std::int64_t index_;
  std::int64_t at_[IndexMap::kDims] = {};
};

}  // namespace itop::cuda
