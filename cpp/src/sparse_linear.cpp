#include "itop/sparse_linear.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/sparse_kernels.hpp"
#include "itop/thread_pool.hpp"
#include "sparse_operands.hpp"
#include "sparse_scratch.hpp"

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

template <class Scalar>
std::int64_t group_samples(std::int64_t num_features, int max_log2) {
  const std::int64_t tile = std::int64_t{1} << max_log2;
  const std::int64_t fitting = kMaxGroupBytes / static_cast<std::int64_t>(sizeof(Scalar)) / (num_features + 1);
  return std::clamp(fitting / tile * tile, tile, kMaxGroupSamples);
}

cpu::EntryRuns runs_of(const SparsePattern& pattern, std::int64_t block, std::int64_t first_row, std::int64_t last_row) {
  return {pattern.block_starts + block * pattern.num_rows + first_row,
          pattern.block_starts + (block + 1) * pattern.num_rows + first_row, last_row - first_row, pattern.columns};
}

/// The values of the entries of rows [first_row, last_row) as Scalar, in the pattern's order.
template <class Scalar>
class PanelValues {
 public:
  PanelValues(const SparsePattern& pattern, const void* values, ValueType type, std::int64_t first_row,
              std::int64_t last_row)
      : copied_(pattern.permutation != nullptr || type == ValueType::kBFloat16),
        base_(copied_ ? pattern.block_starts[first_row] : 0),
        copy_(copied_ ? num_bytes(pattern, first_row, last_row) : 0),
        data_(static_cast<const Scalar*>(values)) {
    if (!copied_) return;
    gather_values(values, type, pattern.permutation, base_,
                  static_cast<std::int64_t>(num_bytes(pattern, first_row, last_row) / sizeof(Scalar)),
                  copy_.template as<Scalar>());
    data_ = copy_.template as<Scalar>();
  }

  const Scalar* data() const noexcept { return data_; }
  std::uint32_t base() const noexcept { return base_; }

 private:
  static std::size_t num_bytes(const SparsePattern& pattern, std::int64_t first_row, std::int64_t last_row) {
    const std::uint32_t end = pattern.block_starts[pattern.num_blocks() * pattern.num_rows + last_row - 1];
    return (std::size_t{end} - pattern.block_starts[first_row]) * sizeof(Scalar);
  }

  bool copied_;
  std::uint32_t base_;
  ScratchLease copy_;
  const Scalar* data_;
};

template <class Scalar>
void forward(const SparsePattern& pattern, const void* values, ValueType value_type, const ActivationView& x,
             const void* bias, void* y, ThreadPool& pool) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  const std::int64_t num_out = pattern.num_rows;
  const ScratchLease wide_bias(bias == nullptr ? 0 : static_cast<std::size_t>(num_out) * sizeof(Scalar));
  if (bias != nullptr) gather_values(bias, value_type, nullptr, 0, num_out, wide_bias.as<Scalar>());

  const std::int64_t group = group_samples<Scalar>(pattern.num_columns, kernels.max_tile_log2);
  for (std::int64_t first = 0; first < x.batch; first += group) {
    const auto tiles = tile_samples(first, std::min(group, x.batch - first), kernels.max_tile_log2);
    const std::int64_t num_samples = packed_samples(tiles);
    const ScratchLease packed(static_cast<std::size_t>(num_samples * pattern.num_columns) * sizeof(Scalar));
    pack_activations(x, pattern.num_columns, tiles, packed.as<Scalar>(), pool);

    const std::int64_t tile_bytes = tiles.front().size() * static_cast<std::int64_t>(sizeof(Scalar));
    const auto panels =
        cut_panels(pattern, tile_bytes, tile_bytes * pattern.num_columns, num_samples, pool.num_threads());
    pool.parallel_for(static_cast<std::int64_t>(panels.size()) - 1, [&](std::int64_t panel) {
      const std::int64_t first_row = panels[panel];
      const std::int64_t last_row = panels[panel + 1];
      if (first_row == last_row) return;
      const PanelValues<Scalar> panel_values(pattern, values, value_type, first_row, last_row);
      const ScratchLease results(static_cast<std::size_t>((last_row - first_row) * tile_bytes));
      for (const SampleTile& tile : tiles) {
        const Scalar* const in = packed.as<Scalar>() + tile.packed_before * pattern.num_columns;
        for (std::int64_t block = 0; block < pattern.num_blocks(); ++block) {
          kernels.multiply_columns[tile.log2](runs_of(pattern, block, first_row, last_row), panel_values.data(),
                                              panel_values.base(), in, results.as<Scalar>(), tile.size(),
                                              bias == nullptr ? nullptr : wide_bias.as<Scalar>() + first_row,
                                              block > 0);
        }
        unpack_features(results.as<Scalar>(), tile, first_row, last_row - first_row, y, x.type, num_out);
      }
    });
  }
}

template <class Scalar>
void scatter(const SparsePattern& pattern, const void* values, ValueType value_type,
             const ActivationView& output_gradient, void* input_gradient, ThreadPool& pool) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  const std::int64_t num_columns = pattern.num_columns;
  const PanelValues<Scalar> all_values(pattern, values, value_type, 0, pattern.num_rows);
  const std::int64_t group =
      group_samples<Scalar>(std::max(num_columns, pattern.num_rows), kernels.max_tile_log2);
  for (std::int64_t first = 0; first < output_gradient.batch; first += group) {
    const auto tiles = tile_samples(first, std::min(group, output_gradient.batch - first), kernels.max_tile_log2);
    const std::int64_t num_samples = packed_samples(tiles);
    const ScratchLease packed(static_cast<std::size_t>(num_samples * pattern.num_rows) * sizeof(Scalar));
    pack_activations(output_gradient, pattern.num_rows, tiles, packed.as<Scalar>(), pool);
    const ScratchLease results(static_cast<std::size_t>(num_samples * num_columns) * sizeof(Scalar));
    pool.parallel_for(pattern.num_blocks(), [&](std::int64_t block) {
      const std::int64_t first_column = std::min(num_columns, block * pattern.block_width);
      const std::int64_t last_column = std::min(num_columns, first_column + pattern.block_width);
      for (const SampleTile& tile : tiles) {
        Scalar* const out = results.as<Scalar>() + tile.packed_before * num_columns;
        std::fill(out + first_column * tile.size(), out + last_column * tile.size(), Scalar{0});
        kernels.scatter_columns[tile.log2](runs_of(pattern, block, 0, pattern.num_rows), all_values.data(),
                                           all_values.base(),
                                           packed.as<Scalar>() + tile.packed_before * pattern.num_rows, tile.size(),
                                           out);
        unpack_features(out + first_column * tile.size(), tile, first_column, last_column - first_column,
                        input_gradient, output_gradient.type, num_columns);
      }
    });
  }
}

template <class Scalar>
void weight_gradient(const SparsePattern& pattern, const ActivationView& x, const ActivationView& output_gradient,
                     ValueType value_type, void* value_gradient, void* bias_gradient, ThreadPool& pool) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  const std::int64_t num_entries = pattern.num_entries();
  const bool narrow = value_type == ValueType::kBFloat16;
  const ScratchLease wide_values(narrow ? static_cast<std::size_t>(num_entries) * sizeof(Scalar) : 0);
  const ScratchLease wide_bias(narrow ? static_cast<std::size_t>(pattern.num_rows) * sizeof(Scalar) : 0);
  auto* const values_out = narrow ? wide_values.as<Scalar>() : static_cast<Scalar*>(value_gradient);
  auto* const bias_out = narrow ? wide_bias.as<Scalar>() : static_cast<Scalar*>(bias_gradient);
  if (x.batch == 0) {
    std::fill_n(values_out, num_entries, Scalar{0});
    if (bias_gradient != nullptr) std::fill_n(bias_out, pattern.num_rows, Scalar{0});
  }

  const std::int64_t group = group_samples<Scalar>(std::max(pattern.num_columns, pattern.num_rows), kernels.max_tile_log2);
  for (std::int64_t first = 0; first < x.batch; first += group) {
    const auto tiles = tile_samples(first, std::min(group, x.batch - first), kernels.max_tile_log2);
    const std::int64_t num_samples = packed_samples(tiles);
    const ScratchLease packed_x(static_cast<std::size_t>(num_samples * pattern.num_columns) * sizeof(Scalar));
    const ScratchLease packed_g(static_cast<std::size_t>(num_samples * pattern.num_rows) * sizeof(Scalar));
    pack_activations(x, pattern.num_columns, tiles, packed_x.as<Scalar>(), pool);
    pack_activations(output_gradient, pattern.num_rows, tiles, packed_g.as<Scalar>(), pool);

    const std::int64_t tile_bytes = tiles.front().size() * static_cast<std::int64_t>(sizeof(Scalar));
    const auto panels =
        cut_panels(pattern, tile_bytes, tile_bytes * pattern.num_columns, num_samples, pool.num_threads());
    pool.parallel_for(static_cast<std::int64_t>(panels.size()) - 1, [&](std::int64_t panel) {
      const std::int64_t first_row = panels[panel];
      const std::int64_t last_row = panels[panel + 1];
      for (const SampleTile& tile : tiles) {
        const bool accumulate = first > 0 || tile.packed_before > 0;
        const Scalar* const rows =
            packed_g.as<Scalar>() + tile.packed_before * pattern.num_rows + first_row * tile.size();
        for (std::int64_t block = 0; block < pattern.num_blocks(); ++block) {
          kernels.dot_columns[tile.log2](runs_of(pattern, block, first_row, last_row), rows, tile.size(),
                                         packed_x.as<Scalar>() + tile.packed_before * pattern.num_columns, values_out,
                                         0, accumulate);
        }
        if (bias_gradient != nullptr) {
          kernels.sum_rows(rows, tile.size(), last_row - first_row, tile.num_samples, bias_out + first_row, accumulate);
        }
      }
    });
  }
  if (narrow) {
    write_values(values_out, num_entries, value_gradient, value_type, 0);
    if (bias_gradient != nullptr) write_values(bias_out, pattern.num_rows, bias_gradient, value_type, 0);
  }
}

}  // namespace

void sparse_linear_forward(const SparsePattern& pattern, const void* values, ValueType value_type,
                           const ActivationView& x, const void* bias, void* y, ThreadPool& pool) {
  check_types(value_type, x.type);
  if (value_type == ValueType::kFloat64) {
    forward<double>(pattern, values, value_type, x, bias, y, pool);
  } else {
    forward<float>(pattern, values, value_type, x, bias, y, pool);
  }
}

void sparse_linear_scatter(const SparsePattern& pattern, const void* values, ValueType value_type,
                           const ActivationView& output_gradient, void* input_gradient, ThreadPool& pool) {
  check_types(value_type, output_gradient.type);
  if (pattern.permutation != nullptr) throw std::invalid_argument("a scatter needs the pattern in row order");
  if (value_type == ValueType::kFloat64) {
    scatter<double>(pattern, values, value_type, output_gradient, input_gradient, pool);
  } else {
    scatter<float>(pattern, values, value_type, output_gradient, input_gradient, pool);
  }
}

void sparse_linear_weight_gradient(const SparsePattern& pattern, const ActivationView& x,
                                   const ActivationView& output_gradient, ValueType value_type, void* value_gradient,
                                   void* bias_gradient, ThreadPool& pool) {
  check_types(value_type, x.type);
  if (pattern.permutation != nullptr) throw std::invalid_argument("weight gradients need the pattern in row order");
  if (x.batch != output_gradient.batch || x.type != output_gradient.type) {
    throw std::invalid_argument("input and output gradient must agree in batch and type");
  }
  if (value_type == ValueType::kFloat64) {
    weight_gradient<double>(pattern, x, output_gradient, value_type, value_gradient, bias_gradient, pool);
  } else {
    weight_gradient<float>(pattern, x, output_gradient, value_type, value_gradient, bias_gradient, pool);
  }
}

}  // namespace itop
