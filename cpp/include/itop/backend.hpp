#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "itop/bitset.hpp"
#include "itop/device.hpp"
#include "itop/selection.hpp"
#include "itop/tensor_view.hpp"

namespace itop {

/// Words in a device's memory, owned.
class WordBuffer {
 public:
  virtual ~WordBuffer() = default;
  virtual Word* data() noexcept = 0;
  virtual std::int64_t size() const noexcept = 0;
};

/// What new words hold.
enum class Contents : std::uint8_t {
  kZero,
  kUnspecified,  ///< for words that are all written before any is read
};

/// How two bit sets become one.
enum class BitOperation : std::uint8_t { kAnd, kOr, kAndNot, kXor };

/// One layer's bit sets and tensors in a topology change. Bit sets are [numel].
struct LayerCommit {
  std::int64_t numel = 0;
  Word* active = nullptr;
  Word* explored = nullptr;
  Word* reliable = nullptr;
  const Word* dropped = nullptr;
  const Word* grown = nullptr;
  /// The weights and every optimiser state of their shape: zero where a weight was dropped. Elsewhere inactive weights
  /// are zero already, so that grown ones start at zero.
  std::vector<TensorView> tensors;
};

/// How a topology change treats values.
struct CommitOptions {
  /// Zero every weight that was not kept, not only the dropped ones: needed where inactive weights may hold values, as
  /// after an unmasked optimiser step.
  bool zero_all_inactive = false;
  /// A weight dropped and grown in the same update keeps its value and state (RigL); otherwise it restarts at zero.
  bool regrown_keeps_value = false;
  /// Whether dropping was a pruning round, whose survivors become reliable.
  bool marks_reliable = true;
};

/// What a topology change did to a layer.
struct LayerCounts {
  std::int64_t active = 0;
  std::int64_t explored = 0;
  std::int64_t reliable = 0;
  std::int64_t dropped = 0;
  std::int64_t grown = 0;
  std::int64_t regrown = 0;  ///< dropped and grown in the same update
};

/// One layer's bits, and where they are written.
struct LayerComplement {
  const Word* of = nullptr;
  Word* target = nullptr;
  std::int64_t numel = 0;
};

/// One layer's mask and the tensors it is applied to.
struct LayerApply {
  std::int64_t numel = 0;
  const Word* active = nullptr;
  std::vector<TensorView> tensors;
};

/// Whether the scores of a selection had an order, where the device knows before the host does.
class SelectionVerdict {
 public:
  virtual ~SelectionVerdict() = default;
  /// Waits until it is known.
  /// @throws NonFiniteError if scores held NaN or infinity; the chosen bits are unspecified then
  virtual void check() = 0;
};

/// A device's implementation of everything that runs in proportion to the number of weights.
///
/// One call serves a whole model. Pointers are on the backend's device and outlive the call only. Work goes to
/// `stream`.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::unique_ptr<WordBuffer> allocate(std::int64_t num_words, Contents contents, StreamHandle stream) = 0;
  virtual void copy_to_host(const Word* source, std::span<Word> target, StreamHandle stream) = 0;
  virtual void copy_from_host(std::span<const Word> source, Word* target, StreamHandle stream) = 0;

  /// Makes the bits of all weights of the layers one where they are not in `of`; null is the empty set.
  virtual void complement(std::span<const LayerComplement> layers, StreamHandle stream) = 0;

  /// target[i] = a[i] op b[i]; may be in place.
  virtual void combine(BitOperation operation, const Word* a, const Word* b, Word* target, std::int64_t num_words,
                       StreamHandle stream) = 0;

  /// The number of set bits in each of the word ranges [offsets[i], offsets[i + 1]).
  virtual std::vector<std::int64_t> count(const Word* words, std::span<const std::int64_t> offsets,
                                          StreamHandle stream) = 0;

  /// Bits to one byte a weight (0 or 1) and back, both on the device, [numel].
  virtual void unpack(const Word* words, std::uint8_t* bytes, std::int64_t numel, StreamHandle stream) = 0;
  virtual void pack(const std::uint8_t* bytes, Word* words, std::int64_t numel, StreamHandle stream) = 0;

  /// Sets in each selection's `chosen` bits the k best candidates, exactly: by score, then by the smaller tie key, then
  /// by the lower index. Chooses min(k, number of candidates).
  /// @return what is not known yet about the scores; null where it is
  /// @throws NonFiniteError if scores hold NaN or infinity, on all parts alike; chosen bits are then unspecified
  [[nodiscard]] virtual std::shared_ptr<SelectionVerdict> select(std::span<const Selection> selections,
                                                                 Reduction& reduction, StreamHandle stream) = 0;

  /// active <- (active - dropped) + grown; explored and reliable grow; dropped weights and their state become zero.
  /// @param verdicts of the selections that made the layers' `dropped` and `grown`, by this backend
  /// @return one entry a layer
  /// @throws NonFiniteError if a verdict says so; nothing has been changed then
  virtual std::vector<LayerCounts> commit(std::span<const LayerCommit> layers, const CommitOptions& options,
                                          std::span<const std::shared_ptr<SelectionVerdict>> verdicts,
                                          StreamHandle stream) = 0;

  /// Zeroes every tensor where its layer is inactive.
  virtual void apply(std::span<const LayerApply> layers, StreamHandle stream) = 0;
};

/// The backend of a device; the same object every time.
/// @throws BackendUnavailableError for a CUDA device if CUDA was not compiled, has no driver, or has no such device
Backend& backend_for(const Device& device);

}  // namespace itop
