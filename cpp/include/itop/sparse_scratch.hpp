#pragma once

#include <cstddef>

#include "itop/scratch_memory.hpp"

namespace itop {

/// Scratch memory for an operand of a kernel: behind its end there is room that a last vector may read.
///
/// A lease is exclusive while it lives; contents are undefined. A lease of no bytes is null.
class ScratchLease {
 public:
  /// @param max_excess a kept block of up to so many times the size will do; 1 for leases that live long
  explicit ScratchLease(std::size_t num_bytes, std::size_t max_excess = 8)
      : memory_(num_bytes == 0 ? 0 : (num_bytes + kSlack + kGranule - 1) / kGranule * kGranule, max_excess) {}

  /// Aligned to a page.
  template <class T>
  T* as() const noexcept {
    return static_cast<T*>(memory_.data());
  }

 private:
  static constexpr std::size_t kSlack = 4096;
  static constexpr std::size_t kGranule = 65536;  ///< sizes that differ little are one size

  ScratchMemory memory_;
};

}  // namespace itop
