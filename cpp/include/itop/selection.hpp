#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "itop/bitset.hpp"
#include "itop/index_map.hpp"
#include "itop/ordered_key.hpp"
#include "itop/random.hpp"
#include "itop/reduction.hpp"
#include "itop/tensor_view.hpp"

namespace itop {

/// One layer's (or shard's) part of a selection.
struct SelectionSegment {
  std::string layer;  ///< for messages
  TensorView scores;  ///< null data: all scores are equal, the tie keys alone decide
  ScoreTransform transform = ScoreTransform::kMagnitude;
  const Word* candidates = nullptr;  ///< [numel] bits; others are never chosen
  Word* chosen = nullptr;            ///< [numel] bits, written whole
  std::int64_t numel = 0;
  IndexMap index_map;  ///< to the index that enters the tie key
  KeyStream stream;
};

/// Chooses the `k` best of all candidates of its segments: one segment selects within a layer, all layers globally.
struct Selection {
  std::vector<SelectionSegment> segments;
  std::int64_t k = 0;
  SelectionOrder order = SelectionOrder::kLargest;
};

}  // namespace itop
