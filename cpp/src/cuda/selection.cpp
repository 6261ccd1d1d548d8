#include "cuda/selection.hpp"

#include <vector>

#include "cuda/histogram_rounds.hpp"
#include "cuda/selection_plan.hpp"
#include "itop/error.hpp"

namespace itop::cuda {
namespace {

void refuse_not_finite(const SelectionPlan& plan, std::span<const std::uint32_t> not_finite) {
  for (std::size_t i = 0; i < not_finite.size(); ++i) {
    if (not_finite[i] == 0) continue;
    throw NonFiniteError(plan.layer_of(i), "the scores of layer '" + plan.layer_of(i) + "' hold NaN or infinity");
  }
}

std::vector<std::int32_t> problems_with(std::span<const ProblemState> states, Action action) {
  std::vector<std::int32_t> problems;
  for (std::size_t i = 0; i < states.size(); ++i) {
    if (states[i].action == action) problems.push_back(static_cast<std::int32_t>(i));
  }
  return problems;
}

void select_here(std::span<const Selection> selections, Reduction& reduction, Executor& executor) {
  const SelectionPlan plan(selections, comparisons(selections, reduction), true, executor);
  SelectionTables tables = plan.tables();
  executor.launch(SelectionKernel::kCountAndSample, tables.num_chunks + plan.num_sample_blocks(), tables);
  executor.launch(SelectionKernel::kFindBracket, tables.num_problems, tables);
  executor.launch(SelectionKernel::kSplitWeights, tables.num_chunks, tables);
  executor.launch(SelectionKernel::kNarrowWindow, tables.num_problems, tables);
  executor.launch(SelectionKernel::kRefineList, plan.num_list_blocks(), tables);
  executor.launch(SelectionKernel::kFinish, tables.num_problems, tables);
  SelectionPlan::Outcome outcome = plan.download(executor);
  refuse_not_finite(plan, outcome.not_finite);

  if (!problems_with(outcome.states, Action::kRefineData).empty()) {
    tables.refines_data = true;
    executor.launch(SelectionKernel::kSplitWeights, tables.num_chunks, tables);
    executor.launch(SelectionKernel::kFinish, tables.num_problems, tables);
    outcome = plan.download(executor);
  }
  const std::vector<std::int32_t> unresolved = problems_with(outcome.states, Action::kUnresolved);
  if (unresolved.empty()) return;
  std::vector<std::int64_t> num_candidates;
  for (const ProblemState& state : outcome.states)
    num_candidates.push_back(static_cast<std::int64_t>(state.num_candidates));
  HistogramRounds rounds(plan, unresolved, num_candidates, executor, reduction);
  rounds.run();
  rounds.write();
}

void select_over_parts(std::span<const Selection> selections, Reduction& reduction, Executor& executor) {
  const SelectionPlan plan(selections, comparisons(selections, reduction), false, executor);
  executor.launch(SelectionKernel::kCountAndSample, plan.tables().num_chunks, plan.tables());
  std::vector<std::int64_t> num_candidates;
  for (const ProblemState& state : plan.download(executor).states) {
    num_candidates.push_back(static_cast<std::int64_t>(state.num_candidates));
  }
  reduction.sum(num_candidates);

  std::vector<std::int32_t> all;
  for (std::size_t i = 0; i < selections.size(); ++i) all.push_back(static_cast<std::int32_t>(i));
  HistogramRounds rounds(plan, all, num_candidates, executor, reduction);
  rounds.check_finite();
  std::vector<std::int64_t> flags;
  for (const std::uint32_t flag : plan.download(executor).not_finite) flags.push_back(flag);
  reduction.sum(flags);
  std::vector<std::uint32_t> not_finite;
  for (const std::int64_t flag : flags) not_finite.push_back(flag != 0 ? 1 : 0);
  refuse_not_finite(plan, not_finite);
  rounds.run();
  rounds.write();
}

}  // namespace

void select(std::span<const Selection> selections, Reduction& reduction, Executor& executor) {
  if (reduction.is_local()) {
    select_here(selections, reduction, executor);
  } else {
    select_over_parts(selections, reduction, executor);
  }
}

}  // namespace itop::cuda
