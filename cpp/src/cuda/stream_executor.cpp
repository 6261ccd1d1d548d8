#include "cuda/stream_executor.hpp"

#include <cstring>

#include "cuda/cuda_check.hpp"
#include "cuda/launches.hpp"

namespace itop::cuda {

StreamExecutor::StreamExecutor(DeviceMemory& memory, Staging& staging, cudaStream_t stream)
    : memory_(memory), staging_(staging), lock_(staging.mutex), stream_(stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status != cudaStreamCaptureStatusNone) {
    throw CudaError(
        "a topology update cannot be captured in a CUDA graph, because it reads counts back; capture the steps between "
        "updates, which only apply masks");
  }
  if (staging_.uploaded == nullptr) {
    check(cudaEventCreateWithFlags(&staging_.uploaded, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
  check(cudaEventSynchronize(staging_.uploaded), "cudaEventSynchronize");  // at once, unless a call has just ended
}

StreamExecutor::~StreamExecutor() {
  for (void* pointer : scratch_) memory_.release(pointer, stream_);
}

std::byte* StreamExecutor::scratch(std::int64_t num_bytes) {
  scratch_.reserve(scratch_.size() + 1);
  scratch_.push_back(memory_.allocate(num_bytes, stream_));
  return static_cast<std::byte*>(scratch_.back());
}

void StreamExecutor::zero(void* target, std::int64_t num_bytes) {
  check(cudaMemsetAsync(target, 0, static_cast<std::size_t>(num_bytes), stream_), "cudaMemsetAsync");
}

void StreamExecutor::upload(void* target, const void* source, std::int64_t num_bytes) {
  if (num_bytes == 0) return;
  if (staged_ + num_bytes > staging_.capacity) {
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    staged_ = 0;
    if (num_bytes > staging_.capacity) {
      if (staging_.data != nullptr) check(cudaFreeHost(staging_.data), "cudaFreeHost");
      staging_.data = nullptr;
      staging_.capacity = 0;
      void* data = nullptr;
      check(cudaMallocHost(&data, static_cast<std::size_t>(2 * num_bytes)), "cudaMallocHost");
      staging_.data = static_cast<std::byte*>(data);
      staging_.capacity = 2 * num_bytes;
    }
  }
  std::byte* staged = staging_.data + staged_;
  std::memcpy(staged, source, static_cast<std::size_t>(num_bytes));
  staged_ += num_bytes;
  check(cudaMemcpyAsync(target, staged, static_cast<std::size_t>(num_bytes), cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync");
  check(cudaEventRecord(staging_.uploaded, stream_), "cudaEventRecord");
}

void StreamExecutor::download(void* target, const void* source, std::int64_t num_bytes) {
  check(cudaMemcpyAsync(target, source, static_cast<std::size_t>(num_bytes), cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  staged_ = 0;
}

void StreamExecutor::launch(SelectionKernel kernel, std::int64_t num_blocks, const SelectionTables& tables) {
  launch_selection(kernel, num_blocks, tables, stream_);
}

}  // namespace itop::cuda
