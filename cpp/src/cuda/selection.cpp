#include "cuda/selection.hpp"

#include <algorithm>
#include <vector>

#include "cuda/device_layout.hpp"
#include "cuda/histogram_rounds.hpp"
#include "cuda/launches.hpp"
#include "cuda/selection_plan.hpp"
#include "cuda/verdict.hpp"

namespace itop::cuda {

void select_here(std::span<const Selection> selections, std::uint32_t* not_finite, Executor& executor) {
  LocalReduction local;
  const SelectionPlan plan(selections, comparisons(selections, local), not_finite, executor);
  const SelectionTables& tables = plan.tables();
  const auto start = [&](SelectionKernel kernel, std::int64_t num_blocks) {
    launch_selection(kernel, num_blocks, tables, executor.stream());
  };
  start(SelectionKernel::kCountAndSample, tables.num_chunks + plan.num_sample_blocks());
  start(SelectionKernel::kFindBracket, tables.num_problems);
  start(SelectionKernel::kSplitWeights, tables.num_chunks);
  if (plan.num_list_blocks() > 0) {  // at random everything is decided by ties, in one pass
    start(SelectionKernel::kNarrowWindow, tables.num_problems);
    start(SelectionKernel::kRefine, plan.num_list_blocks() + std::min(tables.num_chunks, kRefiningBlocks));
  }
  start(SelectionKernel::kFinish, tables.num_problems);
}

void select_over_parts(std::span<const Selection> selections, Reduction& reduction, Executor& executor) {
  const std::vector<std::string> layers = layers_of(selections);
  DeviceLayout layout;
  const auto flags = layout.unset<std::uint32_t>(num_flags(layers.size()));
  layout.materialise(executor);
  const SelectionPlan plan(selections, comparisons(selections, reduction), layout.at(flags), executor, false);
  launch_selection(SelectionKernel::kCountAndSample, plan.tables().num_chunks, plan.tables(), executor.stream());
  std::vector<std::int64_t> num_candidates = plan.num_candidates(executor);
  reduction.sum(num_candidates);

  HistogramRounds rounds(plan, num_candidates, executor, reduction);
  rounds.check_finite();
  std::vector<std::uint32_t> not_finite(layers.size());
  executor.download(not_finite.data(), layout.at(flags),
                    static_cast<std::int64_t>(layers.size() * sizeof(std::uint32_t)));
  std::vector<std::int64_t> sums(not_finite.begin(), not_finite.end());
  reduction.sum(sums);
  for (std::size_t i = 0; i < sums.size(); ++i) not_finite[i] = sums[i] != 0 ? 1 : 0;
  refuse_not_finite(layers, not_finite);
  rounds.run();
  rounds.write();
}

}  // namespace itop::cuda
