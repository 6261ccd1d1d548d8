#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>

#include "itop/bitset.hpp"

namespace itop::cpu {

/// Zeroed words straight from the kernel, in huge pages where it has some.
///
/// An update makes and frees a few bit sets; touching their memory for the first time, 4 KB at a time, would cost more
/// than the bit operations. Huge pages make that a few faults and give the memory back all the same.
class PageBuffer {
 public:
  explicit PageBuffer(std::int64_t num_words) : num_bytes_(static_cast<std::size_t>(num_words) * sizeof(Word)) {
    if (num_bytes_ == 0) return;
    mapped_bytes_ = num_bytes_ >= kHugePage ? num_bytes_ + kHugePage : num_bytes_;
    mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped_ == MAP_FAILED) {
      mapped_ = nullptr;
      throw std::bad_alloc();
    }
    auto address = reinterpret_cast<std::uintptr_t>(mapped_);
    if (num_bytes_ >= kHugePage) {
      address = (address + kHugePage - 1) / kHugePage * kHugePage;
      // Only whole huge pages: the rest of the last one would be memory for nothing. Old kernels say no, which does no
      // harm.
      static_cast<void>(madvise(reinterpret_cast<void*>(address), num_bytes_ / kHugePage * kHugePage, MADV_HUGEPAGE));
#if defined(MADV_POPULATE_WRITE)
      static_cast<void>(madvise(reinterpret_cast<void*>(address), num_bytes_, MADV_POPULATE_WRITE));
#endif
    }
    words_ = reinterpret_cast<Word*>(address);
  }
  ~PageBuffer() {
    if (mapped_ != nullptr) munmap(mapped_, mapped_bytes_);
  }
  PageBuffer(const PageBuffer&) = delete;
  PageBuffer& operator=(const PageBuffer&) = delete;

  Word* data() noexcept { return words_; }
  std::int64_t size() const noexcept { return static_cast<std::int64_t>(num_bytes_ / sizeof(Word)); }

 private:
  static constexpr std::size_t kHugePage = std::size_t{1} << 21;

  std::size_t num_bytes_;
  std::size_t mapped_bytes_ = 0;
  void* mapped_ = nullptr;
  Word* words_ = nullptr;
};

}  // namespace itop::cpu
