#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "cuda/executor.hpp"

namespace itop::cuda {

/// One piece of device memory made of tables, then zeros (both written by one launch), then room that is written before
/// it is read. Arrays are asked for in that order; their addresses are known once the memory is there.
class DeviceLayout {
 public:
  template <class T>
  struct Place {
    std::int64_t offset = 0;
  };

  template <class T>
  Place<T> table(std::span<const T> rows) {
    static_assert(std::is_trivially_copyable_v<T>);
    const std::int64_t offset = take(static_cast<std::int64_t>(rows.size_bytes()));
    tables_.resize(static_cast<std::size_t>(size_));
    if (!rows.empty()) std::memcpy(tables_.data() + offset, rows.data(), rows.size_bytes());
    zeros_begin_ = zeros_end_ = size_;
    return {offset};
  }
  template <class T>
  Place<T> zeros(std::int64_t count) {
    const std::int64_t offset = take(count * static_cast<std::int64_t>(sizeof(T)));
    zeros_end_ = size_;
    return {offset};
  }
  template <class T>
  Place<T> unset(std::int64_t count) {
    return {take(count * static_cast<std::int64_t>(sizeof(T)))};
  }

  /// @param more_zeros elsewhere, made in the same launch
  void materialise(Executor& executor, const ZeroRange& more_zeros = {}) {
    base_ = executor.scratch(size_);
    const ZeroRange zeros{reinterpret_cast<std::uint64_t*>(base_ + zeros_begin_),
                          (zeros_end_ - zeros_begin_) / static_cast<std::int64_t>(sizeof(std::uint64_t))};
    if (!tables_.empty() || zeros.num_words > 0 || more_zeros.num_words > 0) {
      executor.write(base_, tables_, zeros, more_zeros);
    }
  }

  template <class T>
  T* at(const Place<T>& place) const {
    return reinterpret_cast<T*>(base_ + place.offset);
  }

 private:
  static constexpr std::int64_t kAlignment = 16;

  std::int64_t take(std::int64_t num_bytes) {
    const std::int64_t offset = size_;
    size_ += (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  }

  std::vector<std::byte> tables_;
  std::int64_t size_ = 0;
  std::int64_t zeros_begin_ = 0;
  std::int64_t zeros_end_ = 0;
  std::byte* base_ = nullptr;
};

}  // namespace itop::cuda
