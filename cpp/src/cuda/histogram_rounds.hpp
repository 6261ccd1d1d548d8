#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/selection_plan.hpp"
#include "itop/reduction.hpp"

namespace itop::cuda {

/// Exact selection over several parts: the last candidate to be chosen is found digit by digit, first its key, then its
/// tie key, then its index. A round is one launch for all problems; its counts come to the host, are summed over the
/// parts of the reduction, and say where the search goes on.
class HistogramRounds {
 public:
  /// @param num_candidates of each of the plan's problems, over all parts
  HistogramRounds(const SelectionPlan& plan, std::span<const std::int64_t> num_candidates, Executor& executor,
                  Reduction& reduction);

  /// Sets the plan's flags of segments whose scores hold NaN or infinity.
  void check_finite();
  /// Finds the last candidate of every problem.
  void run();
  /// Writes the chosen bits.
  void write();

 private:
  std::vector<std::size_t> open_problems() const;
  void write_searches(std::span<const HistogramSearch> searches, const ZeroRange& zeros);

  std::vector<HistogramSearch> searches_;
  SelectionTables tables_;
  Executor& executor_;
  Reduction& reduction_;
};

}  // namespace itop::cuda
