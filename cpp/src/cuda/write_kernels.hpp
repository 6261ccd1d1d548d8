#pragma once

#include <cstdint>

#include "cuda/executor.hpp"
#include "cuda/launch_shape.hpp"
#include "cuda/simt.hpp"

/// The kernel that brings a call's tables to the device and clears its counters.
namespace itop::cuda {

/// Words that travel as a kernel's argument, by value.
template <int kCapacity>
struct Parcel {
  std::uint64_t words[kCapacity];
  std::int32_t num_words = 0;
};
using SmallParcel = Parcel<480>;
using LargeParcel = Parcel<4000>;
static_assert(sizeof(SmallParcel) + 48 <= 4096);
static_assert(sizeof(LargeParcel) + 48 <= 32764);

/// Words that one thread makes zero.
inline constexpr std::int64_t kZeroesPerThread = 8;

ITOP_DEVICE void clear(const ZeroRange& zeros) {
  const std::int64_t step = simt::num_blocks() * simt::num_threads();
  for (std::int64_t i = simt::block() * simt::num_threads() + simt::thread(); i < zeros.num_words; i += step) {
    zeros.begin[i] = 0;
  }
}

/// Any number of blocks of kStreamThreads threads.
template <class Words>
ITOP_DEVICE void write(const Words& parcel, std::uint64_t* target, const ZeroRange& zeros,
                       const ZeroRange& more_zeros) {
  const auto step = static_cast<std::int32_t>(simt::num_blocks()) * simt::num_threads();
  for (auto i = static_cast<std::int32_t>(simt::block()) * simt::num_threads() + simt::thread(); i < parcel.num_words;
       i += step) {
    target[i] = parcel.words[i];
  }
  clear(zeros);
  clear(more_zeros);
}

}  // namespace itop::cuda
