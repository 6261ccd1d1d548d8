#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "cuda/bracket_kernels.hpp"
#include "cuda/executor.hpp"
#include "cuda/histogram_kernels.hpp"
#include "cuda/resolve_kernels.hpp"
#include "cuda/split_kernels.hpp"
#include "support/simt_simulator.hpp"

namespace itop::cuda {

/// Runs a selection's kernels on the host, thread by thread. Memory that nobody has written holds garbage.
class SimulatedExecutor final : public Executor {
 public:
  explicit SimulatedExecutor(simt::Schedule schedule = simt::Schedule::kForward) : schedule_(schedule) {}

  std::byte* scratch(std::int64_t num_bytes) override {
    auto& bytes = scratch_.emplace_back(std::make_unique<std::byte[]>(static_cast<std::size_t>(num_bytes) + 1));
    std::memset(bytes.get(), 0xA5, static_cast<std::size_t>(num_bytes));
    return bytes.get();
  }
  void zero(void* target, std::int64_t num_bytes) override {
    std::memset(target, 0, static_cast<std::size_t>(num_bytes));
  }
  void upload(void* target, const void* source, std::int64_t num_bytes) override {
    std::memcpy(target, source, static_cast<std::size_t>(num_bytes));
  }
  void download(void* target, const void* source, std::int64_t num_bytes) override {
    std::memcpy(target, source, static_cast<std::size_t>(num_bytes));
    ++num_waits;
  }

  void launch(SelectionKernel kernel, std::int64_t num_blocks, const SelectionTables& tables) override {
    launched.push_back(kernel);
    switch (kernel) {
      case SelectionKernel::kCountAndSample:
        return run<CountShared>(num_blocks, kStreamThreads,
                                [&](CountShared& shared) { count_and_sample(tables, shared); });
      case SelectionKernel::kFindBracket:
        return run<BracketShared>(num_blocks, kSearchThreads,
                                  [&](BracketShared& shared) { find_bracket(tables, shared); });
      case SelectionKernel::kSplitWeights:
        return run<Nothing>(num_blocks, kStreamThreads, [&](Nothing&) { split_weights(tables); });
      case SelectionKernel::kNarrowWindow:
        return run<NarrowShared>(num_blocks, kSearchThreads,
                                 [&](NarrowShared& shared) { narrow_window(tables, shared); });
      case SelectionKernel::kRefineList:
        return run<Nothing>(num_blocks, kStreamThreads, [&](Nothing&) { refine_list(tables); });
      case SelectionKernel::kFinish:
        return run<FinishShared>(num_blocks, kSearchThreads, [&](FinishShared& shared) { finish(tables, shared); });
      case SelectionKernel::kCountBins:
        return run<HistogramShared>(num_blocks, kStreamThreads,
                                    [&](HistogramShared& shared) { count_bins(tables, shared); });
      case SelectionKernel::kWriteChosen:
        return run<Nothing>(num_blocks, kStreamThreads, [&](Nothing&) { write_chosen(tables); });
    }
  }

  std::vector<SelectionKernel> launched;
  int num_waits = 0;

 private:
  struct Nothing {};

  /// Shared memory is one object for the threads of a block, unset when a block begins. One object serves all blocks:
  /// what an earlier block left there is as good as garbage.
  template <class Shared, class Body>
  void run(std::int64_t num_blocks, int num_threads, Body&& body) {
    Shared shared;
    std::memset(static_cast<void*>(&shared), 0xA5, sizeof(shared));
    simt::simulate(num_blocks, num_threads, schedule_, [&] { body(shared); });
  }

  simt::Schedule schedule_;
  std::vector<std::unique_ptr<std::byte[]>> scratch_;
};

}  // namespace itop::cuda
