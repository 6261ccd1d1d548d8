#include "itop/sparse_convolution.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/sparse_kernels.hpp"
#include "itop/sparse_scratch.hpp"
#include "itop/thread_pool.hpp"
#include "sparse_interleaved.hpp"
#include "sparse_operands.hpp"
#include "sparse_planes.hpp"
#include "sparse_slices.hpp"

namespace itop {
namespace {

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

/// Whether a result written in place passes the caches by: most of it would have left before anybody reads it, and its
/// runs are whole cache lines.
template <class Scalar>
bool is_streamed(const PlaneGrid& grid, const SparsePattern& pattern, const Scalar* result, std::int64_t count) {
  constexpr std::int64_t kWorthIt = std::int64_t{8} << 20;
  constexpr std::int64_t kLine = 64;
  const auto size = static_cast<std::int64_t>(sizeof(Scalar));
  return result != nullptr && grid.is_direct() && pattern.num_blocks() == 1 && count * size >= kWorthIt &&
         grid.plane_stride() * size % kLine == 0 && reinterpret_cast<std::uintptr_t>(result) % kLine == 0;
}

/// Rows [first, last) of out = pattern * in on planes.
template <class Scalar>
void multiply_planes(const PlaneGrid& grid, const SparsePattern& pattern, const Scalar* values, const Scalar* in,
                     const std::vector<PositionRun>& runs, std::int64_t first, std::int64_t last, const Scalar* bias,
                     Scalar* out, bool streams) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  for (const PositionRun& run : runs) {
    const std::int64_t start = grid.front() + run.start;
    const bool streams_run = streams && run.num_repeated == 0;
    const auto multiply =
        (streams_run ? kernels.multiply_positions_streamed : kernels.multiply_positions)[run.width_index];
    for (std::int64_t block = 0; block < pattern.num_blocks(); ++block) {
      multiply(runs_of(pattern, block, first, last), values, 0, in + start, out + start, grid.plane_stride(),
               bias == nullptr ? nullptr : bias + first, block > 0);
    }
  }
  if (streams) kernels.finish_streams();
}

template <class Scalar>
std::size_t planes_bytes(const PlaneGrid& grid, std::int64_t num_planes) {
  return static_cast<std::size_t>(num_planes * grid.plane_stride()) * sizeof(Scalar);
}

/// The planes of a stack: scratch to be packed, or the images themselves where the grid is direct.
template <class Scalar>
class PackedPlanes {
 public:
  PackedPlanes(const PlaneGrid& grid, std::int64_t num_planes, const Scalar* images)
      : grid_(grid), memory_(grid.is_direct() ? 0 : planes_bytes<Scalar>(grid, num_planes)), images_(images) {}

  Scalar* target(std::int64_t plane) const noexcept {
    return memory_.template as<Scalar>() + plane * grid_.plane_stride();
  }
  const Scalar* data() const noexcept { return grid_.is_direct() ? images_ : memory_.template as<Scalar>(); }

 private:
  const PlaneGrid& grid_;
  ScratchLease memory_;
  const Scalar* images_;
};

/// Rows of a run as dot products want them: positions that an earlier run has counted are zero.
template <class Scalar>
class CountedOnce {
 public:
  CountedOnce(const Scalar* rows, std::int64_t stride, std::int64_t num_rows, const PositionRun& run)
      : size_(cpu::kRunWidths[run.width_index]),
        masked_(run.num_repeated == 0 ? 0 : static_cast<std::size_t>(num_rows * size_) * sizeof(Scalar)),
        rows_(rows),
        stride_(stride) {
    if (run.num_repeated == 0) return;
    for (std::int64_t row = 0; row < num_rows; ++row) {
      Scalar* const to = masked_.template as<Scalar>() + row * size_;
      std::fill_n(to, run.num_repeated, Scalar{0});
      std::copy(rows + row * stride + run.num_repeated, rows + row * stride + size_, to + run.num_repeated);
    }
    rows_ = masked_.template as<const Scalar>();
    stride_ = size_;
  }
  const Scalar* data() const noexcept { return rows_; }
  std::int64_t stride() const noexcept { return stride_; }

 private:
  std::int64_t size_;
  ScratchLease masked_;
  const Scalar* rows_;
  std::int64_t stride_;
};

/// The gradients of the values in input planes [first, last) of the transposed pattern; where `results` is not null,
/// those of the inputs as well.
/// @param in      the first of these planes
/// @param results may be `in` where the pattern has one block
template <class Scalar>
void differentiate_planes(const PlaneGrid& grid, const SparsePattern& pattern, const Scalar* values, const Scalar* in,
                          const Scalar* out, const std::vector<PositionRun>& runs, std::int64_t first,
                          std::int64_t last, const typename SliceSums<Scalar>::Slice& slice, Scalar* results,
                          bool streams) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  const std::int64_t stride = grid.plane_stride();
  bool accumulates = slice.accumulate;
  for (const PositionRun& run : runs) {
    const std::int64_t start = grid.front() + run.start;
    const CountedOnce<Scalar> rows(in + start, stride, last - first, run);
    for (std::int64_t block = 0; block < pattern.num_blocks(); ++block) {
      const cpu::EntryRuns entries = runs_of(pattern, block, first, last);
      if (results == nullptr) {
        kernels.dot_positions[run.width_index](entries, rows.data(), rows.stride(), out + start, slice.values, 0,
                                               accumulates);
      } else {
        kernels.multiply_and_dot_positions[run.width_index](
            entries, {values, out + start, results + start, stride, block > 0, streams && run.num_repeated == 0,
                      rows.data(), rows.stride(), slice.values, accumulates});
      }
    }
    accumulates = true;
  }
  if (streams) kernels.finish_streams();
}

template <class Scalar>
void forward(const ConvolutionPattern& pattern, const void* values, ValueType value_type, const Scalar* x,
             std::int64_t batch, const void* bias, Scalar* y, ThreadPool& pool) {
  const PlaneGrid grid(pattern.shape, pattern.layout);
  const ConvolutionShape& shape = pattern.shape;
  const OrderedValues<Scalar> ordered(pattern.forward, values, value_type, pool);
  const ScratchLease wide_bias(bias == nullptr ? 0 : static_cast<std::size_t>(shape.out_channels) * sizeof(Scalar));
  if (bias != nullptr) gather_values(bias, value_type, nullptr, 0, shape.out_channels, wide_bias.as<Scalar>());

  if (grid.is_interleaved()) {
    interleaved_forward(grid, pattern, ordered.data(), x, batch, wide_bias.as<const Scalar>(), y, pool);
    return;
  }

  const std::int64_t in_size = shape.in_channels * shape.in_height * shape.in_width;
  const std::int64_t out_size = shape.out_channels * shape.out_height() * shape.out_width();
  const bool streams = is_streamed(grid, pattern.forward, y, batch * out_size);
  const std::int64_t per_stack = grid.images_per_stack();
  const std::int64_t num_stacks = divide_up(batch, per_stack);
  const int num_widths = cpu::sparse_kernels<Scalar>().num_multiply_widths;
  const auto runs_of_stack = grid.output_runs(std::clamp<std::int64_t>(batch, 1, per_stack), num_widths);
  const auto runs_of_last = grid.output_runs(batch - (num_stacks - 1) * per_stack, num_widths);
  const bool stacks_in_parallel = num_stacks >= pool.num_threads();
  const auto run_stack = [&](std::int64_t stack) {
    const std::int64_t first_image = stack * per_stack;
    const std::int64_t num_images = std::min(per_stack, batch - first_image);
    const Scalar* const images = x + first_image * in_size;
    const auto& runs = stack == num_stacks - 1 ? runs_of_last : runs_of_stack;
    const PackedPlanes<Scalar> in(grid, grid.num_input_planes(), images);
    const ScratchLease out(grid.is_direct() ? 0 : planes_bytes<Scalar>(grid, shape.out_channels));
    in_pieces(grid.num_input_planes(), !stacks_in_parallel, pool, [&](std::int64_t first, std::int64_t last) {
      if (!grid.is_direct()) grid.pack_inputs(images, num_images, first, last, in.target(first));
    });
    Scalar* const stack_out = y + first_image * out_size;
    in_pieces(shape.out_channels, !stacks_in_parallel, pool, [&](std::int64_t first, std::int64_t last) {
      Scalar* const planes = (grid.is_direct() ? stack_out : out.as<Scalar>()) + first * grid.plane_stride();
      multiply_planes(grid, pattern.forward, ordered.data(), in.data(), runs, first, last, wide_bias.as<const Scalar>(),
                      planes, streams);
      if (!grid.is_direct()) grid.unpack_outputs(planes, num_images, first, last, stack_out);
    });
  };
  if (stacks_in_parallel) {
    pool.parallel_for(num_stacks, run_stack);
  } else {
    for (std::int64_t stack = 0; stack < num_stacks; ++stack) run_stack(stack);
  }
}

/// What a backward pass walks over.
template <class Scalar>
std::vector<PositionRun> backward_runs(const PlaneGrid& grid, std::int64_t num_images, bool wants_input,
                                       bool wants_values) {
  const auto& kernels = cpu::sparse_kernels<Scalar>();
  if (!wants_values) return grid.input_runs(num_images, kernels.num_multiply_widths);
  return grid.dot_runs(num_images, wants_input ? kernels.num_multiply_and_dot_widths : kernels.num_dot_widths);
}

template <class Scalar>
void backward(const ConvolutionPattern& pattern, const void* values, ValueType value_type, const Scalar* x,
              const Scalar* output_gradient, std::int64_t batch, const ConvolutionGradients& gradients,
              ThreadPool& pool) {
  const PlaneGrid grid(pattern.shape, pattern.layout);
  const ConvolutionShape& shape = pattern.shape;
  const bool wants_input = gradients.input != nullptr;
  const OrderedValues<Scalar> ordered(wants_input ? pattern.transposed : SparsePattern{}, values, value_type, pool);
  const std::int64_t per_stack = grid.images_per_stack();
  const SliceSums<Scalar> sums(divide_up(batch, per_stack), pattern.transposed.num_entries(),
                               pattern.transposed.permutation, shape.out_channels, gradients);
  auto* const input_gradient = static_cast<Scalar*>(gradients.input);
  if (grid.is_interleaved()) {
    interleaved_backward(grid, pattern, ordered.data(), x, output_gradient, batch, input_gradient, sums, pool);
    sums.write(value_type, pool);
    return;
  }

  const std::int64_t in_size = shape.in_channels * shape.in_height * shape.in_width;
  const std::int64_t out_size = shape.out_channels * shape.out_height() * shape.out_width();
  const bool streams = is_streamed(grid, pattern.transposed, input_gradient, batch * in_size);
  const std::int64_t num_last = batch - (divide_up(batch, per_stack) - 1) * per_stack;
  const auto runs_of_whole =
      backward_runs<Scalar>(grid, std::clamp<std::int64_t>(batch, 1, per_stack), wants_input, sums.wants_values());
  const auto runs_of_last = backward_runs<Scalar>(grid, num_last, wants_input, sums.wants_values());
  // Where the gradient of a tile of inputs is complete when it is written, it takes the place of the packed inputs.
  const bool in_place = pattern.transposed.num_blocks() == 1;
  sums.for_each_stack(pool, [&](std::int64_t stack, const typename SliceSums<Scalar>::Slice& slice, bool alone) {
    const std::int64_t first_image = stack * per_stack;
    const std::int64_t num_images = std::min(per_stack, batch - first_image);
    const auto& runs = num_images == num_last ? runs_of_last : runs_of_whole;
    const std::int64_t plane = grid.plane_stride();
    const PackedPlanes<Scalar> in(grid, grid.num_input_planes(), x + first_image * in_size);
    const PackedPlanes<Scalar> out(grid, shape.out_channels, output_gradient + first_image * out_size);
    const ScratchLease apart(grid.is_direct() || in_place ? 0 : planes_bytes<Scalar>(grid, grid.num_input_planes()));
    in_pieces(shape.out_channels, alone, pool, [&](std::int64_t first, std::int64_t last) {
      if (!grid.is_direct()) {
        grid.pack_outputs(output_gradient + first_image * out_size, num_images, first, last, out.target(first));
      }
      if (sums.wants_bias()) {
        cpu::sparse_kernels<Scalar>().sum_rows(out.data() + first * plane, plane, last - first, static_cast<int>(plane),
                                               slice.bias + first, slice.accumulate);
      }
    });
    Scalar* const stack_gradient = wants_input ? input_gradient + first_image * in_size : nullptr;
    in_pieces(shape.in_channels, alone, pool, [&](std::int64_t first, std::int64_t last) {
      const std::int64_t first_plane = first * grid.num_phases();
      const std::int64_t last_plane = last * grid.num_phases();
      if (sums.wants_values() && !grid.is_direct()) {
        grid.pack_inputs(x + first_image * in_size, num_images, first_plane, last_plane, in.target(first_plane));
      }
      Scalar* planes = nullptr;
      if (wants_input) {
        planes = grid.is_direct() ? stack_gradient + first_plane * plane
                 : in_place       ? in.target(first_plane)
                                  : apart.as<Scalar>() + first_plane * plane;
      }
      if (sums.wants_values()) {
        differentiate_planes<Scalar>(grid, pattern.transposed, ordered.data(), in.data() + first_plane * plane,
                                     out.data(), runs, first_plane, last_plane, slice, planes, streams);
      } else if (wants_input) {
        multiply_planes<Scalar>(grid, pattern.transposed, ordered.data(), out.data(), runs, first_plane, last_plane,
                                nullptr, planes, streams);
      }
      if (wants_input && !grid.is_direct()) grid.unpack_inputs(planes, num_images, first, last, stack_gradient);
    });
  });
  sums.write(value_type, pool);
}

void check_types(ValueType values, ValueType activations) {
  if (activations == ValueType::kBFloat16 || (values == ValueType::kFloat64) != (activations == ValueType::kFloat64)) {
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
      shifts[e] = static_cast<std::int32_t>(grid.input_shift(index.in_channel, tap));
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
        body(row, e, index.in_channel * grid.num_phases() + tap.phase, tap);
      }
    }
  };
  for_each([&](std::int64_t, std::int64_t, std::int64_t plane, const PlaneGrid::Tap&) { ++plane_pointers[plane + 1]; });
  for (std::int64_t plane = 0; plane < num_planes; ++plane) plane_pointers[plane + 1] += plane_pointers[plane];
  std::vector<std::int64_t> next(plane_pointers, plane_pointers + num_planes);
  for_each([&](std::int64_t row, std::int64_t e, std::int64_t plane, const PlaneGrid::Tap& tap) {
    const std::int64_t to = next[static_cast<std::size_t>(plane)]++;
    out_channels[to] = static_cast<std::int32_t>(row);
    permutation[to] = static_cast<std::uint32_t>(e);
    shifts[to] = static_cast<std::int32_t>(grid.output_shift(row, tap));
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
