#include <type_traits>

#include "cuda/bracket_kernels.hpp"
#include "cuda/cuda_check.hpp"
#include "cuda/histogram_kernels.hpp"
#include "cuda/launches.hpp"
#include "cuda/resolve_kernels.hpp"
#include "cuda/split_kernels.hpp"

namespace itop::cuda {
namespace {

// Shared memory comes as it is: no constructor runs.
static_assert(std::is_trivially_default_constructible_v<BracketShared> &&
              std::is_trivially_default_constructible_v<NarrowShared> &&
              std::is_trivially_default_constructible_v<FinishShared> &&
              std::is_trivially_default_constructible_v<CountShared> &&
              std::is_trivially_default_constructible_v<HistogramShared>);

__global__ void __launch_bounds__(kStreamThreads) count_and_sample_kernel(SelectionTables tables) {
  __shared__ CountShared shared;
  count_and_sample(tables, shared);
}

__global__ void __launch_bounds__(kSearchThreads) find_bracket_kernel(SelectionTables tables) {
  __shared__ BracketShared shared;
  find_bracket(tables, shared);
}

__global__ void __launch_bounds__(kStreamThreads) split_weights_kernel(SelectionTables tables) {
  split_weights(tables);
}

__global__ void __launch_bounds__(kSearchThreads) narrow_window_kernel(SelectionTables tables) {
  __shared__ NarrowShared shared;
  narrow_window(tables, shared);
}

__global__ void __launch_bounds__(kStreamThreads) refine_list_kernel(SelectionTables tables) { refine_list(tables); }

__global__ void __launch_bounds__(kSearchThreads) finish_kernel(SelectionTables tables) {
  __shared__ FinishShared shared;
  finish(tables, shared);
}

__global__ void __launch_bounds__(kStreamThreads) count_bins_kernel(SelectionTables tables) {
  __shared__ HistogramShared shared;
  count_bins(tables, shared);
}

__global__ void __launch_bounds__(kStreamThreads) write_chosen_kernel(SelectionTables tables) { write_chosen(tables); }

}  // namespace

void launch_selection(SelectionKernel kernel, std::int64_t num_blocks, const SelectionTables& tables,
                      cudaStream_t stream) {
  if (num_blocks == 0) return;
  const auto blocks = static_cast<unsigned>(num_blocks);
  switch (kernel) {
    case SelectionKernel::kCountAndSample:
      count_and_sample_kernel<<<blocks, kStreamThreads, 0, stream>>>(tables);
      return check_launch("launch of count_and_sample");
    case SelectionKernel::kFindBracket:
      find_bracket_kernel<<<blocks, kSearchThreads, 0, stream>>>(tables);
      return check_launch("launch of find_bracket");
    case SelectionKernel::kSplitWeights:
      split_weights_kernel<<<blocks, kStreamThreads, 0, stream>>>(tables);
      return check_launch("launch of split_weights");
    case SelectionKernel::kNarrowWindow:
      narrow_window_kernel<<<blocks, kSearchThreads, 0, stream>>>(tables);
      return check_launch("launch of narrow_window");
    case SelectionKernel::kRefineList:
      refine_list_kernel<<<blocks, kStreamThreads, 0, stream>>>(tables);
      return check_launch("launch of refine_list");
    case SelectionKernel::kFinish:
      finish_kernel<<<blocks, kSearchThreads, 0, stream>>>(tables);
      return check_launch("launch of finish");
    case SelectionKernel::kCountBins:
      count_bins_kernel<<<blocks, kStreamThreads, 0, stream>>>(tables);
      return check_launch("launch of count_bins");
    case SelectionKernel::kWriteChosen:
      write_chosen_kernel<<<blocks, kStreamThreads, 0, stream>>>(tables);
      return check_launch("launch of write_chosen");
  }
}

}  // namespace itop::cuda
