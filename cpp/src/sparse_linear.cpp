#include "itop/sparse_linear.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/sparse_kernels.hpp"
#include "itop/sparse_scratch.hpp"
#include "itop/thread_pool.hpp"
#include "sparse_operands.hpp"

namespace itop {
namespace {

// Packed operands are copies: a huge batch passes through them in groups of samples.
constexpr std::int64_t kMaxGroupSamples = 1024;
constexpr std::int64_t kMaxGroupBytes = std::int64_t{256} << 20;

void check_types(ValueType values, ValueType activations) {
  if ((values == ValueType::kFloat64) != (activations == ValueType::kFloat64)) {
    throw std::invalid_argument("values and activations must both be float64 or neither");
  }
}

/// Samples that pass through a product together: as many as leave a block of the dense operand in half of the second
/// level, so that wide blocks, in which a row is summed at one go, come with narrow tiles.
template <class Scalar>
int max_tile_log2(const SparsePattern& pattern) {
  constexpr std::int64_t kBlockBytes = std::int64_t{512} << 10;
  constexpr std::int64_t kMinTileBytes = 128;  // below, an entry's index and value cost as much as its samples
  const std::int64_t width = std::max<std::int64_t>(1, std::min(pattern.block_width, pattern.num_columns));
  int log2 = cpu::sparse_kernels<Scalar>().max_tile_log2;
  const auto tile_bytes = [&] { return static_cast<std::int64_t>(sizeof(Scalar)) << log2; };
  while (tile_bytes() * width > kBlockBytes && tile_bytes() > kMinTileBytes) --log2;
  return log2;
}

template <class Scalar>
std::int64_t group_samples(std::int64_t num_features, int max_log2) {
  const std::int64_t tile = std::int64_t{1} << max_log2;
  const std::int64_t fitting = kMaxGroupBytes / static_cast<std::int64_t>(sizeof(Scalar)) / (num_features + 1);
  return std::clamp(fitting / tile * tile, tile, kMaxGroupSamples);
}

/// Runs `body` on the tiles: on one at a time in each thread, so that what is packed of it stays in the cache of the
/// processor that multiplies with it; on all of them together, `body` sharing out the rows, where they are too few.
template <class Body>
void for_tiles(const std::vector<SampleTile>& tiles, ThreadPool& pool, Body&& body) {
  if (static_cast<int>(tiles.size()) < 2 * pool.num_threads()) return body(tiles);
  pool.parallel_for(static_cast<std::int64_t>(tiles.size()),
                    [&](std::int64_t i) { body(std::vector<SampleTile>{tiles[static_cast<std::size_t>(i)]}); });
}

/// Some tiles of a group of samples with a place of their own in memory.
std::vector<SampleTile> packed_from_zero(std::vector<SampleTile> tiles) {
  std::int64_t packed = 0;
  for (SampleTile& tile : tiles) {
    tile.packed_before = packed;
    packed += tile.size();
  }
  return tiles;
}

/// A group of samples of one dense operand, packed in tiles.
template <class Scalar>
class PackedGroup {
 public:
  /// Room for the tiles.
  PackedGroup(const ActivationView& dense, std::int64_t num_features, const std::vector<SampleTile>& tiles)
      : dense_(dense),
        num_features_(num_features),
        memory_(static_cast<std::size_t>(packed_samples(tiles) * num_features) * sizeof(Scalar)) {}

  void pack(const std::vector<SampleTile>& tiles, ThreadPool& pool) const {
    pack_activations(dense_, num_features_, tiles, memory_.template as<Scalar>(), pool);
  }

  const Scalar* tile(const SampleTile& tile) const noexcept {
    return memory_.template as<Scalar>() + tile.packed_before * num_features_;
  }

 private:
  ActivationView dense_;
  std::int64_t num_features_;
  ScratchLease memory_;
};

template <class Scalar>
std::vector<std::int64_t> panels_for(const SparsePattern& pattern, const std::vector<SampleTile>& tiles,
                                     const ThreadPool& pool) {
  const std::int64_t tile_bytes = tiles.front().size() * static_cast<std::int64_t>(sizeof(Scalar));
  return cut_panels(pattern, tile_bytes, tile_bytes * pattern.num_columns, packed_samples(tiles), pool.num_threads());
}

/// out = W in + bias for one group; `out` has the rows of the pattern as features.
template <class Scalar>
void multiply(const SparsePattern& pattern, const Scalar* values, const PackedGroup<Scalar>& in,
              const std::vector<SampleTile>& tiles, const Scalar* bias, void* out, ValueType out_type,
              ThreadPool& pool) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  const auto panels = panels_for<Scalar>(pattern, tiles, pool);
  const auto num_panels = static_cast<std::int64_t>(panels.size()) - 1;
  // One tile after the other: while the rows pass, its samples stay in the cache.
  pool.parallel_for(static_cast<std::int64_t>(tiles.size()) * num_panels, [&](std::int64_t chunk) {
    const SampleTile& tile = tiles[static_cast<std::size_t>(chunk / num_panels)];
    const std::int64_t first_row = panels[chunk % num_panels];
    const std::int64_t last_row = panels[chunk % num_panels + 1];
    const ScratchLease results(static_cast<std::size_t>((last_row - first_row) * tile.size()) * sizeof(Scalar));
    for (std::int64_t block = 0; block < pattern.num_blocks(); ++block) {
      kernels.multiply_columns[tile.log2](runs_of(pattern, block, first_row, last_row), values, 0, in.tile(tile),
                                          results.as<Scalar>(), tile.size(),
                                          bias == nullptr ? nullptr : bias + first_row, block > 0);
    }
    unpack_features(results.as<Scalar>(), tile, first_row, last_row - first_row, out, out_type, pattern.num_rows);
  });
}

/// input gradient = W^T g for one group, in row order: a thread owns the columns it adds to.
template <class Scalar>
void scatter(const SparsePattern& pattern, const Scalar* values, const PackedGroup<Scalar>& output_gradient,
             const std::vector<SampleTile>& tiles, void* input_gradient, ValueType type, ThreadPool& pool) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  const std::int64_t num_columns = pattern.num_columns;
  const ScratchLease results(static_cast<std::size_t>(packed_samples(tiles) * num_columns) * sizeof(Scalar));
  pool.parallel_for(pattern.num_blocks(), [&](std::int64_t block) {
    const std::int64_t first_column = block * pattern.block_width;
    const std::int64_t last_column = std::min(num_columns, first_column + pattern.block_width);
    for (const SampleTile& tile : tiles) {
      Scalar* const out = results.as<Scalar>() + tile.packed_before * num_columns;
      std::fill(out + first_column * tile.size(), out + last_column * tile.size(), Scalar{0});
      kernels.scatter_columns[tile.log2](runs_of(pattern, block, 0, pattern.num_rows), values, 0,
                                         output_gradient.tile(tile), tile.size(), out);
      unpack_features(out + first_column * tile.size(), tile, first_column, last_column - first_column, input_gradient,
                      type, num_columns);
    }
  });
}

/// Value gradients (+)= <g[row], x[column]> and the bias gradient of one group.
///
/// The group's tiles go in slices of two or more, each summed by itself and added up in order: a thread takes whole
/// slices, its tiles in its own cache, or where there are fewer slices than threads, all of them share one slice's
/// rows. Either way every sum has the same order. Sums of slices take memory: a large layer has few.
template <class Scalar>
class ValueGradients {
 public:
  ValueGradients(const SparsePattern& pattern, const std::vector<SampleTile>& tiles, Scalar* values, Scalar* bias)
      : pattern_(pattern),
        tiles_(tiles),
        values_(values),
        bias_(bias),
        num_slices_(num_slices(static_cast<std::int64_t>(tiles.size()))),
        partial_(static_cast<std::size_t>((num_slices_ - 1) * size()) * sizeof(Scalar)) {}

  /// @param x null where only the bias gradient is wanted
  void add(const PackedGroup<Scalar>* x, const PackedGroup<Scalar>& output_gradient, bool accumulate_first,
           ThreadPool& pool) const {
    const auto panels = panels_for<Scalar>(pattern_, tiles_, pool);
    const auto run_slice = [&](std::int64_t slice) {
      const auto num_tiles = static_cast<std::int64_t>(tiles_.size());
      const std::int64_t first = num_tiles * slice / num_slices_;
      for (std::int64_t t = first; t < num_tiles * (slice + 1) / num_slices_; ++t) {
        const SampleTile& tile = tiles_[static_cast<std::size_t>(t)];
        if (x != nullptr) x->pack({tile}, pool);
        const bool accumulate = t > first || (slice == 0 && accumulate_first);
        pool.parallel_for(static_cast<std::int64_t>(panels.size()) - 1, [&](std::int64_t panel) {
          add_rows(tile, panels[panel], panels[panel + 1], x, output_gradient, slice, accumulate);
        });
      }
    };
    if (num_slices_ < pool.num_threads()) {
      for (std::int64_t slice = 0; slice < num_slices_; ++slice) run_slice(slice);
    } else {
      pool.parallel_for(num_slices_, run_slice);
    }
    add_up(values_, 0, num_values(), pool);
    add_up(bias_, num_values(), num_biases(), pool);
  }

 private:
  static constexpr std::int64_t kMaxSlices = 8;
  static constexpr std::int64_t kMaxPartialBytes = std::int64_t{64} << 20;

  std::int64_t num_slices(std::int64_t num_tiles) const noexcept {
    const std::int64_t bytes = std::max<std::int64_t>(1, size()) * static_cast<std::int64_t>(sizeof(Scalar));
    return std::clamp<std::int64_t>(std::min(num_tiles / 2, 1 + kMaxPartialBytes / bytes), 1, kMaxSlices);
  }
  std::int64_t num_values() const noexcept { return values_ == nullptr ? 0 : pattern_.num_entries(); }
  std::int64_t num_biases() const noexcept { return bias_ == nullptr ? 0 : pattern_.num_rows; }
  std::int64_t size() const noexcept { return num_values() + num_biases(); }
  Scalar* partial(std::int64_t slice) const noexcept { return partial_.template as<Scalar>() + (slice - 1) * size(); }

  void add_rows(const SampleTile& tile, std::int64_t first_row, std::int64_t last_row, const PackedGroup<Scalar>* x,
                const PackedGroup<Scalar>& output_gradient, std::int64_t slice, bool accumulate) const {
    const auto& kernels = cpu::sparse_kernels<Scalar>();
    Scalar* const values = slice == 0 ? values_ : partial(slice);
    Scalar* const bias = slice == 0 ? bias_ : partial(slice) + num_values();
    const Scalar* const rows = output_gradient.tile(tile) + first_row * tile.size();
    for (std::int64_t block = 0; x != nullptr && block < pattern_.num_blocks(); ++block) {
      kernels.dot_columns[tile.log2](runs_of(pattern_, block, first_row, last_row), rows, tile.size(), x->tile(tile),
                                     values, 0, accumulate);
    }
    if (bias_ != nullptr) {
      kernels.sum_rows(rows, tile.size(), last_row - first_row, tile.num_samples, bias + first_row, accumulate);
    }
  }

  void add_up(Scalar* target, std::int64_t offset, std::int64_t count, ThreadPool& pool) const {
    if (num_slices_ == 1) return;
    constexpr std::int64_t kPerChunk = 16384;
    pool.parallel_for((count + kPerChunk - 1) / kPerChunk, [&](std::int64_t chunk) {
      const std::int64_t first = chunk * kPerChunk;
      const std::int64_t last = std::min(count, first + kPerChunk);
      for (std::int64_t slice = 1; slice < num_slices_; ++slice) {
        const Scalar* const sums = partial(slice) + offset;
        for (std::int64_t i = first; i < last; ++i) target[i] += sums[i];
      }
    });
  }

  const SparsePattern& pattern_;
  const std::vector<SampleTile>& tiles_;
  Scalar* values_;
  Scalar* bias_;
  std::int64_t num_slices_;
  ScratchLease partial_;
};

template <class Scalar>
void forward(const SparsePattern& pattern, const void* values, ValueType value_type, const ActivationView& x,
             const void* bias, void* y, ThreadPool& pool) {
  const int max_log2 = max_tile_log2<Scalar>(pattern);
  const OrderedValues<Scalar> ordered(pattern, values, value_type, pool);
  const ScratchLease wide_bias(bias == nullptr ? 0 : static_cast<std::size_t>(pattern.num_rows) * sizeof(Scalar));
  if (bias != nullptr) gather_values(bias, value_type, nullptr, 0, pattern.num_rows, wide_bias.as<Scalar>());
  const std::int64_t group = group_samples<Scalar>(pattern.num_columns, max_log2);
  for (std::int64_t first = 0; first < x.batch; first += group) {
    const auto tiles = tile_samples(first, std::min(group, x.batch - first), max_log2);
    for_tiles(tiles, pool, [&](const std::vector<SampleTile>& of_group) {
      const auto some = packed_from_zero(of_group);
      const PackedGroup<Scalar> packed(x, pattern.num_columns, some);
      packed.pack(some, pool);
      multiply(pattern, ordered.data(), packed, some, wide_bias.as<const Scalar>(), y, x.type, pool);
    });
  }
}

/// Sums of gradients need the wide type: memory of it where the caller's type is narrow, else the caller's own.
template <class Scalar>
class WideGradient {
 public:
  WideGradient(void* target, std::int64_t count, ValueType type, bool is_sum_of_nothing)
      : target_(target),
        count_(count),
        type_(type),
        wide_(narrow() ? static_cast<std::size_t>(count) * sizeof(Scalar) : 0) {
    if (target != nullptr && is_sum_of_nothing) std::fill_n(data(), count, Scalar{0});
  }

  Scalar* data() const noexcept { return narrow() ? wide_.template as<Scalar>() : static_cast<Scalar*>(target_); }
  void finish() const {
    if (narrow()) write_values(data(), count_, target_, type_, nullptr, 0);
  }

 private:
  bool narrow() const noexcept { return target_ != nullptr && type_ == ValueType::kBFloat16; }

  void* target_;
  std::int64_t count_;
  ValueType type_;
  ScratchLease wide_;
};

template <class Scalar>
void backward(const SparsePattern& pattern, const SparsePattern* transposed, const void* values, ValueType value_type,
              const ActivationView& x, const ActivationView& output_gradient, const LinearGradients& gradients,
              ThreadPool& pool) {
  const int max_log2 = max_tile_log2<Scalar>(pattern);
  const std::int64_t num_entries = pattern.num_entries();
  const bool is_empty = output_gradient.batch == 0;
  const WideGradient<Scalar> value_gradient(gradients.values, num_entries, value_type, is_empty);
  const WideGradient<Scalar> bias_gradient(gradients.bias, pattern.num_rows, value_type, is_empty);
  const bool scatters = gradients.input != nullptr && transposed == nullptr;
  const SparsePattern& input_order = transposed == nullptr ? pattern : *transposed;
  const OrderedValues<Scalar> ordered(gradients.input == nullptr ? SparsePattern{} : input_order, values, value_type,
                                      pool);

  const std::int64_t group = group_samples<Scalar>(std::max(pattern.num_columns, pattern.num_rows), max_log2);
  for (std::int64_t first = 0; first < output_gradient.batch; first += group) {
    const auto tiles = tile_samples(first, std::min(group, output_gradient.batch - first), max_log2);
    const PackedGroup<Scalar> packed(output_gradient, pattern.num_rows, tiles);
    for_tiles(tiles, pool, [&](const std::vector<SampleTile>& some) {
      packed.pack(some, pool);
      if (gradients.input == nullptr || scatters) return;
      multiply<Scalar>(*transposed, ordered.data(), packed, some, nullptr, gradients.input, output_gradient.type, pool);
    });
    if (scatters) scatter(pattern, ordered.data(), packed, tiles, gradients.input, output_gradient.type, pool);
    const ValueGradients<Scalar> sums(pattern, tiles, value_gradient.data(), bias_gradient.data());
    if (gradients.values != nullptr) {
      const PackedGroup<Scalar> packed_x(x, pattern.num_columns, tiles);
      sums.add(&packed_x, packed, first > 0, pool);
    } else if (gradients.bias != nullptr) {
      sums.add(nullptr, packed, first > 0, pool);
    }
  }
  value_gradient.finish();
  bias_gradient.finish();
}

}  // namespace

void sparse_linear_forward(const SparsePattern& pattern, const void* values, ValueType value_type,
                           const ActivationView& x, const void* bias, void* y, ThreadPool& pool) {
  check_types(value_type, x.type);
  if (pattern.num_rows == 0) return;
  if (value_type == ValueType::kFloat64) {
    forward<double>(pattern, values, value_type, x, bias, y, pool);
  } else {
    forward<float>(pattern, values, value_type, x, bias, y, pool);
  }
}

void sparse_linear_backward(const SparsePattern& pattern, const SparsePattern* transposed, const void* values,
                            ValueType value_type, const ActivationView& x, const ActivationView& output_gradient,
                            const LinearGradients& gradients, ThreadPool& pool) {
  check_types(value_type, output_gradient.type);
  if (pattern.permutation != nullptr) throw std::invalid_argument("gradients need the pattern in row order");
  if (gradients.values != nullptr && (x.batch != output_gradient.batch || x.type != output_gradient.type)) {
    throw std::invalid_argument("input and output gradient must agree in batch and type");
  }
  if (value_type == ValueType::kFloat64) {
    backward<double>(pattern, transposed, values, value_type, x, output_gradient, gradients, pool);
  } else {
    backward<float>(pattern, transposed, values, value_type, x, output_gradient, gradients, pool);
  }
}

}  // namespace itop
