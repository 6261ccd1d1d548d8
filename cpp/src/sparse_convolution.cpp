#include "itop/sparse_convolution.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/sparse_kernels.hpp"
#include "itop/thread_pool.hpp"
#include "sparse_operands.hpp"
#include "sparse_planes.hpp"
#include "sparse_scratch.hpp"

namespace itop {
namespace {

// Partial sums of the weight gradient: a fixed number, so that the result does not depend on the number of threads.
constexpr std::int64_t kMaxSlices = 8;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

struct WeightIndex {
  std::int64_t in_channel, kernel_y, kernel_x;
};

WeightIndex weight_index(const ConvolutionShape& shape, std::int64_t out_channel, std::int32_t column) {
  const std::int64_t area = shape.kernel_height * shape.kernel_width;
  const std::int64_t group = out_channel / (shape.out_channels / shape.groups);
  const std::int64_t place = column % area;
  return {group * (shape.in_channels / shape.groups) + column / area, place / shape.kernel_width,
          place % shape.kernel_width};
}

cpu::EntryRuns runs_of(const SparsePattern& pattern, std::int64_t block, std::int64_t first_row,
                       std::int64_t last_row) {
  return {pattern.block_starts + block * pattern.num_rows + first_row,
          pattern.block_starts + (block + 1) * pattern.num_rows + first_row, last_row - first_row, pattern.columns};
}

/// The values in a pattern's order as Scalar; a copy only where order or type differ.
template <class Scalar>
class OrderedValues {
 public:
  OrderedValues(const SparsePattern& pattern, const void* values, ValueType type, ThreadPool& pool)
      : copied_(pattern.permutation != nullptr || type == ValueType::kBFloat16),
        copy_(copied_ ? static_cast<std::size_t>(pattern.num_entries()) * sizeof(Scalar) : 0),
        values_(values) {
    if (!copied_) return;
    constexpr std::int64_t kEntriesPerChunk = 16384;
    const std::int64_t count = pattern.num_entries();
    pool.parallel_for(divide_up(count, kEntriesPerChunk), [&](std::int64_t chunk) {
      const std::int64_t first = chunk * kEntriesPerChunk;
      gather_values(values, type, pattern.permutation, first, std::min(kEntriesPerChunk, count - first),
                    copy_.template as<Scalar>() + first);
    });
  }
  const Scalar* data() const noexcept {
    return copied_ ? copy_.template as<Scalar>() : static_cast<const Scalar*>(values_);
  }

 private:
  bool copied_;
  ScratchLease copy_;
  const void* values_;
};

/// Runs `body(first, last)` on pieces of [0, count): at once where the caller already is one of many, else in parallel.
template <class Body>
void in_pieces(std::int64_t count, bool alone, ThreadPool& pool, Body&& body) {
  const std::int64_t num_pieces = alone ? std::min<std::int64_t>(count, std::int64_t{4} * pool.num_threads()) : 1;
  pool.parallel_for(num_pieces, [&](std::int64_t piece) {
    body(count * piece / num_pieces, count * (piece + 1) / num_pieces);
  });
}

/// Rows [first, last) of out = pattern * in on planes.
template <class Scalar>
void multiply_planes(const PlaneGrid& grid, const SparsePattern& pattern, const Scalar* values, const Scalar* in,
                     const std::vector<PositionRun>& runs, std::int64_t first, std::int64_t last, const Scalar* bias,
                     Scalar* out) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  for (const PositionRun& run : runs) {
    const std::int64_t start = grid.front() + run.start;
    for (std::int64_t block = 0; block < pattern.num_blocks(); ++block) {
      kernels.multiply_positions[run.log2](runs_of(pattern, block, first, last), values, 0, in + start, out + start,
                                           grid.plane_stride(), bias == nullptr ? nullptr : bias + first, block > 0);
    }
  }
}

template <class Scalar>
void forward(const ConvolutionPattern& pattern, const void* values, ValueType value_type, const Scalar* x,
             std::int64_t batch, const void* bias, Scalar* y, ThreadPool& pool) {
  const PlaneGrid grid(pattern.shape, pattern.layout);
  const ConvolutionShape& shape = pattern.shape;
  const int max_log2 = cpu::sparse_kernels<Scalar>().max_tile_log2;
  const OrderedValues<Scalar> ordered(pattern.forward, values, value_type, pool);
  const ScratchLease wide_bias(bias == nullptr ? 0 : static_cast<std::size_t>(shape.out_channels) * sizeof(Scalar));
  if (bias != nullptr) gather_values(bias, value_type, nullptr, 0, shape.out_channels, wide_bias.as<Scalar>());

  const std::int64_t in_size = shape.in_channels * shape.in_height * shape.in_width;
  const std::int64_t out_size = shape.out_channels * shape.out_height() * shape.out_width();
  const std::int64_t per_stack = grid.images_per_stack();
  const std::int64_t num_stacks = divide_up(batch, per_stack);
  const bool stacks_in_parallel = num_stacks >= pool.num_threads();
  const auto run_stack = [&](std::int64_t stack) {
    const std::int64_t first_image = stack * per_stack;
    const std::int64_t num_images = std::min(per_stack, batch - first_image);
    const Scalar* const images = x + first_image * in_size;
    const auto runs = grid.output_runs(num_images, max_log2);
    const ScratchLease in(static_cast<std::size_t>(grid.num_input_planes() * grid.plane_stride()) * sizeof(Scalar));
    const ScratchLease out(static_cast<std::size_t>(shape.out_channels * grid.plane_stride()) * sizeof(Scalar));
    in_pieces(grid.num_input_planes(), !stacks_in_parallel, pool, [&](std::int64_t first, std::int64_t last) {
      grid.pack_inputs(images, num_images, first, last, in.as<Scalar>() + first * grid.plane_stride());
    });
    in_pieces(shape.out_channels, !stacks_in_parallel, pool, [&](std::int64_t first, std::int64_t last) {
      Scalar* const planes = out.as<Scalar>() + first * grid.plane_stride();
      multiply_planes(grid, pattern.forward, ordered.data(), in.as<const Scalar>(), runs, first, last,
                      wide_bias.as<const Scalar>(), planes);
      grid.unpack_outputs(planes, num_images, first, last, y + first_image * out_size);
    });
  };
  if (stacks_in_parallel) {
    pool.parallel_for(num_stacks, run_stack);
  } else {
    for (std::int64_t stack = 0; stack < num_stacks; ++stack) run_stack(stack);
  }
}

template <class Scalar>
void backward(const ConvolutionPattern& pattern, const void* values, ValueType value_type, const Scalar* x,
              const Scalar* output_gradient, std::int64_t batch, const ConvolutionGradients& gradients,
              ThreadPool& pool) {
  const PlaneGrid grid(pattern.shape, pattern.layout);
  const ConvolutionShape& shape = pattern.shape;
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  const std::int64_t num_entries = pattern.forward.num_entries();
  const OrderedValues<Scalar> ordered(gradients.input == nullptr ? SparsePattern{} : pattern.transposed, values,
                                      value_type, pool);

  const std::int64_t in_size = shape.in_channels * shape.in_height * shape.in_width;
  const std::int64_t out_size = shape.out_channels * shape.out_height() * shape.out_width();
  const std::int64_t per_stack = grid.images_per_stack();
  const std::int64_t num_stacks = divide_up(batch, per_stack);
  const std::int64_t num_slices = std::min(num_stacks, kMaxSlices);
  const bool slices_in_parallel = num_slices >= pool.num_threads();

  // One slice's sums: [num_entries] of the values, then [out_channels] of the bias.
  const std::int64_t sums_per_slice = num_entries + shape.out_channels;
  const ScratchLease slice_sums(static_cast<std::size_t>(num_slices * sums_per_slice) * sizeof(Scalar));
  const auto run_stack = [&](std::int64_t stack, Scalar* sums, bool accumulate) {
    const std::int64_t first_image = stack * per_stack;
    const std::int64_t num_images = std::min(per_stack, batch - first_image);
    const auto output_runs = grid.output_runs(num_images, kernels.max_tile_log2);
    const std::int64_t plane = grid.plane_stride();
    const ScratchLease in(static_cast<std::size_t>(grid.num_input_planes() * plane) * sizeof(Scalar));
    const ScratchLease out(static_cast<std::size_t>(shape.out_channels * plane) * sizeof(Scalar));
    in_pieces(shape.out_channels, !slices_in_parallel, pool, [&](std::int64_t first, std::int64_t last) {
      grid.pack_outputs(output_gradient + first_image * out_size, num_images, first, last,
                        out.as<Scalar>() + first * plane);
    });
    if (gradients.values != nullptr) {
      in_pieces(grid.num_input_planes(), !slices_in_parallel, pool, [&](std::int64_t first, std::int64_t last) {
        grid.pack_inputs(x + first_image * in_size, num_images, first, last, in.as<Scalar>() + first * plane);
      });
    }
    in_pieces(shape.out_channels, !slices_in_parallel, pool, [&](std::int64_t first, std::int64_t last) {
      for (std::size_t i = 0; gradients.values != nullptr && i < output_runs.size(); ++i) {
        const std::int64_t start = grid.front() + output_runs[i].start;
        for (std::int64_t block = 0; block < pattern.forward.num_blocks(); ++block) {
          kernels.dot_positions[output_runs[i].log2](runs_of(pattern.forward, block, first, last),
                                                     out.as<Scalar>() + first * plane + start, plane,
                                                     in.as<Scalar>() + start, sums, 0, accumulate || i > 0);
        }
      }
      if (gradients.bias != nullptr) {
        kernels.sum_rows(out.as<Scalar>() + first * plane, plane, last - first, static_cast<int>(plane),
                         sums + num_entries + first, accumulate);
      }
    });
    if (gradients.input == nullptr) return;
    const auto input_runs = grid.input_runs(num_images, kernels.max_tile_log2);
    in_pieces(shape.in_channels, !slices_in_parallel, pool, [&](std::int64_t first, std::int64_t last) {
      // The input's planes are no longer needed: their memory takes the gradient.
      Scalar* const planes = in.as<Scalar>() + first * grid.num_phases() * plane;
      multiply_planes<Scalar>(grid, pattern.transposed, ordered.data(), out.as<Scalar>(), input_runs,
                              first * grid.num_phases(), last * grid.num_phases(), nullptr, planes);
      grid.unpack_inputs(planes, num_images, first, last, static_cast<Scalar*>(gradients.input) + first_image * in_size);
    });
  };
  const auto run_slice = [&](std::int64_t slice) {
    Scalar* const sums = slice_sums.as<Scalar>() + slice * sums_per_slice;
    const std::int64_t first = num_stacks * slice / num_slices;
    for (std::int64_t stack = first; stack < num_stacks * (slice + 1) / num_slices; ++stack) {
      run_stack(stack, sums, stack > first);
    }
  };
  if (slices_in_parallel) {
    pool.parallel_for(num_slices, run_slice);
  } else {
    for (std::int64_t slice = 0; slice < num_slices; ++slice) run_slice(slice);
  }

  const auto add_slices = [&](void* target, std::int64_t offset, std::int64_t count) {
    constexpr std::int64_t kPerChunk = 8192;
    pool.parallel_for(divide_up(count, kPerChunk), [&](std::int64_t chunk) {
      const std::int64_t first = chunk * kPerChunk;
      const std::int64_t size = std::min(kPerChunk, count - first);
      Scalar total[kPerChunk] = {};
      for (std::int64_t slice = 0; slice < num_slices; ++slice) {
        const Scalar* const sums = slice_sums.as<const Scalar>() + slice * sums_per_slice + offset + first;
        for (std::int64_t i = 0; i < size; ++i) total[i] += sums[i];
      }
      write_values(total, size, target, value_type, first);
    });
  };
  if (gradients.values != nullptr) add_slices(gradients.values, 0, num_entries);
  if (gradients.bias != nullptr) add_slices(gradients.bias, num_entries, shape.out_channels);
}

void check_types(ValueType values, ValueType activations) {
  if (activations == ValueType::kBFloat16 ||
      (values == ValueType::kFloat64) != (activations == ValueType::kFloat64)) {
    throw std::invalid_argument("a convolution's images are float32, or float64 with values of float64");
  }
}

}  // namespace

std::int64_t num_convolution_planes(const ConvolutionShape& shape) {
  return PlaneGrid(shape, PlaneLayout::kPositions).num_input_planes();
}

void fill_convolution_shifts(const ConvolutionShape& shape, PlaneLayout layout, const std::int64_t* row_pointers,
                             const std::int32_t* columns, std::int32_t* shifts) {
  const PlaneGrid grid(shape, layout);
  for (std::int64_t row = 0; row < shape.out_channels; ++row) {
    for (std::int64_t e = row_pointers[row]; e < row_pointers[row + 1]; ++e) {
      const WeightIndex index = weight_index(shape, row, columns[e]);
      const PlaneGrid::Tap tap = grid.tap(index.kernel_y, index.kernel_x);
      const std::int64_t plane = index.in_channel * grid.num_phases() + tap.phase;
      shifts[e] = static_cast<std::int32_t>(plane * grid.plane_stride() + tap.shift);
    }
  }
}

void transpose_convolution(const ConvolutionShape& shape, PlaneLayout layout, const std::int64_t* row_pointers,
                           const std::int32_t* columns, std::int64_t* plane_pointers, std::int32_t* out_channels,
                           std::uint32_t* permutation, std::int32_t* shifts) {
  const PlaneGrid grid(shape, layout);
  const std::int64_t num_planes = grid.num_input_planes();
  std::fill_n(plane_pointers, num_planes + 1, std::int64_t{0});
  const auto for_each = [&](auto&& body) {
    for (std::int64_t row = 0; row < shape.out_channels; ++row) {
      for (std::int64_t e = row_pointers[row]; e < row_pointers[row + 1]; ++e) {
        const WeightIndex index = weight_index(shape, row, columns[e]);
        const PlaneGrid::Tap tap = grid.tap(index.kernel_y, index.kernel_x);
        body(row, e, index.in_channel * grid.num_phases() + tap.phase, tap.shift);
      }
    }
  };
  for_each([&](std::int64_t, std::int64_t, std::int64_t plane, std::int64_t) { ++plane_pointers[plane + 1]; });
  for (std::int64_t plane = 0; plane < num_planes; ++plane) plane_pointers[plane + 1] += plane_pointers[plane];
  std::vector<std::int64_t> next(plane_pointers, plane_pointers + num_planes);
  for_each([&](std::int64_t row, std::int64_t e, std::int64_t plane, std::int64_t shift) {
    const std::int64_t to = next[static_cast<std::size_t>(plane)]++;
    out_channels[to] = static_cast<std::int32_t>(row);
    permutation[to] = static_cast<std::uint32_t>(e);
    shifts[to] = static_cast<std::int32_t>(row * grid.plane_stride() - shift);
  });
}

void sparse_convolution_forward(const ConvolutionPattern& pattern, const void* values, ValueType value_type,
                                const void* x, ValueType type, std::int64_t batch, const void* bias, void* y,
                                ThreadPool& pool) {
  check_types(value_type, type);
  if (type == ValueType::kFloat64) {
    forward(pattern, values, value_type, static_cast<const double*>(x), batch, bias, static_cast<double*>(y), pool);
  } else {
    forward(pattern, values, value_type, static_cast<const float*>(x), batch, bias, static_cast<float*>(y), pool);
  }
}

void sparse_convolution_backward(const ConvolutionPattern& pattern, const void* values, ValueType value_type,
                                 const void* x, const void* output_gradient, ValueType type, std::int64_t batch,
                                 const ConvolutionGradients& gradients, ThreadPool& pool) {
  check_types(value_type, type);
  if (type == ValueType::kFloat64) {
    backward(pattern, values, value_type, static_cast<const double*>(x), static_cast<const double*>(output_gradient),
             batch, gradients, pool);
  } else {
    backward(pattern, values, value_type, static_cast<const float*>(x), static_cast<const float*>(output_gradient),
             batch, gradients, pool);
  }
}

}  // namespace itop
