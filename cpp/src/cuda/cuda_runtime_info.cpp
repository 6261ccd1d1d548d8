#include "cuda/cuda_runtime_info.hpp"

#include <cuda_runtime_api.h>

#include <map>
#include <memory>
#include <mutex>
#include <sstream>

#include "cuda/cuda_backend.hpp"
#include "cuda/cuda_check.hpp"
#include "cuda/launches.hpp"
#include "itop/error.hpp"

namespace itop {
namespace {

struct Devices {
  int count = 0;
  std::string status;  ///< "ok", or why there is none
};

Devices find_devices() {
  Devices devices;
  const cudaError_t error = cudaGetDeviceCount(&devices.count);
  if (error == cudaSuccess) {
    devices.status = "ok";
    return devices;
  }
  cudaGetLastError();
  devices.count = 0;
  devices.status = (error == cudaErrorNoDevice ? "no device: " : "no usable driver: ") + cuda::describe(error);
  return devices;
}

}  // namespace

CudaRuntimeInfo cuda_runtime_info() {
  const Devices devices = find_devices();
  CudaRuntimeInfo info;
  info.compiled = true;
  info.version = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  std::istringstream architectures(ITOP_CUDA_ARCHITECTURES);
  for (std::string one; std::getline(architectures, one, ',');) info.architectures.push_back(one);
  info.num_devices = devices.count;
  info.status = devices.status;
  return info;
}

Backend& cuda_backend(int device_index) {
  static std::mutex mutex;
  // Never destroyed: bit sets that outlive main still free their memory, and the driver may be gone before static
  // objects.
  static auto* backends = new std::map<int, std::unique_ptr<cuda::CudaBackend>>();
  const std::lock_guard lock(mutex);
  std::unique_ptr<cuda::CudaBackend>& backend = (*backends)[device_index];
  if (backend == nullptr) {
    const Devices devices = find_devices();
    if (devices.count == 0)
      throw BackendUnavailableError("a tensor is on a CUDA device, but there is " + devices.status);
    if (device_index < 0 || device_index >= devices.count) {
      throw BackendUnavailableError("a tensor is on cuda:" + std::to_string(device_index) + ", but this machine has " +
                                    std::to_string(devices.count) + " CUDA device" + (devices.count == 1 ? "" : "s"));
    }
    const cuda::DeviceGuard guard(device_index);
    if (!cuda::load_apply()) {
      throw BackendUnavailableError("a tensor is on cuda:" + std::to_string(device_index) +
                                    ", for which this build of itop has no code: it is compiled for " +
                                    ITOP_CUDA_ARCHITECTURES + "; install it on that machine, or set CUDAARCHS");
    }
    backend = std::make_unique<cuda::CudaBackend>(device_index);
  }
  return *backend;
}

}  // namespace itop
