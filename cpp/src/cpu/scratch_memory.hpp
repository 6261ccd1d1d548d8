#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

namespace itop::cpu {

/// A block of memory for a while, given back when it goes.
///
/// The first touch of fresh pages costs several times what is then done with them, so the process keeps a few megabytes
/// of blocks from one update to the next: at most `kMaxKeptBytes`, however large the model is.
class ScratchMemory {
 public:
  static constexpr std::size_t kMaxKeptBytes = std::size_t{32} << 20;

  ScratchMemory() = default;
  /// At least `num_bytes`, aligned to cache lines; large blocks are of huge pages where the kernel has some.
  /// @throws std::bad_alloc
  explicit ScratchMemory(std::size_t num_bytes);
  ~ScratchMemory();
  ScratchMemory(ScratchMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), num_bytes_(other.num_bytes_), is_zero_(other.is_zero_) {}
  ScratchMemory& operator=(ScratchMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(num_bytes_, other.num_bytes_);
    std::swap(is_zero_, other.is_zero_);
    return *this;
  }

  void* data() const noexcept { return data_; }
  std::size_t num_bytes() const noexcept { return num_bytes_; }
  /// Whether it came from the kernel, which hands out zeros; otherwise it holds what its last user left.
  bool is_zero() const noexcept { return is_zero_; }

 private:
  void* data_ = nullptr;
  std::size_t num_bytes_ = 0;
  bool is_zero_ = false;
};

/// A growing array in scratch memory; new elements have no value.
template <class Value>
class ScratchArray {
  static_assert(std::is_trivially_copyable_v<Value>);

 public:
  void reserve(std::size_t count) {
    if (count <= capacity_) return;
    ScratchMemory larger(count * sizeof(Value));
    if (size_ != 0) std::memcpy(larger.data(), data(), size_ * sizeof(Value));
    memory_ = std::move(larger);
    capacity_ = memory_.num_bytes() / sizeof(Value);
  }
  void resize(std::size_t count) {
    if (count > capacity_) reserve(std::max(count, capacity_ + capacity_ / 2));
    size_ = count;
  }
  void push_back(const Value& value) {
    resize(size_ + 1);
    data()[size_ - 1] = value;
  }

  Value* data() noexcept { return static_cast<Value*>(memory_.data()); }
  const Value* data() const noexcept { return static_cast<const Value*>(memory_.data()); }
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  Value* begin() noexcept { return data(); }
  Value* end() noexcept { return data() + size_; }
  const Value* begin() const noexcept { return data(); }
  const Value* end() const noexcept { return data() + size_; }
  Value& operator[](std::size_t i) noexcept { return data()[i]; }
  const Value& operator[](std::size_t i) const noexcept { return data()[i]; }

 private:
  ScratchMemory memory_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace itop::cpu
