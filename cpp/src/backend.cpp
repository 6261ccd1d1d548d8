#include "itop/backend.hpp"

#include "cpu/cpu_backend.hpp"
#include "cuda/cuda_runtime_info.hpp"

namespace itop {

Backend& backend_for(const Device& device) {
  static CpuBackend cpu;
  if (device.type == DeviceType::kCpu) return cpu;
  return cuda_backend(device.index);
}

}  // namespace itop
