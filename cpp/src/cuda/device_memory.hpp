#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

namespace itop::cuda {

/// Memory of one device, in the order of streams: allocated and freed without waiting for the device, from a pool of
/// its own that keeps what was freed. Not destroyed while anything of it is in use.
class DeviceMemory {
 public:
  /// The device must be current, here and in allocate and release.
  explicit DeviceMemory(int device_index);
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  /// Remembers that work which may use this memory goes to `stream`. A few streams are remembered by themselves; of
  /// those before them, only that their work must be done. Streams must live as long as the memory does, as torch's do.
  void note(cudaStream_t stream);

  /// @throws CudaError, when out of memory among others
  void* allocate(std::int64_t num_bytes, cudaStream_t stream);

  /// Frees on `stream`, after what every noted stream was given so far. While a stream is being captured into a graph
  /// the memory is kept and freed later.
  void release(void* pointer, cudaStream_t stream) noexcept;

 private:
  static constexpr std::size_t kStreams = 8;

  bool is_capturing() const;
  void free_on(void* pointer, cudaStream_t stream);
  /// Holds `stream` back until what `other` was given so far is done.
  void wait_for(cudaStream_t other, cudaStream_t stream);

  std::mutex mutex_;
  cudaMemPool_t pool_ = nullptr;
  cudaEvent_t event_ = nullptr;
  std::vector<cudaStream_t> streams_;       ///< the one used last at the end
  cudaStream_t earlier_streams_ = nullptr;  ///< waits for the work of all others that were noted; null: there are none
  std::vector<void*> kept_;
};

}  // namespace itop::cuda
