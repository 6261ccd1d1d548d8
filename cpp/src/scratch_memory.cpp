#include "itop/scratch_memory.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <new>

namespace itop {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kMaxKeptBlocks = 4096;  // each may be a mapping of its own, of which a process has few

struct KeptBlocks {
  std::mutex mutex;
  std::multimap<std::size_t, void*> by_size;
  std::size_t num_bytes = 0;
};

KeptBlocks& kept_blocks() {
  static auto* blocks = new KeptBlocks;  // outlives every object that gives memory back as the process ends
  return *blocks;
}

/// Zeroed memory straight from the kernel, in huge pages where it has some: a few faults instead of hundreds.
void* map_pages(std::size_t num_bytes) {
  const std::size_t alignment = num_bytes >= kHugePage ? kHugePage : 0;
  void* mapped = mmap(nullptr, num_bytes + alignment, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  if (alignment == 0) return mapped;
  const auto begin = reinterpret_cast<std::uintptr_t>(mapped);
  const std::uintptr_t data = (begin + alignment - 1) / alignment * alignment;
  if (data != begin) munmap(mapped, data - begin);
  if (const std::size_t behind = begin + alignment - data; behind != 0) {
    munmap(reinterpret_cast<void*>(data + num_bytes), behind);
  }
  // Only whole huge pages: the rest of the last one would be memory for nothing. Old kernels say no, which does no
  // harm.
  auto* pages = reinterpret_cast<void*>(data);
  static_cast<void>(madvise(pages, num_bytes / kHugePage * kHugePage, MADV_HUGEPAGE));
#if defined(MADV_POPULATE_WRITE)
  static_cast<void>(madvise(pages, num_bytes, MADV_POPULATE_WRITE));
#endif
  return pages;
}

}  // namespace

ScratchMemory::ScratchMemory(std::size_t num_bytes, std::size_t max_excess) {
  if (num_bytes == 0) return;
  // Sizes of large blocks are coarse, so that one that differs little is taken up again.
  const std::size_t granule = num_bytes >= (kHugePage / 2) ? 16 * kPage : kPage;
  num_bytes = (num_bytes + granule - 1) / granule * granule;
  {
    KeptBlocks& kept = kept_blocks();
    const std::lock_guard lock(kept.mutex);
    const auto fitting = kept.by_size.lower_bound(num_bytes);
    if (fitting != kept.by_size.end() && fitting->first <= max_excess * num_bytes) {
      data_ = fitting->second;
      num_bytes_ = fitting->first;
      kept.num_bytes -= num_bytes_;
      kept.by_size.erase(fitting);
      return;
    }
  }
  data_ = map_pages(num_bytes);
  num_bytes_ = num_bytes;
  is_zero_ = true;
}

ScratchMemory::~ScratchMemory() {
  if (data_ == nullptr) return;
  {
    KeptBlocks& kept = kept_blocks();
    const std::lock_guard lock(kept.mutex);
    if (kept.num_bytes + num_bytes_ <= kMaxKeptBytes && kept.by_size.size() < kMaxKeptBlocks) {
      kept.by_size.emplace(num_bytes_, data_);
      kept.num_bytes += num_bytes_;
      return;
    }
  }
  munmap(data_, num_bytes_);
}

void ScratchMemory::release_kept() {
  KeptBlocks& kept = kept_blocks();
  const std::lock_guard lock(kept.mutex);
  for (const auto& [num_bytes, data] : kept.by_size) munmap(data, num_bytes);
  kept.by_size.clear();
  kept.num_bytes = 0;
}

}  // namespace itop
