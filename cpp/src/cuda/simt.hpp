#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/launch_shape.hpp"
#include "cuda/vector.hpp"
#include "itop/bitset.hpp"

/// The few operations of a GPU's execution model that kernels use. Kernel bodies are written against these names only,
/// so that they compile twice: by nvcc for the device, and by the host compiler against a simulator
/// (cpp/tests/support), in which every thread of a block is a fiber and the tests run the very code the GPU runs.
///
/// Every warp operation is taken part in by all 32 lanes; there are no partial masks. `shared<T>()` is memory that the
/// threads of a block share; it comes as it is: no constructor runs.

#if defined(__CUDACC__)

#define ITOP_DEVICE __device__ __forceinline__
#define ITOP_UNROLL _Pragma("unroll")

namespace itop::cuda::simt {

inline constexpr std::uint32_t kAllLanes = 0xFFFFFFFFu;

ITOP_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
ITOP_DEVICE int num_threads() { return static_cast<int>(blockDim.x); }
ITOP_DEVICE std::int64_t block() { return static_cast<std::int64_t>(blockIdx.x); }
ITOP_DEVICE std::int64_t num_blocks() { return static_cast<std::int64_t>(gridDim.x); }
ITOP_DEVICE void sync_block() { __syncthreads(); }
template <class T>
ITOP_DEVICE T& shared() {
  static_assert(std::is_trivially_default_constructible_v<T>);
  __shared__ T object;
  return object;
}
ITOP_DEVICE std::uint32_t ballot(bool predicate) { return __ballot_sync(kAllLanes, predicate); }

template <class T>
ITOP_DEVICE T shuffle(T value, int source_lane) {
  return __shfl_sync(kAllLanes, value, source_lane);
}
/// The value of the lane `distance` below; lanes without one get their own.
template <class T>
ITOP_DEVICE T shuffle_up(T value, int distance) {
  return __shfl_up_sync(kAllLanes, value, static_cast<unsigned>(distance));
}
/// The lanes that hold the same value.
ITOP_DEVICE std::uint32_t match(std::uint32_t value) { return __match_any_sync(kAllLanes, value); }

ITOP_DEVICE std::uint32_t atomic_add(std::uint32_t* target, std::uint32_t value) { return atomicAdd(target, value); }
ITOP_DEVICE std::uint64_t atomic_add(std::uint64_t* target, std::uint64_t value) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value));
}
ITOP_DEVICE void atomic_or(std::uint64_t* target, std::uint64_t value) {
  atomicOr(reinterpret_cast<unsigned long long*>(target), static_cast<unsigned long long>(value));
}

/// One instruction of 16 bytes each; the address must be a multiple of 16.
ITOP_DEVICE Vector load_vector(const void* address) {
  const uint4 loaded = *static_cast<const uint4*>(address);
  return {{loaded.x, loaded.y, loaded.z, loaded.w}};
}
ITOP_DEVICE void store_vector(void* address, const Vector& vector) {
  *static_cast<uint4*>(address) = make_uint4(vector.word[0], vector.word[1], vector.word[2], vector.word[3]);
}

ITOP_DEVICE int popcount(Word word) { return __popcll(word); }
ITOP_DEVICE int lowest_bit(Word word) { return __ffsll(static_cast<long long>(word)) - 1; }

}  // namespace itop::cuda::simt

#else

#define ITOP_DEVICE inline
#define ITOP_UNROLL
#include "support/simt_simulator.hpp"

#endif

namespace itop::cuda::simt {

ITOP_DEVICE int lane() { return thread() % kWarpSize; }
ITOP_DEVICE int warp() { return thread() / kWarpSize; }

/// The sum of the values of this lane and all below it.
template <class T>
ITOP_DEVICE T inclusive_sum(T value) {
  for (int distance = 1; distance < kWarpSize; distance *= 2) {
    const T below = shuffle_up(value, distance);
    if (lane() >= distance) value += below;
  }
  return value;
}

/// The sum over the warp, in every lane.
template <class T>
ITOP_DEVICE T warp_sum(T value) {
  return shuffle(inclusive_sum(value), kWarpSize - 1);
}

/// Adds the warp's sum to a counter by one atomic operation.
ITOP_DEVICE void add_warp_sum(std::uint64_t* counter, std::uint64_t value) {
  const std::uint64_t sum = warp_sum(value);
  if (lane() == 0 && sum != 0) atomic_add(counter, sum);
}

/// Reserves `count` slots for each lane behind `counter`, by one atomic operation. Returns this lane's first slot.
ITOP_DEVICE std::uint64_t reserve(std::uint64_t* counter, std::uint32_t count) {
  const std::uint32_t up_to_here = inclusive_sum(count);
  const std::uint32_t total = shuffle(up_to_here, kWarpSize - 1);
  std::uint64_t first = 0;
  if (lane() == 0 && total != 0) first = atomic_add(counter, std::uint64_t{total});
  return shuffle(first, 0) + (up_to_here - count);
}

}  // namespace itop::cuda::simt
