// Fibers jump between stacks, which the checked longjmp of hardened systems takes for an error.
#undef _FORTIFY_SOURCE

#include "support/simt_simulator.hpp"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace itop::cuda::simt {
namespace {

constexpr std::size_t kStackBytes = 96 * 1024;
constexpr std::size_t kSharedBytes = 48 * 1024;  // what a kernel may have without asking for more

/// A thread of a block. Its stack is entered once and then runs one block's body after another.
struct Fiber {
  enum class State : std::uint8_t { kRunnable, kAtWarpOperation, kAtBarrier, kDone };

  ucontext_t beginning;
  jmp_buf place;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool is_entered = false;
  State state = State::kRunnable;
};

struct Warp {
  std::uint64_t given[kWarpSize];
  std::uint64_t received[kWarpSize];
  WarpOperation operation[kWarpSize];
};

/// One block at a time.
class Simulator {
 public:
  static Simulator& instance() {
    static Simulator simulator;
    return simulator;
  }

  void run_block(std::int64_t block, std::int64_t num_blocks, int num_threads, Schedule schedule,
                 const std::function<void()>& body) {
    block_ = block;
    num_blocks_ = num_blocks;
    num_threads_ = num_threads;
    schedule_ = schedule;
    body_ = &body;
    std::memset(shared_.get(), garbage_of(schedule), shared_used_);
    shared_used_ = 0;
    shared_objects_.clear();
    warps_.resize(static_cast<std::size_t>(num_threads / kWarpSize));
    while (static_cast<int>(fibers_.size()) < num_threads) fibers_.push_back(std::make_unique<Fiber>());
    for (int thread = 0; thread < num_threads; ++thread) fiber(thread).state = Fiber::State::kRunnable;
    try {
      while (!everybody_is(Fiber::State::kDone)) {
        for (const int warp : turns(num_threads / kWarpSize)) run_warp(warp);
        if (everybody_is(Fiber::State::kAtBarrier)) {
          for (int thread = 0; thread < num_threads_; ++thread) fiber(thread).state = Fiber::State::kRunnable;
        } else if (!everybody_is(Fiber::State::kDone)) {
          throw std::logic_error("threads wait for others that have ended or wait elsewhere");
        }
      }
    } catch (const std::logic_error& error) {
      for (auto& one : fibers_) one->is_entered = false;  // stuck inside a body: they begin anew
      throw std::logic_error("block " + std::to_string(block) + ": " + error.what());
    }
  }

  int thread() const { return current_; }
  int num_threads() const { return num_threads_; }
  std::int64_t block() const { return block_; }
  std::int64_t num_blocks() const { return num_blocks_; }

  void barrier() { suspend(Fiber::State::kAtBarrier); }

  const std::uint64_t* exchange(WarpOperation operation, std::uint64_t value) {
    Warp& warp = warps_[static_cast<std::size_t>(current_ / kWarpSize)];
    warp.operation[current_ % kWarpSize] = operation;
    warp.given[current_ % kWarpSize] = value;
    suspend(Fiber::State::kAtWarpOperation);
    return warp.received;
  }

  void* shared_memory(const void* key, std::size_t num_bytes) {
    for (const auto& [known, offset] : shared_objects_) {
      if (known == key) return shared_.get() + offset;
    }
    constexpr std::size_t alignment = 16;
    const std::size_t offset = (shared_used_ + alignment - 1) / alignment * alignment;
    if (offset + num_bytes > kSharedBytes) throw std::length_error("a block has 48 KB of shared memory");
    shared_objects_.emplace_back(key, offset);
    shared_used_ = offset + num_bytes;
    std::memset(shared_.get() + offset, garbage_of(schedule_), num_bytes);
    return shared_.get() + offset;
  }

 private:
  Fiber& fiber(int thread) { return *fibers_[static_cast<std::size_t>(thread)]; }

  bool everybody_is(Fiber::State state) {
    for (int thread = 0; thread < num_threads_; ++thread) {
      if (fiber(thread).state != state) return false;
    }
    return true;
  }

  std::vector<int> turns(int count) {
    std::vector<int> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    if (schedule_ == Schedule::kBackward) std::reverse(order.begin(), order.end());
    if (schedule_ == Schedule::kShuffled) std::shuffle(order.begin(), order.end(), random_);
    return order;
  }

  /// Runs a warp until all its lanes have ended or come to the block's barrier.
  void run_warp(int number) {
    Warp& warp = warps_[static_cast<std::size_t>(number)];
    const std::vector<int> order = turns(kWarpSize);
    while (true) {
      int num_waiting = 0;
      for (const int lane : order) {
        Fiber& one = fiber(number * kWarpSize + lane);
        if (one.state == Fiber::State::kRunnable) {
          current_ = number * kWarpSize + lane;
          resume(one);
        }
        num_waiting += one.state == Fiber::State::kAtWarpOperation ? 1 : 0;
      }
      if (num_waiting == 0) return;
      if (num_waiting != kWarpSize) throw std::logic_error("threads wait for others that have ended or wait elsewhere");
      if (std::any_of(warp.operation, warp.operation + kWarpSize,
                      [&](WarpOperation operation) { return operation != warp.operation[0]; })) {
        throw std::logic_error("lanes of a warp meet in different operations");
      }
      std::memcpy(warp.received, warp.given, sizeof(warp.given));
      for (int lane = 0; lane < kWarpSize; ++lane) {
        fiber(number * kWarpSize + lane).state = Fiber::State::kRunnable;
      }
    }
  }

  [[gnu::noinline]] void resume(Fiber& one) {
    if (_setjmp(scheduler_) != 0) return;
    if (one.is_entered) _longjmp(one.place, 1);
    one.is_entered = true;
    getcontext(&one.beginning);
    one.beginning.uc_stack.ss_sp = one.stack.get();
    one.beginning.uc_stack.ss_size = kStackBytes;
    one.beginning.uc_link = nullptr;
    makecontext(&one.beginning, +[] { instance().run_bodies(); }, 0);
    setcontext(&one.beginning);
  }

  [[gnu::noinline]] void suspend(Fiber::State state) {
    Fiber& one = fiber(current_);
    one.state = state;
    if (_setjmp(one.place) == 0) _longjmp(scheduler_, 1);
  }

  void run_bodies() {
    while (true) {
      (*body_)();
      suspend(Fiber::State::kDone);
    }
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  jmp_buf scheduler_;
  std::unique_ptr<std::byte[]> shared_{new std::byte[kSharedBytes]};
  std::vector<std::pair<const void*, std::size_t>> shared_objects_;
  std::size_t shared_used_ = 0;
  std::mt19937 random_{1};
  const std::function<void()>* body_ = nullptr;
  Schedule schedule_ = Schedule::kForward;
  std::int64_t block_ = 0;
  std::int64_t num_blocks_ = 0;
  int num_threads_ = 0;
  int current_ = 0;
};

}  // namespace

void simulate(std::int64_t num_blocks, int num_threads, Schedule schedule, const std::function<void()>& body) {
  static std::mutex one_launch;
  const std::lock_guard lock(one_launch);
  if (num_threads % kWarpSize != 0) throw std::logic_error("a block must be made of whole warps");
  std::vector<std::int64_t> blocks(static_cast<std::size_t>(num_blocks));
  std::iota(blocks.begin(), blocks.end(), std::int64_t{0});
  if (schedule == Schedule::kBackward) std::reverse(blocks.begin(), blocks.end());
  if (schedule == Schedule::kShuffled) {
    static std::mt19937 random(2);
    std::shuffle(blocks.begin(), blocks.end(), random);
  }
  for (const std::int64_t block : blocks) {
    Simulator::instance().run_block(block, num_blocks, num_threads, schedule, body);
  }
}

int thread() { return Simulator::instance().thread(); }
int num_threads() { return Simulator::instance().num_threads(); }
std::int64_t block() { return Simulator::instance().block(); }
std::int64_t num_blocks() { return Simulator::instance().num_blocks(); }
void sync_block() { Simulator::instance().barrier(); }
void* shared_memory(const void* key, std::size_t num_bytes) {
  return Simulator::instance().shared_memory(key, num_bytes);
}
const std::uint64_t* exchange(WarpOperation operation, std::uint64_t value) {
  return Simulator::instance().exchange(operation, value);
}

}  // namespace itop::cuda::simt
