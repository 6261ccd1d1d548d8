#include "support/simt_simulator.hpp"

#include <ucontext.h>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

namespace itop::cuda::simt {
namespace {

constexpr std::size_t kStackBytes = 96 * 1024;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool is_done = false;
};

struct Warp {
  std::uint64_t given[kWarpSize];
  std::uint64_t received[kWarpSize];
  WarpOperation operation = WarpOperation::kBallot;
  int num_waiting = 0;
  std::uint64_t generation = 0;
};

/// One block at a time.
class Simulator {
 public:
  void run_block(std::int64_t block, std::int64_t num_blocks, int num_threads, Schedule schedule,
                 const std::function<void()>& body) {
    block_ = block;
    num_blocks_ = num_blocks;
    num_threads_ = num_threads;
    body_ = &body;
    warps_.assign(static_cast<std::size_t>(num_threads / kWarpSize), Warp{});
    barrier_waiting_ = 0;
    barrier_generation_ = 0;
    failure_.clear();
    while (static_cast<int>(fibers_.size()) < num_threads) fibers_.push_back(std::make_unique<Fiber>());
    for (int thread = 0; thread < num_threads; ++thread) start(*fibers_[static_cast<std::size_t>(thread)]);
    for (int num_done = 0; num_done < num_threads;) {
      const std::uint64_t progress_before = progress_;
      for (int turn = 0; turn < num_threads; ++turn) {
        current_ = schedule == Schedule::kForward ? turn : num_threads - 1 - turn;
        Fiber& fiber = *fibers_[static_cast<std::size_t>(current_)];
        if (fiber.is_done) continue;
        swapcontext(&scheduler_, &fiber.context);
        if (fiber.is_done) ++num_done;
      }
      if (failure_.empty() && progress_ == progress_before)
        failure_ = "threads wait for others that have ended or wait elsewhere";
      if (!failure_.empty()) throw std::logic_error("block " + std::to_string(block) + ": " + failure_);
    }
  }

  int thread() const { return current_; }
  int num_threads() const { return num_threads_; }
  std::int64_t block() const { return block_; }
  std::int64_t num_blocks() const { return num_blocks_; }

  void barrier() {
    const std::uint64_t generation = barrier_generation_;
    if (++barrier_waiting_ == num_threads_) {
      barrier_waiting_ = 0;
      ++barrier_generation_;
      ++progress_;
      return;
    }
    while (barrier_generation_ == generation) yield();
  }

  const std::uint64_t* exchange(WarpOperation operation, std::uint64_t value) {
    Warp& warp = warps_[static_cast<std::size_t>(current_ / kWarpSize)];
    if (warp.num_waiting == 0) {
      warp.operation = operation;
    } else if (warp.operation != operation) {
      failure_ = "lanes of a warp meet in different operations";
    }
    warp.given[current_ % kWarpSize] = value;
    const std::uint64_t generation = warp.generation;
    if (++warp.num_waiting == kWarpSize) {
      std::memcpy(warp.received, warp.given, sizeof(warp.given));
      warp.num_waiting = 0;
      ++warp.generation;
      ++progress_;
    }
    while (warp.generation == generation) yield();
    return warp.received;
  }

  void run_body() {
    (*body_)();
    fibers_[static_cast<std::size_t>(current_)]->is_done = true;
    ++progress_;
  }

 private:
  void start(Fiber& fiber) {
    fiber.is_done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = &scheduler_;
    makecontext(&fiber.context, +[] { instance().run_body(); }, 0);
  }

  void yield() { swapcontext(&fibers_[static_cast<std::size_t>(current_)]->context, &scheduler_); }

 public:
  static Simulator& instance() {
    static Simulator simulator;
    return simulator;
  }

 private:
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  ucontext_t scheduler_;
  const std::function<void()>* body_ = nullptr;
  std::int64_t block_ = 0;
  std::int64_t num_blocks_ = 0;
  int num_threads_ = 0;
  int current_ = 0;
  int barrier_waiting_ = 0;
  std::uint64_t barrier_generation_ = 0;
  std::uint64_t progress_ = 0;
  std::string failure_;
};

}  // namespace

void simulate(std::int64_t num_blocks, int num_threads, Schedule schedule, const std::function<void()>& body) {
  static std::mutex one_launch;
  const std::lock_guard lock(one_launch);
  if (num_threads % kWarpSize != 0) throw std::logic_error("a block must be made of whole warps");
  for (std::int64_t turn = 0; turn < num_blocks; ++turn) {
    const std::int64_t block = schedule == Schedule::kForward ? turn : num_blocks - 1 - turn;
    Simulator::instance().run_block(block, num_blocks, num_threads, schedule, body);
  }
}

int thread() { return Simulator::instance().thread(); }
int num_threads() { return Simulator::instance().num_threads(); }
std::int64_t block() { return Simulator::instance().block(); }
std::int64_t num_blocks() { return Simulator::instance().num_blocks(); }
void sync_block() { Simulator::instance().barrier(); }
const std::uint64_t* exchange(WarpOperation operation, std::uint64_t value) {
  return Simulator::instance().exchange(operation, value);
}

}  // namespace itop::cuda::simt
