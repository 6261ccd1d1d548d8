#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "itop/backend.hpp"
#include "support/values.hpp"

namespace itop::testing {

/// What the scores of a layer are like.
enum class Values : std::uint8_t { kNormal, kFewDistinct, kZeros, kMostlyZero, kScaledRows };

/// A half with the value's sign and a random magnitude; subnormals included.
inline std::uint16_t to_float16(float value, std::mt19937_64& random) {
  return static_cast<std::uint16_t>((value < 0 ? 0x8000u : 0u) | (value == 0.0f ? 0u : random() % 0x7C00u));
}

/// One layer in host memory.
struct Layer {
  std::vector<std::byte> scores;
  std::size_t begin = 0;  ///< bytes before the first score
  DType dtype = DType::kFloat32;
  std::vector<Word> candidates;
  std::int64_t numel = 0;
  IndexMap index_map;
};

inline Layer make_layer(std::int64_t numel, DType dtype, Values values, double density, std::mt19937_64& random) {
  Layer layer;
  layer.numel = numel;
  layer.dtype = dtype;
  layer.index_map = IndexMap::contiguous(numel);
  layer.scores.resize(static_cast<std::size_t>(numel) * size_of(dtype));
  layer.candidates.assign(static_cast<std::size_t>(words_for(numel)), 0);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  for (std::int64_t i = 0; i < numel; ++i) {
    double value = normal(random);
    if (values == Values::kFewDistinct) value = std::round(2 * value);
    if (values == Values::kZeros) value = i % 2 == 0 ? 0.0 : -0.0;
    if (values == Values::kMostlyZero) value = uniform(random) < 0.9 ? 0.0 : value;
    if (values == Values::kScaledRows) value *= std::pow(10.0, static_cast<double>(i / 512 % 7) - 3.0);
    std::byte* target = layer.scores.data() + static_cast<std::size_t>(i) * size_of(dtype);
    const auto narrow = static_cast<float>(value);
    const std::uint16_t brain = encode_bfloat16(narrow);
    const std::uint16_t half = to_float16(narrow, random);
    switch (dtype) {
      case DType::kFloat32:
        std::memcpy(target, &narrow, 4);
        break;
      case DType::kFloat64:
        std::memcpy(target, &value, 8);
        break;
      case DType::kBFloat16:
        std::memcpy(target, &brain, 2);
        break;
      case DType::kFloat16:
        std::memcpy(target, &half, 2);
        break;
    }
    if (uniform(random) < density)
      layer.candidates[static_cast<std::size_t>(i / kWordBits)] |= Word{1} << (i % kWordBits);
  }
  return layer;
}

inline Layer layer_of(const std::vector<double>& values, DType dtype) {
  Layer layer;
  layer.numel = static_cast<std::int64_t>(values.size());
  layer.dtype = dtype;
  layer.index_map = IndexMap::contiguous(layer.numel);
  layer.scores = encode(dtype, values);
  layer.candidates.assign(static_cast<std::size_t>(words_for(layer.numel)), ~Word{0});
  layer.candidates.back() = valid_bits(words_for(layer.numel) - 1, layer.numel);
  return layer;
}

/// A selection from layers in host memory, which an emulated device reads where they are.
struct Problem {
  std::vector<Layer> layers;
  std::int64_t k = 0;
  ScoreTransform transform = ScoreTransform::kMagnitude;
  SelectionOrder order = SelectionOrder::kLargest;
  bool has_scores = true;
};

using Chosen = std::vector<std::vector<Word>>;

/// Selections over the problems' layers, and where they write.
inline std::vector<Selection> selections_of(std::vector<Problem>& problems, Chosen& chosen) {
  chosen.clear();
  for (const Problem& problem : problems) {
    for (const Layer& layer : problem.layers) {
      chosen.emplace_back(static_cast<std::size_t>(words_for(layer.numel)), 0x5A5A5A5A5A5A5A5AULL);
    }
  }
  std::vector<Selection> selections;
  std::size_t next = 0;
  for (Problem& problem : problems) {
    Selection& selection = selections.emplace_back();
    selection.k = problem.k;
    selection.order = problem.order;
    for (Layer& layer : problem.layers) {
      SelectionSegment segment;
      segment.layer = "layer" + std::to_string(next);
      if (problem.has_scores) segment.scores = {layer.scores.data() + layer.begin, layer.numel, layer.dtype, Device{}};
      segment.transform = problem.transform;
      segment.candidates = layer.candidates.data();
      segment.chosen = chosen[next].data();
      segment.numel = layer.numel;
      segment.index_map = layer.index_map;
      segment.stream = {0x1234567890ABCDEFULL, static_cast<std::uint32_t>(next), 17, 3};
      selection.segments.push_back(std::move(segment));
      ++next;
    }
  }
  return selections;
}

}  // namespace itop::testing
