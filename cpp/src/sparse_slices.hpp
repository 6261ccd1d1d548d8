#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/sparse_kernels.hpp"
#include "itop/sparse_convolution.hpp"
#include "itop/sparse_scratch.hpp"
#include "itop/thread_pool.hpp"
#include "sparse_operands.hpp"

namespace itop {

/// Runs `body(first, last)` on pieces of [0, count): at once where the caller already is one of many, else in parallel.
template <class Body>
void in_pieces(std::int64_t count, bool alone, ThreadPool& pool, Body&& body) {
  const std::int64_t num_pieces = alone ? std::min<std::int64_t>(count, std::int64_t{4} * pool.num_threads()) : 1;
  pool.parallel_for(num_pieces,
                    [&](std::int64_t piece) { body(count * piece / num_pieces, count * (piece + 1) / num_pieces); });
}

/// A convolution's gradients that sum over images: partial sums of a fixed number of slices of the batch, so that the
/// result does not depend on the number of threads.
template <class Scalar>
class SliceSums {
 public:
  /// @param num_stacks  stacks of images, dealt out to the slices in order
  /// @param permutation where an entry's sum is written to
  SliceSums(std::int64_t num_stacks, std::int64_t num_entries, const std::uint32_t* permutation,
            std::int64_t num_channels, const ConvolutionGradients& wanted)
      : num_stacks_(num_stacks),
        num_slices_(std::min(num_stacks, kMaxSlices)),
        num_entries_(num_entries),
        permutation_(permutation),
        num_channels_(num_channels),
        wanted_(wanted),
        memory_(static_cast<std::size_t>(num_slices_ * (num_entries + num_channels)) * sizeof(Scalar)) {}

  bool wants_values() const noexcept { return wanted_.values != nullptr; }
  bool wants_bias() const noexcept { return wanted_.bias != nullptr; }

  /// Where a slice sums up its stacks.
  struct Slice {
    Scalar* values;  ///< [num_entries]
    Scalar* bias;    ///< [num_channels]
    bool accumulate = false;
  };

  /// Runs `body(stack, slice, alone)` for every stack; `alone` where threads are left over for it. The first stack of
  /// a slice finds `accumulate` false.
  template <class Body>
  void for_each_stack(ThreadPool& pool, Body&& body) const {
    const bool alone = num_slices_ < pool.num_threads();
    const auto run_slice = [&](std::int64_t index) {
      Scalar* const values = memory_.template as<Scalar>() + index * (num_entries_ + num_channels_);
      Slice slice{values, values + num_entries_};
      for (std::int64_t stack = num_stacks_ * index / num_slices_; stack < num_stacks_ * (index + 1) / num_slices_;
           ++stack) {
        body(stack, slice, alone);
        slice.accumulate = true;
      }
    };
    if (alone) {
      for (std::int64_t index = 0; index < num_slices_; ++index) run_slice(index);
    } else {
      pool.parallel_for(num_slices_, run_slice);
    }
  }

  /// Adds up the slices in order.
  void write(ValueType type, ThreadPool& pool) const {
    if (wants_values()) write(wanted_.values, type, permutation_, 0, num_entries_, pool);
    if (wants_bias()) write(wanted_.bias, type, nullptr, num_entries_, num_channels_, pool);
  }

 private:
  static constexpr std::int64_t kMaxSlices = 8;

  void write(void* target, ValueType type, const std::uint32_t* permutation, std::int64_t offset, std::int64_t count,
             ThreadPool& pool) const {
    constexpr std::int64_t kPerChunk = 8192;
    pool.parallel_for((count + kPerChunk - 1) / kPerChunk, [&](std::int64_t chunk) {
      const std::int64_t first = chunk * kPerChunk;
      const std::int64_t size = std::min(kPerChunk, count - first);
      Scalar total[kPerChunk] = {};
      for (std::int64_t slice = 0; slice < num_slices_; ++slice) {
        const Scalar* const sums =
            memory_.template as<const Scalar>() + slice * (num_entries_ + num_channels_) + offset + first;
        for (std::int64_t i = 0; i < size; ++i) total[i] += sums[i];
      }
      write_values(total, size, target, type, permutation, first);
    });
  }

  std::int64_t num_stacks_, num_slices_, num_entries_;
  const std::uint32_t* permutation_;
  std::int64_t num_channels_;
  ConvolutionGradients wanted_;
  ScratchLease memory_;
};

}  // namespace itop
