#pragma once

#include <cstddef>
#include <memory>

namespace itop {

/// Memory that is kept between calls: the first touch of a fresh page costs several times a write.
///
/// A lease is exclusive while it lives; concurrent leases get different blocks. Contents are undefined. A lease of no
/// bytes is null.
class ScratchLease {
 public:
  /// @param max_excess a kept block of up to so many times the size will do; 1 for leases that live long
  explicit ScratchLease(std::size_t num_bytes, std::size_t max_excess = 8);
  ~ScratchLease();
  ScratchLease(ScratchLease&& other) noexcept;
  ScratchLease(const ScratchLease&) = delete;
  ScratchLease& operator=(const ScratchLease&) = delete;

  /// Aligned to a cache line.
  template <class T>
  T* as() const noexcept {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::size_t capacity_ = 0;
};

/// Gives every block that no lease holds back to the system.
void release_scratch();

}  // namespace itop
