#include "cuda/device_memory.hpp"

#include <algorithm>
#include <limits>

#include "cuda/cuda_check.hpp"

namespace itop::cuda {

DeviceMemory::DeviceMemory(int device_index) {
  cudaMemPoolProps properties = {};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device_index;
  check(cudaMemPoolCreate(&pool_, &properties), "cudaMemPoolCreate");
  // By default a pool gives its memory back at every synchronisation, and the next allocation pays for it again.
  std::uint64_t threshold = std::numeric_limits<std::uint64_t>::max();
  check(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &threshold), "cudaMemPoolSetAttribute");
  check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
}

void DeviceMemory::note(cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  if (std::find(streams_.begin(), streams_.end(), stream) == streams_.end()) streams_.push_back(stream);
}

void* DeviceMemory::allocate(std::int64_t num_bytes, cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  if (!kept_.empty() && !is_capturing()) {
    for (void* pointer : kept_) free_on(pointer, stream);
    kept_.clear();
  }
  void* pointer = nullptr;
  const auto size = static_cast<std::size_t>(std::max<std::int64_t>(num_bytes, 1));
  check(cudaMallocFromPoolAsync(&pointer, size, pool_, stream), "cudaMallocFromPoolAsync");
  return pointer;
}

void DeviceMemory::release(void* pointer, cudaStream_t stream) noexcept {
  const std::lock_guard lock(mutex_);
  try {
    if (is_capturing()) {
      kept_.push_back(pointer);
    } else {
      free_on(pointer, stream);
    }
  } catch (...) {
    // The context is gone (the process ends, or the device failed), and the memory with it.
  }
}

bool DeviceMemory::is_capturing() const {
  return std::any_of(streams_.begin(), streams_.end(), [](cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    const cudaError_t error = cudaStreamIsCapturing(stream, &status);
    if (error != cudaSuccess) cudaGetLastError();
    // The legacy stream answers with an error while any other stream is captured.
    return error != cudaSuccess || status != cudaStreamCaptureStatusNone;
  });
}

void DeviceMemory::free_on(void* pointer, cudaStream_t stream) {
  for (cudaStream_t other : streams_) {
    if (other == stream) continue;
    check(cudaEventRecord(event_, other), "cudaEventRecord");
    check(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
  }
  check(cudaFreeAsync(pointer, stream), "cudaFreeAsync");
}

}  // namespace itop::cuda
