#pragma once

#include <memory>
#include <vector>

#include "cuda/device_memory.hpp"
#include "cuda/executor.hpp"
#include "cuda/staging.hpp"

namespace itop::cuda {

/// One call's work on a stream of a GPU. The device must be current.
class StreamExecutor final : public Executor {
 public:
  /// @throws CudaError if the stream is being captured into a graph: what waits for the device cannot be
  StreamExecutor(DeviceMemory& memory, StagingPool& staging_pool, cudaStream_t stream);
  ~StreamExecutor() override;
  StreamExecutor(const StreamExecutor&) = delete;
  StreamExecutor& operator=(const StreamExecutor&) = delete;

  std::byte* scratch(std::int64_t num_bytes) override;
  void zero(void* target, std::int64_t num_bytes) override;
  void upload(void* target, const void* source, std::int64_t num_bytes) override;
  void download(void* target, const void* source, std::int64_t num_bytes) override;
  void launch(SelectionKernel kernel, std::int64_t num_blocks, const SelectionTables& tables) override;

  cudaStream_t stream() const noexcept { return stream_; }

 private:
  DeviceMemory& memory_;
  StagingPool& staging_pool_;
  cudaStream_t stream_;
  std::unique_ptr<Staging> staging_;
  std::vector<void*> scratch_;
};

}  // namespace itop::cuda
