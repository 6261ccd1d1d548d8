#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "itop/device.hpp"
#include "itop/error.hpp"

namespace itop::cuda {

inline std::string describe(cudaError_t error) {
  return std::string(cudaGetErrorString(error)) + " (" + cudaGetErrorName(error) + ")";
}

/// @throws CudaError naming the call and the reason
inline void check(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // an error that is reported must not be found again by the next caller
  throw CudaError(std::string(call) + " failed: " + describe(error));
}

inline cudaStream_t stream_of(StreamHandle handle) { return reinterpret_cast<cudaStream_t>(handle); }

/// Makes a device current, and the one before it again at the end of the scope.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device_index) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device_index) check(cudaSetDevice(device_index), "cudaSetDevice");
    changed_ = before_ != device_index;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace itop::cuda
