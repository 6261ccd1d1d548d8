#pragma once

#include "cuda/cuda_check.hpp"
#include "cuda/device_memory.hpp"
#include "itop/backend.hpp"

namespace itop::cuda {

/// Words of a GPU's memory, freed in the order of the stream they were allocated on.
class DeviceWords final : public WordBuffer {
 public:
  /// The device must be current.
  DeviceWords(int device_index, DeviceMemory& memory, std::int64_t num_words, cudaStream_t stream)
      : device_index_(device_index), memory_(memory), stream_(stream), size_(num_words) {
    data_ = static_cast<Word*>(memory_.allocate(num_words * static_cast<std::int64_t>(sizeof(Word)), stream));
  }
  ~DeviceWords() override {
    try {
      const DeviceGuard guard(device_index_);
      memory_.release(data_, stream_);
    } catch (const CudaError&) {
      // The context is gone, and the memory with it.
    }
  }
  DeviceWords(const DeviceWords&) = delete;
  DeviceWords& operator=(const DeviceWords&) = delete;

  Word* data() noexcept override { return data_; }
  std::int64_t size() const noexcept override { return size_; }

 private:
  int device_index_;
  DeviceMemory& memory_;
  cudaStream_t stream_;
  Word* data_ = nullptr;
  std::int64_t size_;
};

}  // namespace itop::cuda
