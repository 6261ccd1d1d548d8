#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/selection_tables.hpp"

namespace itop::cuda {

/// The kernels of a selection, in the order in which it launches them.
enum class SelectionKernel : std::uint8_t {
  kCountAndSample,
  kFindBracket,
  kSplitWeights,
  kNarrowWindow,
  kRefineList,
  kFinish,
  kCountBins,
  kWriteChosen,
};

/// Where a selection runs: a stream of a GPU, or the simulator of the tests. Calls take effect in their order.
class Executor {
 public:
  virtual ~Executor() = default;

  /// Memory of the device that lives as long as the executor, aligned for every type.
  virtual std::byte* scratch(std::int64_t num_bytes) = 0;
  virtual void zero(void* target, std::int64_t num_bytes) = 0;
  virtual void upload(void* target, const void* source, std::int64_t num_bytes) = 0;
  /// Waits until `target` is filled, hence for everything before.
  virtual void download(void* target, const void* source, std::int64_t num_bytes) = 0;
  virtual void launch(SelectionKernel kernel, std::int64_t num_blocks, const SelectionTables& tables) = 0;
};

}  // namespace itop::cuda
