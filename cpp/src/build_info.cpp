#include "itop/build_info.hpp"

#include "cpu/cpu_features.hpp"
#include "cuda/cuda_runtime_info.hpp"
#include "itop/thread_pool.hpp"

namespace itop {

BuildInfo build_info() {
  const CudaRuntimeInfo cuda = cuda_runtime_info();
  BuildInfo info;
  info.version = ITOP_VERSION;
#if defined(__clang__)
  info.compiler = "clang " __clang_version__;
#else
  info.compiler = "gcc " __VERSION__;
#endif
  info.instruction_set = cpu::name_of(cpu::instruction_set());
  info.cuda_compiled = cuda.compiled;
  info.cuda_version = cuda.version;
  info.cuda_architectures = cuda.architectures;
  info.num_cuda_devices = cuda.num_devices;
  info.cuda_status = cuda.status;
  info.num_threads = ThreadPool::global().num_threads();
  return info;
}

}  // namespace itop
