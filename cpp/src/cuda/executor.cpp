#include "cuda/executor.hpp"

#include "cuda/cuda_check.hpp"
#include "cuda/launches.hpp"

namespace itop::cuda {

Executor::Executor(DeviceMemory& memory, cudaStream_t stream) : memory_(memory), stream_(stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status != cudaStreamCaptureStatusNone) {
    throw CudaError(
        "a topology update cannot be captured in a CUDA graph, because it reads counts back; capture the steps between "
        "updates, which only apply masks");
  }
}

Executor::~Executor() {
  for (void* pointer : scratch_) memory_.release(pointer, stream_);
}

std::byte* Executor::scratch(std::int64_t num_bytes) {
  scratch_.reserve(scratch_.size() + 1);
  scratch_.push_back(memory_.allocate(num_bytes, stream_));
  return static_cast<std::byte*>(scratch_.back());
}

void Executor::write(void* target, std::span<const std::byte> source, const ZeroRange& zeros,
                     const ZeroRange& more_zeros) {
  launch_write(target, source, zeros, more_zeros, stream_);
}

void Executor::download(void* target, const void* source, std::int64_t num_bytes) {
  check(cudaMemcpyAsync(target, source, static_cast<std::size_t>(num_bytes), cudaMemcpyDeviceToHost, stream_),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

}  // namespace itop::cuda
