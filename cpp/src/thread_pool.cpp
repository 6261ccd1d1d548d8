#include "itop/thread_pool.hpp"

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace itop {
namespace {

thread_local bool inside_job = false;

int positive_integer_from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return 0;
  const int value = std::atoi(text);
  return value > 0 ? value : 0;
}

int default_num_threads() {
  if (const int threads = positive_integer_from_environment("ITOP_NUM_THREADS")) return threads;
  if (const int threads = positive_integer_from_environment("OMP_NUM_THREADS")) return threads;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0) return CPU_COUNT(&allowed);
  const unsigned hardware = std::thread::hardware_concurrency();
  return hardware > 0 ? static_cast<int>(hardware) : 1;
}

/// The host's threads, and the process they live in.
struct Host {
  ThreadPool::HostTeam team = nullptr;
  pid_t process = 0;
};
Host host;

}  // namespace

struct ThreadPool::State {
  std::mutex one_job_at_a_time;

  std::mutex mutex;
  std::condition_variable job_ready;
  std::condition_variable job_done;
  std::uint64_t job_number = 0;
  int workers_inside = 0;
  bool stopping = false;

  Function function = nullptr;
  void* context = nullptr;
  std::int64_t num_chunks = 0;
  std::atomic<std::int64_t> next_chunk{0};
  std::exception_ptr error;

  int num_threads = 1;
  std::vector<std::thread> workers;
  pid_t owner = getpid();

  void set_job(std::int64_t chunks, Function job, void* job_context) {
    function = job;
    context = job_context;
    num_chunks = chunks;
    next_chunk.store(0, std::memory_order_relaxed);
    error = nullptr;
  }

  void work() {
    inside_job = true;
    for (;;) {
      const std::int64_t chunk = next_chunk.fetch_add(1, std::memory_order_relaxed);
      if (chunk >= num_chunks) break;
      try {
        function(context, chunk);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
        next_chunk.store(num_chunks, std::memory_order_relaxed);
      }
    }
    inside_job = false;
  }

  void serve() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex);
    for (;;) {
      job_ready.wait(lock, [&] { return stopping || job_number != seen; });
      if (stopping) return;
      seen = job_number;
      ++workers_inside;
      lock.unlock();
      work();
      lock.lock();
      if (--workers_inside == 0) job_done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  if (num_threads < 1) {
    throw std::invalid_argument("num_threads must be at least 1, got " + std::to_string(num_threads));
  }
  state_->num_threads = num_threads;
}

ThreadPool::~ThreadPool() {
  if (getpid() != state_->owner) {  // after a fork the threads are not ours: nothing to join, and their state must stay
    for (auto& worker : state_->workers) worker.detach();
    static_cast<void>(state_.release());
    return;
  }
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->job_ready.notify_all();
  for (auto& worker : state_->workers) worker.join();
}

int ThreadPool::num_threads() const noexcept { return state_->num_threads; }

void ThreadPool::run(std::int64_t num_chunks, Function function, void* context) {
  State& state = *state_;
  // A forked child has no workers; one chunk or a nested call is not worth waking them.
  const pid_t process = getpid();
  if (num_chunks <= 1 || inside_job || state.num_threads == 1 || process != state.owner) {
    for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) function(context, chunk);
    return;
  }
  const std::lock_guard only_job(state.one_job_at_a_time);
  if (host.team != nullptr && host.process == process) {
    state.set_job(num_chunks, function, context);
    host.team([](void* pool) { static_cast<State*>(pool)->work(); }, &state, static_cast<unsigned>(state.num_threads),
              0);  // a team of another size would be built anew
    if (auto error = std::exchange(state.error, nullptr)) std::rethrow_exception(error);
    return;
  }
  while (static_cast<int>(state.workers.size()) + 1 < state.num_threads) {
    state.workers.emplace_back([&state] { state.serve(); });
  }
  {
    std::unique_lock lock(state.mutex);
    // A worker that woke late for the previous job may still be leaving it; the job's fields are its to read until
    // then.
    state.job_done.wait(lock, [&] { return state.workers_inside == 0; });
    state.set_job(num_chunks, function, context);
    ++state.job_number;
  }
  state.job_ready.notify_all();
  state.work();
  std::exception_ptr error;
  {
    std::unique_lock lock(state.mutex);
    state.job_done.wait(lock, [&] { return state.workers_inside == 0; });
    error = std::exchange(state.error, nullptr);
  }
  if (error) std::rethrow_exception(error);
}

namespace {
std::unique_ptr<ThreadPool>& global_pool() {
  static std::unique_ptr<ThreadPool> pool = std::make_unique<ThreadPool>(default_num_threads());
  return pool;
}
}  // namespace

ThreadPool& ThreadPool::global() { return *global_pool(); }

void ThreadPool::set_global_num_threads(int num_threads) {
  auto replacement = std::make_unique<ThreadPool>(num_threads);
  global_pool() = std::move(replacement);
}

void ThreadPool::set_host_team(HostTeam team) { host = {team, getpid()}; }

}  // namespace itop
