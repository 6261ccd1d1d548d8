#pragma once

#include <string>
#include <vector>

#include "itop/backend.hpp"

namespace itop {

/// What the CUDA side, compiled or not, answers to the rest of the core. No CUDA header is needed to ask.
struct CudaRuntimeInfo {
  bool compiled = false;
  std::string version;
  std::vector<std::string> architectures;
  int num_devices = 0;
  std::string status;
};

CudaRuntimeInfo cuda_runtime_info();

/// @throws BackendUnavailableError, saying what is missing
Backend& cuda_backend(int device_index);

}  // namespace itop
