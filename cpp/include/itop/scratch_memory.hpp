#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

namespace itop {

/// A block of memory for a while, given back when it goes.
///
/// The first touch of fresh pages costs several times what is then done with them, so the process keeps blocks from one
/// update, one product to the next: at most `kMaxKeptBytes`, however large the model is.
class ScratchMemory {
 public:
  static constexpr std::size_t kMaxKeptBytes = std::size_t{256} << 20;

  ScratchMemory() = default;
  /// At least `num_bytes`, aligned to pages; large blocks are of huge pages where the kernel has some.
  /// @param max_excess a kept block of up to so many times the size will do; 1 for memory that is held for long
  /// @throws std::bad_alloc
  explicit ScratchMemory(std::size_t num_bytes, std::size_t max_excess = 2);
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

  /// Gives every block that nobody holds back to the system.
  static void release_kept();

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
  ScratchArray() = default;
  /// So many elements in memory that fits closely: for results that are held for long.
  explicit ScratchArray(std::size_t count)
      : memory_(count * sizeof(Value), 1), size_(count), capacity_(memory_.num_bytes() / sizeof(Value)) {}
  ScratchArray(ScratchArray&& other) noexcept
      : memory_(std::move(other.memory_)),
        size_(std::exchange(other.size_, 0)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  ScratchArray& operator=(ScratchArray&& other) noexcept {
    memory_ = std::move(other.memory_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
    return *this;
  }

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
  const Value& front() const noexcept { return data()[0]; }
  const Value& back() const noexcept { return data()[size_ - 1]; }

 private:
  ScratchMemory memory_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace itop
