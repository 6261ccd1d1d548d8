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
  const auto found = std::find(streams_.begin(), streams_.end(), stream);
  if (found != streams_.end()) {
    std::rotate(found, found + 1, streams_.end());
    return;
  }
  streams_.push_back(stream);
  // What is given to a captured stream belongs to the graph: events there say nothing about work under way.
  if (streams_.size() <= kStreams || is_capturing()) return;
  if (earlier_streams_ == nullptr) {
    check(cudaStreamCreateWithFlags(&earlier_streams_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  while (streams_.size() > kStreams) {
    wait_for(streams_.front(), earlier_streams_);
    streams_.erase(streams_.begin());
  }
}

void* DeviceMemory::allocate(std::int64_t num_bytes, cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status != cudaStreamCaptureStatusNone) {
    throw CudaError("a bit set cannot be made while its stream is captured in a CUDA graph, whose memory it would be");
  }
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
    if (other != stream) wait_for(other, stream);
  }
  if (earlier_streams_ != nullptr) wait_for(earlier_streams_, stream);
  check(cudaFreeAsync(pointer, stream), "cudaFreeAsync");
}

void DeviceMemory::wait_for(cudaStream_t other, cudaStream_t stream) {
  check(cudaEventRecord(event_, other), "cudaEventRecord");
  check(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
}

}  // namespace itop::cuda
