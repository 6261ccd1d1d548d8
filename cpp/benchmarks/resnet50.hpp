#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "itop/mask_store.hpp"
#include "itop/random.hpp"
#include "itop/thread_pool.hpp"

namespace itop::benchmark {

/// Sizes of ResNet-50's 54 weight tensors (53 convolutions and the classifier): 25,502,912 weights.
inline std::vector<std::int64_t> resnet50_sizes() {
  std::vector<std::int64_t> sizes{64 * 3 * 7 * 7};
  std::int64_t in = 64;
  const int blocks[] = {3, 4, 6, 3};
  for (int stage = 0; stage < 4; ++stage) {
    const std::int64_t width = std::int64_t{64} << stage;
    for (int block = 0; block < blocks[stage]; ++block) {
      sizes.push_back(width * in);
      sizes.push_back(width * width * 9);
      sizes.push_back(4 * width * width);
      if (block == 0) sizes.push_back(4 * width * in);
      in = 4 * width;
    }
  }
  sizes.push_back(1000 * 2048);
  return sizes;
}

/// A model of random weights with its masks, in the state an update finds it in: weights and momentum are zero where
/// inactive, gradients are dense.
struct MaskedModel {
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> num_active;
  std::vector<float> weights, gradients, momentum;
  MaskStore store;

  MaskedModel(const std::vector<std::int64_t>& layer_sizes, double density)
      : sizes(layer_sizes), store(layouts(layer_sizes), Device{}, 1, 0) {
    std::int64_t total = 0;
    for (const std::int64_t size : sizes) total += size;
    weights.resize(static_cast<std::size_t>(total));
    gradients.resize(weights.size());
    momentum.resize(weights.size());
    fill();
    for (const std::int64_t size : sizes)
      num_active.push_back(static_cast<std::int64_t>(density * static_cast<double>(size)));
    SelectRequest request;
    request.scores.resize(sizes.size());
    request.k = num_active;
    LocalReduction local;
    const BitSets initial = store.select(store.full(0), request, local, 0);
    store.commit(store.empty(0), initial, no_tensors(), CommitOptions{}, 0);
    store.apply(views({&weights, &momentum}), 0);
  }

  /// New values everywhere, also where a weight is inactive: apply the masks afterwards.
  void fill() {
    constexpr std::int64_t piece = 131072;
    const auto numel = static_cast<std::int64_t>(weights.size());
    ThreadPool::global().parallel_for((numel + piece - 1) / piece, [&](std::int64_t p) {
      for (std::int64_t i = p * piece; i < std::min(numel, (p + 1) * piece); ++i) {
        const PhiloxBlock block = philox({{static_cast<std::uint32_t>(i), 0, 0, 0}}, 7, 0);
        const auto at = static_cast<std::size_t>(i);
        weights[at] = bell(block.word[0], block.word[1]);
        gradients[at] = bell(block.word[1], block.word[2]);
        momentum[at] = bell(block.word[2], block.word[3]);
      }
    });
  }

  /// Tensor views of some value arrays, layer by layer.
  std::vector<std::vector<TensorView>> views(const std::vector<std::vector<float>*>& arrays) const {
    std::vector<std::vector<TensorView>> result(sizes.size());
    std::int64_t first = 0;
    for (std::size_t layer = 0; layer < sizes.size(); ++layer) {
      for (auto* array : arrays)
        result[layer].push_back({array->data() + first, sizes[layer], DType::kFloat32, Device{}});
      first += sizes[layer];
    }
    return result;
  }

  std::vector<std::optional<TensorView>> scores(std::vector<float>& array) const {
    std::vector<std::optional<TensorView>> result;
    for (const auto& layer : views({&array})) result.emplace_back(layer.front());
    return result;
  }

  std::vector<std::vector<TensorView>> no_tensors() const { return std::vector<std::vector<TensorView>>(sizes.size()); }

 private:
  static float bell(std::uint32_t a, std::uint32_t b) {
    // The sum of four uniform numbers: close to normal, and the same everywhere.
    const auto part = [](std::uint32_t bits) { return static_cast<float>(bits) / 65536.0F - 0.5F; };
    return part(a & 0xFFFF) + part(a >> 16) + part(b & 0xFFFF) + part(b >> 16) + 1e-6F;
  }

  static std::vector<LayerLayout> layouts(const std::vector<std::int64_t>& sizes) {
    std::vector<LayerLayout> layers;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      layers.push_back({"layer" + std::to_string(i), sizes[i], IndexMap::contiguous(sizes[i]), 0});
    }
    return layers;
  }
};

}  // namespace itop::benchmark
