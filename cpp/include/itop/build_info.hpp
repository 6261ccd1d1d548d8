#pragma once

#include <string>
#include <vector>

namespace itop {

struct BuildInfo {
  std::string version;
  std::string compiler;
  std::string instruction_set;  ///< of the processor kernels in use: portable, avx2 or avx512
  bool cuda_compiled = false;
  std::string cuda_version;  ///< of the compiler; empty without CUDA
  std::vector<std::string> cuda_architectures;
  int num_cuda_devices = 0;
  std::string cuda_status;  ///< why there is no device, or "ok"
  int num_threads = 1;
};

BuildInfo build_info();

}  // namespace itop
