#include "itop/scratch_memory.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <iterator>
#include <list>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace itop {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{1} << 21;
constexpr std::size_t kMaxKeptBlocks = 4096;  // each may be a mapping of its own, of which a process has few

constexpr int kMostLookedAt = 16;  // equals among which a thread looks for one of its own

/// Tells threads apart: its address.
thread_local char this_thread = 0;

/// Blocks that nobody holds. The one given back last is taken up first, because it may be in a cache still, and of
/// equals one that the same thread gave back: in another core's cache it would have to be fetched from there. What has
/// not been taken up for longest goes first when there is too much: a process that turns to other sizes does not stay
/// without.
class KeptBlocks {
 public:
  struct Block {
    void* data = nullptr;
    std::size_t num_bytes = 0;
  };

  /// A block of [least, most] bytes, or none.
  Block take(std::size_t least, std::size_t most) {
    const std::lock_guard lock(mutex_);
    const auto fitting = by_size_.lower_bound(least);
    if (fitting == by_size_.end() || fitting->first > most) return {};
    auto chosen = fitting;
    auto place = fitting;
    for (int i = 0; i < kMostLookedAt && place != by_size_.end() && place->first == fitting->first; ++i, ++place) {
      if (place->second->thread != &this_thread) continue;
      chosen = place;
      break;
    }
    return remove(chosen->second);
  }

  void keep(const Block& block) {
    std::vector<Block> too_many;
    if (block.num_bytes > ScratchMemory::kMaxKeptBytes) {  // it would push out all others, then itself
      too_many.push_back(block);
    } else {
      const std::lock_guard lock(mutex_);
      by_age_.push_front({block, &this_thread, {}});
      // Before its equals.
      by_age_.front().place =
          by_size_.emplace_hint(by_size_.lower_bound(block.num_bytes), block.num_bytes, by_age_.begin());
      num_bytes_ += block.num_bytes;
      while (num_bytes_ > ScratchMemory::kMaxKeptBytes || by_age_.size() > kMaxKeptBlocks) {
        too_many.push_back(remove(std::prev(by_age_.end())));
      }
    }
    for (const Block& old : too_many) munmap(old.data, old.num_bytes);
  }

  void release() {
    const std::lock_guard lock(mutex_);
    while (!by_age_.empty()) {
      const Block block = remove(by_age_.begin());
      munmap(block.data, block.num_bytes);
    }
  }

 private:
  struct Kept;
  using Age = std::list<Kept>::iterator;
  using Place = std::multimap<std::size_t, Age>::iterator;
  struct Kept {
    Block block;
    const char* thread;  ///< that gave it back, compared only
    Place place;
  };

  Block remove(Age age) {
    const Block block = age->block;
    by_size_.erase(age->place);
    by_age_.erase(age);
    num_bytes_ -= block.num_bytes;
    return block;
  }

  std::mutex mutex_;
  std::list<Kept> by_age_;  ///< the newest first
  std::multimap<std::size_t, Age> by_size_;
  std::size_t num_bytes_ = 0;
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
  const KeptBlocks::Block kept = kept_blocks().take(num_bytes, max_excess * num_bytes);
  if (kept.data != nullptr) {
    data_ = kept.data;
    num_bytes_ = kept.num_bytes;
    return;
  }
  data_ = map_pages(num_bytes);
  num_bytes_ = num_bytes;
  is_zero_ = true;
}

ScratchMemory::~ScratchMemory() {
  if (data_ != nullptr) kept_blocks().keep({data_, num_bytes_});
}

void ScratchMemory::release_kept() { kept_blocks().release(); }

}  // namespace itop
