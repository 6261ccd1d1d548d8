#pragma once

#include <cstdint>
#include <span>

#include "itop/reduction.hpp"
#include "itop/scratch_memory.hpp"
#include "itop/thread_pool.hpp"

namespace itop::cpu {

/// Asks for the `rank`-th smallest (from 1) of values that lie scattered over the parts of a reduction.
/// Queries of the same values stand next to each other, by rising rank.
struct OrderStatisticQuery {
  ScratchArray<std::int64_t>* values = nullptr;  ///< this part's, perhaps of several queries; reordered
  std::int64_t rank = 0;
  std::int64_t lowest = 0;   ///< no value of any part is lower ...
  std::int64_t highest = 0;  ///< ... or higher
  std::int64_t result = 0;   ///< filled in
};

/// Answers all queries. In one process by counting and partial sorting; over several parts by a search in which every
/// round sums sixteen counts a query, so that bytes on the wire do not grow with the number of values, and which ends
/// where one value is left.
void answer(std::span<OrderStatisticQuery> queries, Reduction& reduction, ThreadPool& threads);

/// One answer, of values that are all here; they are reordered.
std::int64_t nth_smallest(ScratchArray<std::int64_t>& values, std::int64_t rank, ThreadPool& threads);

}  // namespace itop::cpu
