// Sparse convolutions beside their floor, the fused-multiply-add peak, pass by pass and layout by layout.
// Usage: convolution_benchmark [kernel channels size sparsity block-channels repeats]

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "benchmark.hpp"
#include "itop/build_info.hpp"
#include "itop/sparse_convolution.hpp"
#include "itop/sparse_matrix.hpp"
#include "itop/thread_pool.hpp"

namespace {

using itop::benchmark::milliseconds;

constexpr std::int64_t kBatch = 32;

/// A weight of random positions with the indices of one layout.
struct Weight {
  itop::ConvolutionShape shape;
  std::vector<std::int64_t> pointers{0}, plane_pointers;
  std::vector<std::int32_t> columns, shifts, out_channels, back_shifts;
  std::vector<std::uint32_t> permutation, starts, back_starts;
  std::vector<float> values;

  itop::ConvolutionPattern pattern(itop::PlaneLayout layout, std::int64_t block_channels, itop::ThreadPool& pool) {
    const auto f = [](std::int64_t count) { return static_cast<std::size_t>(count); };
    const std::int64_t num_planes = num_convolution_planes(shape);
    const std::int64_t width = block_channels * shape.kernel_height * shape.kernel_width;
    shifts.resize(columns.size());
    back_shifts.resize(columns.size());
    out_channels.resize(columns.size());
    permutation.resize(columns.size());
    plane_pointers.resize(f(num_planes + 1));
    fill_convolution_shifts(shape, layout, pointers.data(), columns.data(), shifts.data());
    transpose_convolution(shape, layout, pointers.data(), columns.data(), plane_pointers.data(), out_channels.data(),
                          permutation.data(), back_shifts.data());
    itop::SparsePattern forward{shape.out_channels, shape.num_columns(), width, nullptr, shifts.data(), nullptr};
    itop::SparsePattern transposed{num_planes, shape.out_channels, block_channels,
                                   nullptr,    back_shifts.data(), permutation.data()};
    starts.resize(f((forward.num_blocks() + 1) * forward.num_rows));
    back_starts.resize(f((transposed.num_blocks() + 1) * transposed.num_rows));
    itop::fill_block_starts(forward.num_rows, forward.num_columns, pointers.data(), columns.data(), width,
                            starts.data(), pool);
    itop::fill_block_starts(transposed.num_rows, transposed.num_columns, plane_pointers.data(), out_channels.data(),
                            block_channels, back_starts.data(), pool);
    forward.block_starts = starts.data();
    transposed.block_starts = back_starts.data();
    return {shape, layout, forward, transposed};
  }
};

Weight random_weight(std::int64_t kernel, std::int64_t channels, std::int64_t size, double density) {
  Weight weight;
  weight.shape.in_channels = weight.shape.out_channels = channels;
  weight.shape.in_height = weight.shape.in_width = size;
  weight.shape.kernel_height = weight.shape.kernel_width = kernel;
  weight.shape.padding_height = weight.shape.padding_width = kernel / 2;
  std::mt19937_64 generator(7);
  std::geometric_distribution<std::int64_t> gap(density);
  const std::int64_t num_columns = weight.shape.num_columns();
  for (std::int64_t row = 0; row < channels; ++row) {
    for (std::int64_t column = gap(generator); column < num_columns; column += 1 + gap(generator)) {
      weight.columns.push_back(static_cast<std::int32_t>(column));
    }
    weight.pointers.push_back(static_cast<std::int64_t>(weight.columns.size()));
  }
  weight.values.assign(weight.columns.size(), 0.5F);
  return weight;
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t kernel = argc > 1 ? std::atoll(argv[1]) : 3;
  const std::int64_t channels = argc > 2 ? std::atoll(argv[2]) : 256;
  const std::int64_t size = argc > 3 ? std::atoll(argv[3]) : 14;
  const double sparsity = argc > 4 ? std::atof(argv[4]) : 0.98;
  const std::int64_t block = argc > 5 ? std::atoll(argv[5]) : channels;
  const int repeats = argc > 6 ? std::atoi(argv[6]) : 20;
  auto& pool = itop::ThreadPool::global();
  Weight weight = random_weight(kernel, channels, size, 1 - sparsity);
  std::printf("%s, %d threads, %lldx%lld, %lld channels, %lldx%lld, %.3g sparse, batch %lld\n",
              itop::build_info().instruction_set.c_str(), pool.num_threads(), static_cast<long long>(kernel),
              static_cast<long long>(kernel), static_cast<long long>(channels), static_cast<long long>(size),
              static_cast<long long>(size), sparsity, static_cast<long long>(kBatch));
  std::printf("layout         block    forward  input  values   both   step  (ms)   GFLOP/s of the step\n");
  const auto num_scalars = static_cast<std::size_t>(kBatch * channels * size * size);
  std::vector<float> x(num_scalars, 1.0F);
  std::vector<float> y(num_scalars, 1.0F);
  std::vector<float> input_gradient(num_scalars);
  std::vector<float> gradient(weight.values.size());
  const auto f32 = itop::ValueType::kFloat32;
  for (const auto layout : {itop::PlaneLayout::kPositions, itop::PlaneLayout::kInterleaved}) {
    for (const std::int64_t channels_at_once : {channels, block}) {
      const itop::ConvolutionPattern pattern = weight.pattern(layout, channels_at_once, pool);
      const auto backward = [&](const itop::ConvolutionGradients& wanted) {
        return milliseconds(repeats, [&] {
          itop::sparse_convolution_backward(pattern, weight.values.data(), f32, x.data(), y.data(), f32, kBatch, wanted,
                                            pool);
        });
      };
      const double forward = milliseconds(repeats, [&] {
        itop::sparse_convolution_forward(pattern, weight.values.data(), f32, x.data(), f32, kBatch, nullptr, y.data(),
                                         pool);
      });
      const double input = backward({input_gradient.data(), nullptr, nullptr});
      const double values = backward({nullptr, gradient.data(), nullptr});
      const double both = backward({input_gradient.data(), gradient.data(), nullptr});
      const double flops = 6e-6 * static_cast<double>(weight.values.size()) * static_cast<double>(kBatch * size * size);
      std::printf("%-14s %5lld   %8.3f %6.3f  %6.3f %6.3f %6.3f   %18.1f\n",
                  layout == itop::PlaneLayout::kPositions ? "positions" : "interleaved",
                  static_cast<long long>(channels_at_once), forward, input, values, both, forward + both,
                  flops / (forward + both));
      if (block >= channels) break;
    }
  }
  return 0;
}
