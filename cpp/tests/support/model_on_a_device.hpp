#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "itop/mask_store.hpp"
#include "support/devices.hpp"
#include "support/draws.hpp"
#include "support/values.hpp"

namespace itop::testing {

struct LayerShape {
  IndexMap index_map;
  DType dtype = DType::kFloat32;
  std::int64_t numel() const { return index_map.numel(); }
};

/// Sizes around a word, a warp's tile and a block's chunk, any size up to `largest`; some stored channels last, some
/// shards.
inline std::vector<LayerShape> random_layers(int count, std::int64_t largest, Draws& draws) {
  constexpr std::int64_t edges[] = {1, 63, 64, 65, 2047, 2048, 2049, 16'384, 16'385, 0};
  std::vector<LayerShape> layers;
  for (int i = 0; i < count; ++i) {
    LayerShape layer;
    layer.dtype = kAllDTypes[i % 4];
    if (i % 5 == 3) {
      const std::int64_t out = 1 + draws.below(11), in = 1 + draws.below(11);
      const std::int64_t height = 1 + draws.below(5), width = 1 + draws.below(5);
      layer.index_map = {0, {out, height, width, in}, {in * height * width, width, 1, height * width}};
    } else {
      const std::int64_t numel = i % 3 == 0 ? std::min(edges[(i / 3) % 10], largest) : 1 + draws.below(largest);
      layer.index_map = IndexMap::contiguous(numel, i % 7 == 2 ? draws.below(1000) : 0);
    }
    layers.push_back(layer);
  }
  return layers;
}

/// Values with no ties, a few ties, mostly zeros, or signed zeros only.
inline std::vector<double> random_values(std::int64_t numel, Draws& draws) {
  std::vector<double> values = draws.bell(numel);
  const std::int64_t kind = draws.below(8);
  for (double& value : values) {
    if (kind == 1 || kind == 2) value = std::round(4 * value) / 4;
    if (kind == 3 || kind == 4) value = draws.uniform() < 0.1 ? value : 0.0;
    if (kind == 5) value = draws.uniform() < 0.5 ? 0.0 : -0.0;
  }
  return values;
}

/// One model's topology on one device, with weights, a state of another type and gradients for each layer.
class Model {
 public:
  Model(const std::vector<LayerShape>& layers, const Device& device, StreamHandle stream = 0)
      : layers_(layers), device_(device), stream_(stream), store_(layouts(layers), device, 77, stream) {
    for (const LayerShape& layer : layers) {
      const std::vector<double> zeros(static_cast<std::size_t>(layer.numel()));
      weights_.emplace_back(device, encode(layer.dtype, zeros));
      states_.emplace_back(device, encode(DType::kFloat32, zeros));
      gradients_.emplace_back(device, encode(layer.dtype, zeros));
    }
  }

  MaskStore& store() { return store_; }

  /// What training does between updates: new values everywhere, then masks.
  void train(Draws& draws) {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const LayerShape& layer = layers_[i];
      write(weights_[i], encode(layer.dtype, random_values(layer.numel(), draws)));
      write(states_[i], encode(DType::kFloat32, random_values(layer.numel(), draws)));
      write(gradients_[i], encode(layer.dtype, random_values(layer.numel(), draws)));
    }
    apply();
  }

  void apply() { store_.apply(tensors(), stream_); }

  /// A topology update; what it does depends on `number` only.
  std::vector<LayerCounts> update(std::uint32_t number) {
    if (number == 0) {
      std::vector<std::int64_t> thirds;
      for (const LayerShape& layer : layers_) thirds.push_back(layer.numel() / 3);
      return commit(store_.empty(stream_), select(store_.full(stream_), {}, thirds, number, 0), number);
    }
    const std::vector<std::int64_t> num_active = store_.active().count(stream_);
    std::vector<std::int64_t> k;
    std::int64_t sum = 0;
    for (const std::int64_t active : num_active) sum += k.emplace_back(active / 3);
    if (number % 4 == 2) k = {sum};
    const BitSets dropped = select(store_.active(), weights_, k, number, 0, SelectionOrder::kSmallest);
    const std::vector<std::int64_t> num_dropped = dropped.count(stream_);
    return grow_and_commit(dropped, num_dropped, number, number % 3 != 0);
  }

  /// The update of a method that knows its counts: select, complement, select, commit.
  std::vector<LayerCounts> plain_update(const std::vector<std::int64_t>& k, std::uint32_t number, bool by_gradient) {
    return grow_and_commit(select(store_.active(), weights_, k, number, 0, SelectionOrder::kSmallest), k, number,
                           by_gradient);
  }

  BitSets select(const BitSets& candidates, const std::vector<DeviceBytes>& scores, const std::vector<std::int64_t>& k,
                 std::uint32_t number, std::uint32_t draw, SelectionOrder order = SelectionOrder::kLargest) {
    SelectRequest request;
    request.scores.resize(layers_.size());
    for (std::size_t i = 0; i < scores.size(); ++i)
      request.scores[i] = TensorView{scores[i].data(), layers_[i].numel(), layers_[i].dtype, device_};
    request.transform = number % 2 == 0 ? ScoreTransform::kMagnitude : ScoreTransform::kSigned;
    request.order = order;
    request.k = k;
    request.across_layers = k.size() == 1 && layers_.size() > 1;
    request.update = number;
    request.draw = draw;
    LocalReduction local;
    return store_.select(candidates, request, local, stream_);
  }

  std::vector<LayerCounts> commit(const BitSets& dropped, const BitSets& grown, std::uint32_t number) {
    return store_.commit(dropped, grown, tensors(), {number % 5 == 0, number % 2 == 1, number > 0}, stream_);
  }

  /// Every bit there is, layer by layer: sets, then weights and state as bytes.
  std::vector<std::vector<std::byte>> snapshot() {
    std::vector<std::vector<std::byte>> bytes;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      for (const BitSets* sets : {&store_.active(), &store_.explored(), &store_.reliable()}) {
        const std::vector<Word> words = sets->layer_to_host(i, stream_);
        const auto view = std::as_bytes(std::span(words));
        bytes.emplace_back(view.begin(), view.end());
      }
      bytes.push_back(weights_[i].read<std::byte>());
      bytes.push_back(states_[i].read<std::byte>());
    }
    return bytes;
  }

  const std::vector<DeviceBytes>& weights() const { return weights_; }

  /// Makes the last weight of a layer infinite.
  void spoil(std::size_t layer) {
    std::vector<double> values = decode(layers_[layer].dtype, weights_[layer].read<std::byte>());
    values.back() = std::numeric_limits<double>::infinity();
    write(weights_[layer], encode(layers_[layer].dtype, values));
  }

 private:
  static std::vector<LayerLayout> layouts(const std::vector<LayerShape>& layers) {
    std::vector<LayerLayout> result;
    for (const LayerShape& layer : layers) {
      result.push_back({"layer" + std::to_string(result.size()), layer.numel(), layer.index_map, 0});
    }
    return result;
  }

  std::vector<LayerCounts> grow_and_commit(const BitSets& dropped, const std::vector<std::int64_t>& k,
                                           std::uint32_t number, bool by_gradient) {
    const BitSets kept = store_.active().combined(BitOperation::kAndNot, dropped, stream_);
    const BitSets free = kept.complement(stream_);
    const BitSets grown = by_gradient ? select(free, gradients_, k, number, 1) : select(free, {}, k, number, 1);
    return commit(dropped, grown, number);
  }

  std::vector<std::vector<TensorView>> tensors() const {
    std::vector<std::vector<TensorView>> result;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      result.push_back({{weights_[i].data(), layers_[i].numel(), layers_[i].dtype, device_},
                        {states_[i].data(), layers_[i].numel(), DType::kFloat32, device_}});
    }
    return result;
  }

  void write(DeviceBytes& target, const std::vector<std::byte>& bytes) { target = DeviceBytes(device_, bytes); }

  std::vector<LayerShape> layers_;
  Device device_;
  StreamHandle stream_;
  MaskStore store_;
  std::vector<DeviceBytes> weights_, states_, gradients_;
};

inline std::vector<std::int64_t> flat(const std::vector<LayerCounts>& counts) {
  std::vector<std::int64_t> result;
  for (const LayerCounts& one : counts) {
    result.insert(result.end(), {one.active, one.explored, one.reliable, one.dropped, one.grown, one.regrown});
  }
  return result;
}

}  // namespace itop::testing
