#include "itop/sparse_scratch.hpp"

#include <algorithm>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace itop {
namespace {

constexpr std::align_val_t kAlignment{4096};
// Blocks past this are not kept: a huge layer's operands would stay resident for the life of the process.
constexpr std::size_t kMaxKeptBytes = std::size_t{256} << 20;

struct Block {
  void* data;
  std::size_t capacity;
};

struct FreeBlocks {
  std::mutex mutex;
  std::vector<Block> blocks;
  std::size_t num_bytes = 0;
};

FreeBlocks& free_blocks() {
  static auto* blocks = new FreeBlocks;  // outlives every thread that may still hold a lease at exit
  return *blocks;
}

}  // namespace

ScratchLease::ScratchLease(std::size_t num_bytes, std::size_t max_excess) {
  if (num_bytes == 0) return;
  // The slack lets a kernel start its last vector inside the operand and read past the end.
  num_bytes = (num_bytes + 4096 + 65535) & ~std::size_t{65535};
  {
    FreeBlocks& free = free_blocks();
    const std::lock_guard lock(free.mutex);
    auto best = free.blocks.end();
    for (auto block = free.blocks.begin(); block != free.blocks.end(); ++block) {
      if (block->capacity < num_bytes || block->capacity > max_excess * num_bytes) continue;
      if (best == free.blocks.end() || block->capacity < best->capacity) best = block;
    }
    if (best != free.blocks.end()) {
      data_ = best->data;
      capacity_ = best->capacity;
      free.num_bytes -= capacity_;
      free.blocks.erase(best);
      return;
    }
  }
  data_ = ::operator new(num_bytes, kAlignment);
  capacity_ = num_bytes;
}

ScratchLease::ScratchLease(ScratchLease&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), capacity_(other.capacity_) {}

ScratchLease::~ScratchLease() {
  if (data_ == nullptr) return;
  FreeBlocks& free = free_blocks();
  {
    const std::lock_guard lock(free.mutex);
    if (free.num_bytes + capacity_ <= kMaxKeptBytes && free.blocks.size() < 256) {
      free.blocks.push_back({data_, capacity_});
      free.num_bytes += capacity_;
      return;
    }
  }
  ::operator delete(data_, kAlignment);
}

void release_scratch() {
  FreeBlocks& free = free_blocks();
  const std::lock_guard lock(free.mutex);
  for (const Block& block : free.blocks) ::operator delete(block.data, kAlignment);
  free.blocks.clear();
  free.num_bytes = 0;
}

}  // namespace itop
