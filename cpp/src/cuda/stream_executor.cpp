#include "cuda/stream_executor.hpp"

#include <utility>

#include "cuda/cuda_check.hpp"
#include "cuda/launches.hpp"

namespace itop::cuda {

StreamExecutor::StreamExecutor(DeviceMemory& memory, StagingPool& staging_pool, cudaStream_t stream)
    : memory_(memory), staging_pool_(staging_pool), stream_(stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "cudaStreamIsCapturing");
  if (status != cudaStreamCaptureStatusNone) {
    throw CudaError(
        "a topology update cannot be captured in a CUDA graph, because it reads counts back; capture the steps between "
        "updates, which only apply masks");
  }
  staging_ = staging_pool_.take();
}

StreamExecutor::~StreamExecutor() {
  for (void* pointer : scratch_) memory_.release(pointer, stream_);
  staging_pool_.give_back(std::move(staging_));
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
  staging_->upload(target, source, num_bytes, stream_);
}

void StreamExecutor::download(void* target, const void* source, std::int64_t num_bytes) {
  check(cudaMemcpyAsync(target, source, static_cast<std::size_t>(num_bytes), cudaMemcpyDeviceToHost, stream_),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  staging_->rewind();
}

void StreamExecutor::launch(SelectionKernel kernel, std::int64_t num_blocks, const SelectionTables& tables) {
  launch_selection(kernel, num_blocks, tables, stream_);
}

}  // namespace itop::cuda
