#include "cuda/cuda_runtime_info.hpp"
#include "itop/device_sparse_linear.hpp"
#include "itop/error.hpp"

namespace itop {

CudaRuntimeInfo cuda_runtime_info() {
  CudaRuntimeInfo info;
  info.status = "not compiled";
  return info;
}

Backend& cuda_backend(int) {
  throw BackendUnavailableError(
      "a tensor is on a CUDA device, but this build of itop has no CUDA backend; install it where nvcc is, or with "
      "ITOP_CUDA=ON");
}

void device_sparse_multiply(int device_index, const DeviceSparseRows&, const void*, ValueType, const FeatureView&,
                            const void*, void*, StreamHandle) {
  static_cast<void>(cuda_backend(device_index));
}

void device_sparse_gradient(int device_index, const DeviceSparseRows&, const FeatureView&, const void*, void*,
                            ValueType, StreamHandle) {
  static_cast<void>(cuda_backend(device_index));
}

}  // namespace itop
