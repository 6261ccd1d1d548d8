#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "cuda/cuda_check.hpp"

namespace itop::cuda {

/// Starts a kernel; the only place that does. Arguments are converted to the kernel's parameters and copied into the
/// launch.
/// @param name for messages
/// @throws CudaError if there are more blocks than a launch may have, or the launch is refused
template <class... Parameters>
void launch(const char* name, void (*kernel)(Parameters...), std::int64_t num_blocks, int num_threads,
            cudaStream_t stream, const std::type_identity_t<Parameters>&... arguments) {
  if (num_blocks == 0) return;
  if (num_blocks > std::numeric_limits<std::int32_t>::max()) {
    throw CudaError(std::string("launch of ") + name + " failed: its work does not fit one launch");
  }
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  const cudaError_t error = cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(num_blocks)),
                                             dim3(static_cast<unsigned>(num_threads)), pointers, 0, stream);
  if (error != cudaSuccess) check(error, (std::string("launch of ") + name).c_str());
}

}  // namespace itop::cuda
