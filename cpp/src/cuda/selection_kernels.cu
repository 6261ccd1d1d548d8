#include "cuda/bracket_kernels.hpp"
#include "cuda/histogram_kernels.hpp"
#include "cuda/launch.hpp"
#include "cuda/launches.hpp"
#include "cuda/resolve_kernels.hpp"
#include "cuda/split_kernels.hpp"

namespace itop::cuda {
namespace {

__global__ void __launch_bounds__(kStreamThreads) count_and_sample_kernel(SelectionTables tables) {
  count_and_sample(tables, simt::shared<CountShared>());
}
__global__ void __launch_bounds__(kSearchThreads) find_bracket_kernel(SelectionTables tables) {
  find_bracket(tables, simt::shared<BracketShared>());
}
/// Half of a multiprocessor's threads at once, 64 registers each: 64 KB of loads under way.
__global__ void __launch_bounds__(kStreamThreads, 4) split_weights_kernel(SelectionTables tables) {
  split_chunk(tables, simt::block(), false);
}
__global__ void __launch_bounds__(kSearchThreads) narrow_window_kernel(SelectionTables tables) {
  narrow_window(tables, simt::shared<NarrowShared>());
}
__global__ void __launch_bounds__(kStreamThreads, 4) refine_kernel(SelectionTables tables) { refine(tables); }
__global__ void __launch_bounds__(kSearchThreads) finish_kernel(SelectionTables tables) {
  finish(tables, simt::shared<FinishShared>());
}
__global__ void __launch_bounds__(kStreamThreads) count_bins_kernel(SelectionTables tables) {
  count_bins(tables, simt::shared<HistogramShared>());
}
__global__ void __launch_bounds__(kStreamThreads) write_chosen_kernel(SelectionTables tables) { write_chosen(tables); }

}  // namespace

void launch_selection(SelectionKernel kernel, std::int64_t num_blocks, const SelectionTables& tables,
                      cudaStream_t stream) {
  const auto start = [&](const char* name, void (*body)(SelectionTables), int num_threads) {
    launch(name, body, num_blocks, num_threads, stream, tables);
  };
  switch (kernel) {
    case SelectionKernel::kCountAndSample:
      return start("count_and_sample", count_and_sample_kernel, kStreamThreads);
    case SelectionKernel::kFindBracket:
      return start("find_bracket", find_bracket_kernel, kSearchThreads);
    case SelectionKernel::kSplitWeights:
      return start("split_weights", split_weights_kernel, kStreamThreads);
    case SelectionKernel::kNarrowWindow:
      return start("narrow_window", narrow_window_kernel, kSearchThreads);
    case SelectionKernel::kRefine:
      return start("refine", refine_kernel, kStreamThreads);
    case SelectionKernel::kFinish:
      return start("finish", finish_kernel, kSearchThreads);
    case SelectionKernel::kCountBins:
      return start("count_bins", count_bins_kernel, kStreamThreads);
    case SelectionKernel::kWriteChosen:
      return start("write_chosen", write_chosen_kernel, kStreamThreads);
  }
}

}  // namespace itop::cuda
