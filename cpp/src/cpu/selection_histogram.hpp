#pragma once

#include <cstdint>

#include "cpu/selection_problem.hpp"
#include "itop/reduction.hpp"
#include "itop/thread_pool.hpp"

namespace itop::cpu {

/// A key and how many candidates have it.
struct KeyCount {
  std::int64_t key = 0;
  std::int64_t num_equal = 0;
};

/// The k-th best key of a problem whose bracket missed: radix search, one histogram a digit, summed over the parts.
KeyCount kth_key_by_histogram(const Problem& problem, Reduction& reduction, ThreadPool& threads);

}  // namespace itop::cpu
