#pragma once

#include <cstdint>

#include "itop/host_device.hpp"

namespace itop::cuda::simt {

/// What one load or store of a lane moves at most.
struct alignas(16) Vector {
  std::uint32_t word[4];
};

ITOP_HOST_DEVICE bool is_vector_address(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address) % sizeof(Vector) == 0;
}

/// Element `i` of a vector of unsigned integers.
template <class T>
ITOP_HOST_DEVICE T element(const Vector& vector, int i) {
  if constexpr (sizeof(T) == sizeof(std::uint64_t)) {
    return T{vector.word[2 * i]} | (T{vector.word[2 * i + 1]} << 32);
  } else {
    constexpr int kInWord = static_cast<int>(sizeof(std::uint32_t) / sizeof(T));
    return static_cast<T>(vector.word[i / kInWord] >> (i % kInWord * 8 * static_cast<int>(sizeof(T))));
  }
}

}  // namespace itop::cuda::simt
