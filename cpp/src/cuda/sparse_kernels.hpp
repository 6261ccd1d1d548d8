#pragma once

#include <cstdint>

#include "cuda/launch_shape.hpp"
#include "cuda/simt.hpp"
#include "itop/bfloat16.hpp"
#include "itop/device_sparse_linear.hpp"

/// Products with a sparse matrix. All blocks have kStreamThreads threads; warps are independent of each other.
///
/// No atomics: whoever owns a result sums it, in the order of the entries or of the samples. Offsets into dense
/// operands are 64 bits wide.
namespace itop::cuda {

inline constexpr int kWarpsPerBlock = kStreamThreads / kWarpSize;
/// Samples of one lane, kept in registers while a row passes.
inline constexpr int kSamplesPerLane = 4;
inline constexpr std::int64_t kSamplesPerWarp = std::int64_t{kSamplesPerLane} * kWarpSize;

/// How an element is stored and what it is summed in.
struct Float32Element {
  using Stored = float;
  using Sum = float;
  ITOP_HOST_DEVICE static float widen(float stored) { return stored; }
  ITOP_HOST_DEVICE static float narrow(float sum) { return sum; }
};
struct Float64Element {
  using Stored = double;
  using Sum = double;
  ITOP_HOST_DEVICE static double widen(double stored) { return stored; }
  ITOP_HOST_DEVICE static double narrow(double sum) { return sum; }
};
struct BFloat16Element {
  using Stored = std::uint16_t;
  using Sum = float;
  ITOP_HOST_DEVICE static float widen(std::uint16_t stored) { return from_bfloat16(stored); }
  ITOP_HOST_DEVICE static std::uint16_t narrow(float sum) { return to_bfloat16(sum); }
};

inline std::int64_t sparse_multiply_blocks(std::int64_t num_rows, std::int64_t batch) {
  return ceil_div(num_rows * ceil_div(batch, kSamplesPerWarp), kWarpsPerBlock);
}
inline std::int64_t sparse_gradient_blocks(std::int64_t num_entries) {
  return ceil_div(num_entries, std::int64_t{kWarpsPerBlock} * kWarpSize);
}

ITOP_DEVICE std::int64_t global_warp() { return simt::block() * kWarpsPerBlock + simt::warp(); }

/// A warp has one row and kSamplesPerWarp samples. Its lanes load 32 entries together and pass them round; for each,
/// they read the samples of one feature, neighbours from neighbours. Warps of the same samples stand side by side, so
/// that these are read from the L2 cache.
template <class Value, class Activation>
ITOP_DEVICE void sparse_multiply(const DeviceSparseRows& rows, const typename Value::Stored* values,
                                 const typename Activation::Stored* in, std::int64_t batch,
                                 const typename Value::Stored* bias, typename Activation::Stored* out) {
  using Sum = typename Value::Sum;
  const std::int64_t tile = global_warp() / rows.num_rows;
  const std::int64_t row = global_warp() % rows.num_rows;
  const std::int64_t first_sample = tile * kSamplesPerWarp;
  if (first_sample >= batch) return;

  const Sum start = bias == nullptr ? Sum{0} : Value::widen(bias[row]);
  Sum sums[kSamplesPerLane];
  ITOP_UNROLL
  for (int i = 0; i < kSamplesPerLane; ++i) sums[i] = start;
  const std::int64_t last_entry = rows.row_pointers[row + 1];
  for (std::int64_t first = rows.row_pointers[row]; first < last_entry; first += kWarpSize) {
    const std::int64_t left = last_entry - first;
    const int count = left < kWarpSize ? static_cast<int>(left) : kWarpSize;
    std::int32_t own_column = 0;
    Sum own_value = 0;
    if (simt::lane() < count) {
      const std::int64_t entry = first + simt::lane();
      own_column = rows.columns[entry];
      own_value = Value::widen(values[rows.permutation == nullptr ? entry : std::int64_t{rows.permutation[entry]}]);
    }
    for (int i = 0; i < count; ++i) {
      const std::int64_t feature = simt::shuffle(own_column, i);
      const Sum value = simt::shuffle(own_value, i);
      ITOP_UNROLL
      for (int j = 0; j < kSamplesPerLane; ++j) {
        const std::int64_t sample = first_sample + j * kWarpSize + simt::lane();
        if (sample < batch) sums[j] += value * Activation::widen(in[feature * batch + sample]);
      }
    }
  }
  ITOP_UNROLL
  for (int j = 0; j < kSamplesPerLane; ++j) {
    const std::int64_t sample = first_sample + j * kWarpSize + simt::lane();
    if (sample < batch) out[row * batch + sample] = Activation::narrow(sums[j]);
  }
}

/// The row that holds `entry`; rows may be empty.
ITOP_HOST_DEVICE std::int64_t row_of_entry(const DeviceSparseRows& rows, std::int64_t entry) {
  std::int64_t first = 0;
  std::int64_t last = rows.num_rows - 1;
  while (first < last) {
    const std::int64_t middle = first + (last - first + 1) / 2;
    if (rows.row_pointers[middle] <= entry) {
      first = middle;
    } else {
      last = middle - 1;
    }
  }
  return first;
}

/// A warp has 32 neighbouring entries, whatever rows they belong to: long rows do not make others wait. For each entry
/// the lanes sum over samples a warp's width apart, then over each other.
template <class Value, class Activation>
ITOP_DEVICE void sparse_gradient(const DeviceSparseRows& rows, const typename Activation::Stored* in,
                                 const typename Activation::Stored* output_gradient, std::int64_t batch,
                                 typename Value::Stored* gradient) {
  using Sum = typename Value::Sum;
  const std::int64_t first = global_warp() * kWarpSize;
  if (first >= rows.num_entries) return;
  const std::int64_t left = rows.num_entries - first;
  const int count = left < kWarpSize ? static_cast<int>(left) : kWarpSize;
  const std::int64_t own_entry = first + (simt::lane() < count ? simt::lane() : count - 1);
  const std::int64_t own_row = row_of_entry(rows, own_entry);
  const std::int32_t own_column = rows.columns[own_entry];
  Sum own_sum = 0;
  for (int i = 0; i < count; ++i) {
    const std::int64_t from_row = simt::shuffle(own_row, i) * batch;
    const std::int64_t from_column = std::int64_t{simt::shuffle(own_column, i)} * batch;
    Sum sum = 0;
    for (std::int64_t sample = simt::lane(); sample < batch; sample += kWarpSize) {
      sum += Activation::widen(output_gradient[from_row + sample]) * Activation::widen(in[from_column + sample]);
    }
    const Sum of_warp = simt::warp_sum(sum);
    if (simt::lane() == i) own_sum = of_warp;
  }
  if (simt::lane() < count) gradient[own_entry] = Value::narrow(own_sum);
}

}  // namespace itop::cuda
