#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "itop/backend.hpp"
#include "itop/bitset.hpp"
#include "itop/device.hpp"
#include "itop/index_map.hpp"
#include "itop/selection.hpp"

namespace itop {

/// One layer of a store: a parameter tensor, or this process's part of it.
struct LayerLayout {
  std::string name;
  std::int64_t numel = 0;
  IndexMap index_map;
  std::int64_t word_offset = 0;  ///< where its words begin; filled in by the store
};

/// The layers of a store and the device their bit sets live on. Shared by every bit set of the store.
class StoreLayout {
 public:
  /// @throws std::invalid_argument if two layers share a name or an index map does not cover its layer
  StoreLayout(std::vector<LayerLayout> layers, Device device);

  const std::vector<LayerLayout>& layers() const noexcept { return layers_; }
  std::size_t num_layers() const noexcept { return layers_.size(); }
  std::int64_t num_words() const noexcept { return word_offsets_.back(); }
  std::span<const std::int64_t> word_offsets() const noexcept { return word_offsets_; }  ///< [num_layers + 1]
  const Device& device() const noexcept { return device_; }
  Backend& backend() const { return backend_for(device_); }

 private:
  std::vector<LayerLayout> layers_;
  std::vector<std::int64_t> word_offsets_;
  Device device_;
};

/// One bit for every weight of every layer of a store, owned.
///
/// A set that a selection made (or that was made from one) may await the verdict on that selection's scores. What tells
/// the set's contents to the host checks it first.
class BitSets {
 public:
  BitSets(std::shared_ptr<const StoreLayout> layout, Contents contents, StreamHandle stream);

  const std::shared_ptr<const StoreLayout>& layout() const noexcept { return layout_; }
  Word* words(std::size_t layer) noexcept { return buffer_->data() + layout_->layers()[layer].word_offset; }
  const Word* words(std::size_t layer) const noexcept { return buffer_->data() + layout_->layers()[layer].word_offset; }

  BitSets combined(BitOperation operation, const BitSets& other, StreamHandle stream) const;
  BitSets complement(StreamHandle stream) const;
  BitSets copy(StreamHandle stream) const;
  /// Set bits of each layer.
  /// @throws NonFiniteError if a selection behind this set had scores without an order; so do the next two
  std::vector<std::int64_t> count(StreamHandle stream) const;

  std::vector<Word> layer_to_host(std::size_t layer, StreamHandle stream) const;
  /// One byte a weight (0 or 1), on the sets' device.
  void unpack(std::size_t layer, std::uint8_t* bytes, StreamHandle stream) const;
  /// @throws std::invalid_argument if the number of words is wrong or a bit past the layer's end is set
  void layer_from_host(std::size_t layer, std::span<const Word> words, StreamHandle stream);

  std::int64_t num_bytes() const noexcept { return layout_->num_words() * static_cast<std::int64_t>(sizeof(Word)); }

  using Verdicts = std::vector<std::shared_ptr<SelectionVerdict>>;
  const Verdicts& verdicts() const noexcept { return verdicts_; }
  void await(const Verdicts& verdicts);

 private:
  const Word* data() const noexcept { return buffer_->data(); }
  void check_verdicts() const;

  std::shared_ptr<const StoreLayout> layout_;
  std::unique_ptr<WordBuffer> buffer_;
  Verdicts verdicts_;
};

/// Which weights a selection takes, for all layers of a store in one call.
struct SelectRequest {
  std::vector<std::optional<TensorView>> scores;  ///< one a layer; none: the layer is selected at random
  ScoreTransform transform = ScoreTransform::kMagnitude;
  SelectionOrder order = SelectionOrder::kLargest;
  /// One count a layer: each layer selects its own. A single count with `across_layers`: all layers compete.
  std::vector<std::int64_t> k;
  bool across_layers = false;
  std::uint32_t update = 0;
  std::uint32_t draw = 0;
};

/// The topology of a model: which weights are active, were ever explored, were explored reliably; 3 bits a weight.
///
/// Weights, gradients and optimiser state are borrowed for one call. Every change is refused whole, before anything is
/// changed, if an argument does not fit.
class MaskStore {
 public:
  /// Nothing is active yet.
  MaskStore(std::vector<LayerLayout> layers, Device device, std::uint64_t seed, StreamHandle stream);

  const std::shared_ptr<const StoreLayout>& layout() const noexcept { return layout_; }
  std::uint64_t seed() const noexcept { return seed_; }
  BitSets& active() noexcept { return active_; }
  BitSets& explored() noexcept { return explored_; }
  BitSets& reliable() noexcept { return reliable_; }

  BitSets empty(StreamHandle stream) const { return BitSets(layout_, Contents::kZero, stream); }
  BitSets full(StreamHandle stream) const;

  /// The chosen candidates: exact, by score, then tie key, then index. Changes nothing.
  /// @throws NonFiniteError if scores hold NaN or infinity: here, or on a GPU where the set is looked at or committed
  BitSets select(const BitSets& candidates, const SelectRequest& request, Reduction& reduction,
                 StreamHandle stream) const;

  /// active <- (active - dropped) + grown. `tensors[l]` are layer l's weights and every state of their shape.
  /// @throws std::invalid_argument if a tensor does not fit its layer
  /// @throws NonFiniteError if a selection behind `dropped` or `grown` had scores without an order
  std::vector<LayerCounts> commit(const BitSets& dropped, const BitSets& grown,
                                  const std::vector<std::vector<TensorView>>& tensors, const CommitOptions& options,
                                  StreamHandle stream);

  /// Zeroes `tensors[l]` where layer l is inactive.
  void apply(const std::vector<std::vector<TensorView>>& tensors, StreamHandle stream) const;

  std::int64_t num_bytes() const noexcept {
    return active_.num_bytes() + explored_.num_bytes() + reliable_.num_bytes();
  }

 private:
  void check_fits(const TensorView& tensor, std::size_t layer) const;

  std::shared_ptr<const StoreLayout> layout_;
  std::uint64_t seed_;
  BitSets active_;
  BitSets explored_;
  BitSets reliable_;
};

}  // namespace itop
