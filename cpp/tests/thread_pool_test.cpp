#include "itop/thread_pool.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace itop {
namespace {

class ThreadPoolOf : public ::testing::TestWithParam<int> {
 protected:
  ThreadPool pool_{GetParam()};
};

TEST_P(ThreadPoolOf, RunsEveryChunkExactlyOnce) {
  EXPECT_EQ(pool_.num_threads(), GetParam());
  for (const std::int64_t num_chunks : {0, 1, 2, 5, 64, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<std::size_t>(num_chunks));
    pool_.parallel_for(num_chunks, [&](std::int64_t chunk) { ++runs[static_cast<std::size_t>(chunk)]; });
    for (const auto& count : runs) EXPECT_EQ(count.load(), 1);
  }
}

TEST_P(ThreadPoolOf, HasFinishedAllChunksWhenItReturns) {
  // Plain writes, read without a lock: parallel_for itself must order them.
  std::vector<std::int64_t> squares(257);
  for (int round = 0; round < 200; ++round) {
    pool_.parallel_for(257, [&](std::int64_t i) { squares[static_cast<std::size_t>(i)] = i * i + round; });
    for (std::int64_t i = 0; i < 257; ++i) ASSERT_EQ(squares[static_cast<std::size_t>(i)], i * i + round);
  }
}

TEST_P(ThreadPoolOf, RethrowsAnExceptionAndWorksAfterwards) {
  for (int round = 0; round < 20; ++round) {
    EXPECT_THROW(pool_.parallel_for(100,
                                    [](std::int64_t chunk) {
                                      if (chunk % 10 == 3) throw std::domain_error("chunk failed");
                                    }),
                 std::domain_error);
    std::atomic<std::int64_t> sum = 0;
    pool_.parallel_for(100, [&](std::int64_t chunk) { sum += chunk; });
    EXPECT_EQ(sum.load(), 4950);
  }
}

TEST_P(ThreadPoolOf, SkipsChunksNotYetStartedAfterAnException) {
  std::atomic<int> started = 0;
  EXPECT_THROW(pool_.parallel_for(1'000'000,
                                  [&](std::int64_t) {
                                    ++started;
                                    throw std::runtime_error("stop");
                                  }),
               std::runtime_error);
  EXPECT_LE(started.load(), GetParam());
}

TEST_P(ThreadPoolOf, RunsANestedCallOnTheCallingThread) {
  std::atomic<int> sum = 0;
  pool_.parallel_for(8, [&](std::int64_t) {
    const auto outer = std::this_thread::get_id();
    pool_.parallel_for(8, [&](std::int64_t) {
      if (std::this_thread::get_id() == outer) ++sum;
    });
  });
  EXPECT_EQ(sum.load(), 64);
}

TEST_P(ThreadPoolOf, TakesJobsOfSeveralCallersOneAfterAnother) {
  std::vector<std::int64_t> sums(4);
  std::vector<std::thread> callers;
  for (std::size_t caller = 0; caller < sums.size(); ++caller) {
    callers.emplace_back([&, caller] {
      for (int round = 0; round < 50; ++round) {
        std::atomic<std::int64_t> sum = 0;
        pool_.parallel_for(100, [&](std::int64_t chunk) { sum += chunk; });
        sums[caller] += sum.load();
      }
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(sums, std::vector<std::int64_t>(4, 50 * 4950));
}

INSTANTIATE_TEST_SUITE_P(OneToSevenThreads, ThreadPoolOf, ::testing::Values(1, 2, 3, 4, 7));

TEST(ThreadPool, RefusesFewerThanOneThread) {
  EXPECT_THROW(ThreadPool(0), std::invalid_argument);
  EXPECT_THROW(ThreadPool(-3), std::invalid_argument);
  EXPECT_THROW(ThreadPool::set_global_num_threads(0), std::invalid_argument);
}

TEST(ThreadPool, OfTheProcessTakesANewNumberOfThreads) {
  const int before = ThreadPool::global().num_threads();
  ThreadPool::set_global_num_threads(5);
  EXPECT_EQ(ThreadPool::global().num_threads(), 5);
  std::atomic<int> sum = 0;
  ThreadPool::global().parallel_for(10, [&](std::int64_t) { ++sum; });
  EXPECT_EQ(sum.load(), 10);
  ThreadPool::set_global_num_threads(before);
}

#if !defined(__SANITIZE_THREAD__)  // the thread sanitizer does not follow a fork of a process with threads
TEST(ThreadPool, WorksOnTheCallingThreadOfAForkedChild) {
  ThreadPool pool(3);
  pool.parallel_for(8, [](std::int64_t) {});
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    int sum = 0;
    pool.parallel_for(8, [&](std::int64_t chunk) { sum += static_cast<int>(chunk); });
    _exit(sum == 28 ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}
#endif

std::atomic<int> num_host_jobs = 0;

void host_team(void (*function)(void*), void* data, unsigned num_threads, unsigned /*flags*/) {
  ++num_host_jobs;
  std::vector<std::thread> others;
  for (unsigned i = 1; i < num_threads; ++i) others.emplace_back(function, data);
  function(data);
  for (auto& other : others) other.join();
}

TEST(ThreadPool, RunsOnTheHostsThreadsWhereThereAreSome) {
  ThreadPool pool(3);
  num_host_jobs = 0;
  ThreadPool::set_host_team(host_team);
  std::atomic<std::int64_t> sum = 0;
  pool.parallel_for(100, [&](std::int64_t chunk) { sum += chunk; });
  EXPECT_THROW(pool.parallel_for(100, [](std::int64_t) { throw std::domain_error("chunk failed"); }),
               std::domain_error);
  ThreadPool::set_host_team(nullptr);
  pool.parallel_for(100, [&](std::int64_t chunk) { sum += chunk; });
  EXPECT_EQ(sum.load(), 2 * 4950);
  EXPECT_EQ(num_host_jobs.load(), 2);
}

TEST(ThreadPool, LeavesTheHostsThreadsToTheParentOfAFork) {
  ThreadPool::set_host_team(host_team);
  const pid_t child = fork();
  if (child == 0) {
    num_host_jobs = 0;
    ThreadPool pool(2);
    std::atomic<std::int64_t> sum = 0;
    pool.parallel_for(100, [&](std::int64_t chunk) { sum += chunk; });
    _exit(sum.load() == 4950 && num_host_jobs.load() == 0 ? 0 : 1);
  }
  ThreadPool::set_host_team(nullptr);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace itop
