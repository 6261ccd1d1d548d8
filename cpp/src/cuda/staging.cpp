#include "cuda/staging.hpp"

#include <cstring>
#include <utility>

#include "cuda/cuda_check.hpp"

namespace itop::cuda {

Staging::Staging() { check(cudaEventCreateWithFlags(&uploaded_, cudaEventDisableTiming), "cudaEventCreateWithFlags"); }

Staging::~Staging() {
  if (data_ != nullptr) cudaFreeHost(data_);
  cudaEventDestroy(uploaded_);
}

void Staging::upload(void* target, const void* source, std::int64_t num_bytes, cudaStream_t stream) {
  if (num_bytes == 0) return;
  if (used_ + num_bytes > capacity_) {
    wait();
    used_ = 0;
  }
  if (num_bytes > capacity_) {
    if (data_ != nullptr) check(cudaFreeHost(std::exchange(data_, nullptr)), "cudaFreeHost");
    capacity_ = 0;
    void* data = nullptr;
    check(cudaMallocHost(&data, static_cast<std::size_t>(2 * num_bytes)), "cudaMallocHost");
    data_ = static_cast<std::byte*>(data);
    capacity_ = 2 * num_bytes;
  }
  std::byte* staged = data_ + used_;
  std::memcpy(staged, source, static_cast<std::size_t>(num_bytes));
  used_ += num_bytes;
  check(cudaMemcpyAsync(target, staged, static_cast<std::size_t>(num_bytes), cudaMemcpyHostToDevice, stream),
        "cudaMemcpyAsync");
  check(cudaEventRecord(uploaded_, stream), "cudaEventRecord");
}

void Staging::wait() { check(cudaEventSynchronize(uploaded_), "cudaEventSynchronize"); }

std::unique_ptr<Staging> StagingPool::take() {
  std::unique_ptr<Staging> staging;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      staging = std::move(free_.back());
      free_.pop_back();
    }
  }
  if (staging == nullptr) return std::make_unique<Staging>();
  staging->wait();
  staging->rewind();
  return staging;
}

void StagingPool::give_back(std::unique_ptr<Staging> staging) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(staging));
}

}  // namespace itop::cuda
