#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "itop/thread_pool.hpp"

namespace itop::benchmark {

/// The milliseconds `body` takes, undisturbed: the fastest of `repetitions`, after one run that warms caches and
/// scratch memory. On a machine that does other things as well, the fastest run says what the code costs; a mean says
/// how busy the neighbours were. `prepare` runs before each, untimed.
template <class Body, class Prepare>
double milliseconds(int repetitions, Body&& body, Prepare&& prepare) {
  prepare();
  body();
  double fastest = std::numeric_limits<double>::infinity();
  for (int i = 0; i < repetitions; ++i) {
    prepare();
    const auto start = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    fastest = std::min(fastest, time.count());
  }
  return fastest;
}

template <class Body>
double milliseconds(int repetitions, Body&& body) {
  return milliseconds(repetitions, std::forward<Body>(body), [] {});
}

/// Reads `values` once on all threads; the result keeps the compiler from leaving the reading out.
inline float read_once(const std::vector<float>& values) {
  constexpr std::size_t piece = 131072;
  constexpr std::size_t lanes = 64;
  const std::size_t num_pieces = (values.size() + piece - 1) / piece;
  std::vector<float> sums(num_pieces);
  ThreadPool::global().parallel_for(static_cast<std::int64_t>(num_pieces), [&](std::int64_t i) {
    const std::size_t begin = static_cast<std::size_t>(i) * piece;
    const std::size_t end = std::min(begin + piece, values.size());
    float partial[lanes] = {};
    for (std::size_t first = begin; first + lanes <= end; first += lanes) {
      for (std::size_t lane = 0; lane < lanes; ++lane) partial[lane] += values[first + lane];
    }
    float sum = 0;
    for (const float one : partial) sum += one;
    sums[static_cast<std::size_t>(i)] = sum;
  });
  float sum = 0;
  for (const float one : sums) sum += one;
  return sum;
}

/// Keeps a result alive.
inline void use(float value) {
  [[maybe_unused]] static volatile float sink;
  sink = value;
}

/// One line of a table: what ran, how long, and how many times the floor that is.
inline void print_line(const std::string& what, double milliseconds, double floor_milliseconds) {
  std::printf("%-52s %9.2f ms %8.2fx\n", what.c_str(), milliseconds, milliseconds / floor_milliseconds);
}

}  // namespace itop::benchmark
