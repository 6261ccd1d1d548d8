#include "cuda/cuda_runtime_info.hpp"
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

}  // namespace itop
