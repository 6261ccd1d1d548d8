#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace itop {

/// A fixed set of threads that share the chunks of one job; the caller takes part, idle threads sleep.
///
/// Threads start with the first job that needs them. Where the host program has threads of its own, jobs run on those
/// (`set_host_team`): its threads go on spinning for a while after each of its own jobs, and two teams on the same
/// cores would wait for each other.
///
/// Chunks are handed out dynamically, so a job must give the same result whichever thread runs which chunk: every
/// algorithm of the core combines per-chunk results in chunk order.
class ThreadPool {
 public:
  /// @param num_threads threads that work on a job, the caller included; at least 1
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const noexcept;

  /// Runs `body(chunk)` for every chunk in [0, num_chunks) and returns when all are done.
  /// The first exception of a chunk is rethrown here; chunks that were not started are skipped then.
  /// A call from inside a chunk runs its chunks on the calling thread.
  template <class Body>
  void parallel_for(std::int64_t num_chunks, Body&& body) {
    using Callable = std::remove_reference_t<Body>;
    run(
        num_chunks, [](void* context, std::int64_t chunk) { (*static_cast<Callable*>(context))(chunk); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  /// The pool of the process: ITOP_NUM_THREADS, else OMP_NUM_THREADS, else the processors this process may run on.
  static ThreadPool& global();

  /// Replaces the process's pool. Not to be called while another thread of the process is inside the core.
  /// @throws std::invalid_argument if num_threads < 1
  static void set_global_num_threads(int num_threads);

  /// Runs `function(data)` at once on up to `num_threads` threads, the caller's included, and returns when all are
  /// done: the signature of OpenMP's GOMP_parallel.
  using HostTeam = void (*)(void (*function)(void*), void* data, unsigned num_threads, unsigned flags);

  /// Lets every pool of this process run its jobs on the host's threads; null: on threads of its own. Forked children
  /// never use the host's team: its threads stayed with the parent.
  /// Not to be called while another thread of the process is inside the core.
  static void set_host_team(HostTeam team);

 private:
  using Function = void (*)(void* context, std::int64_t chunk);
  void run(std::int64_t num_chunks, Function function, void* context);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace itop
