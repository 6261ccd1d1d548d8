#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cuda/device_memory.hpp"

namespace itop::cuda {

/// Words of device memory that are to become zero.
struct ZeroRange {
  std::uint64_t* begin = nullptr;
  std::int64_t num_words = 0;
};

/// One call's work on a stream of a GPU. The device must be current.
class Executor {
 public:
  /// @throws CudaError if the stream is being captured into a graph: neither memory nor what is read back can be
  Executor(DeviceMemory& memory, cudaStream_t stream);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  /// Memory of the device that lives as long as the executor, aligned for every type.
  std::byte* scratch(std::int64_t num_bytes);
  /// Copies whole words to the device and makes others zero. The bytes travel as arguments of a launch (one up to
  /// 32,000 of them), so that nobody waits for a transfer and `source` may change when this returns.
  void write(void* target, std::span<const std::byte> source, const ZeroRange& zeros = {},
             const ZeroRange& more_zeros = {});
  /// Waits until `target` is filled, hence for everything before.
  void download(void* target, const void* source, std::int64_t num_bytes);

  cudaStream_t stream() const noexcept { return stream_; }

 private:
  DeviceMemory& memory_;
  cudaStream_t stream_;
  std::vector<void*> scratch_;
};

}  // namespace itop::cuda
