#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace itop::cuda {

/// Pinned host memory through which a call's uploads go, so that they need not wait for the stream. Used by one call at
/// a time.
class Staging {
 public:
  /// The device must be current.
  Staging();
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// Copies `num_bytes` to the device in the order of `stream`; `source` may change when this returns.
  void upload(void* target, const void* source, std::int64_t num_bytes, cudaStream_t stream);
  /// All uploads have left the memory: it may be written from its beginning again.
  void rewind() noexcept { used_ = 0; }
  /// Waits until all uploads have left the memory: at once, unless the call before has just ended.
  void wait();

 private:
  cudaEvent_t uploaded_ = nullptr;
  std::byte* data_ = nullptr;
  std::int64_t capacity_ = 0;
  std::int64_t used_ = 0;
};

/// Staging memory for as many calls as run at once. Calls wait for each other inside reductions, so they must not share
/// one.
class StagingPool {
 public:
  std::unique_ptr<Staging> take();
  void give_back(std::unique_ptr<Staging> staging);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Staging>> free_;
};

}  // namespace itop::cuda
