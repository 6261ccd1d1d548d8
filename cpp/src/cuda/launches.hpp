#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "cuda/executor.hpp"
#include "cuda/mask_tables.hpp"
#include "cuda/selection_tables.hpp"
#include "itop/backend.hpp"

/// The kernels' launches, one file of device code a group. All go to `stream` and return at once.
namespace itop::cuda {

/// The kernels of a selection, in the order in which it launches them; the last two are those of histogram rounds.
enum class SelectionKernel : std::uint8_t {
  kCountAndSample,
  kFindBracket,
  kSplitWeights,
  kNarrowWindow,
  kRefine,
  kFinish,
  kCountBins,
  kWriteChosen,
};

void launch_selection(SelectionKernel kernel, std::int64_t num_blocks, const SelectionTables& tables,
                      cudaStream_t stream);

/// As many launches as the rows need tables: one up to 300 layers.
void launch_commit(std::span<const CommitEntry> rows, const CommitOptions& options, const Refusals& refusals,
                   cudaStream_t stream);
/// Loads the kernels of mask application: their first launch may be inside a capture, which is no time to load code.
/// Returns whether this build has code for the current device.
bool load_apply();
/// One launch up to 800 tensors.
void launch_apply(std::span<const ApplyEntry> rows, cudaStream_t stream);
void launch_complement(std::span<const LayerComplement> rows, cudaStream_t stream);

/// See Executor::write.
void launch_write(void* target, std::span<const std::byte> source, const ZeroRange& zeros, const ZeroRange& more_zeros,
                  cudaStream_t stream);
void launch_combine(BitOperation operation, const Word* a, const Word* b, Word* target, std::int64_t num_words,
                    cudaStream_t stream);
void launch_count(const Word* words, const std::int64_t* word_offsets, const std::int64_t* chunk_offsets,
                  std::int64_t num_chunks, int num_ranges, std::uint64_t* counts, cudaStream_t stream);
void launch_unpack(const Word* words, std::uint8_t* bytes, std::int64_t numel, cudaStream_t stream);
void launch_pack(const std::uint8_t* bytes, Word* words, std::int64_t numel, cudaStream_t stream);

}  // namespace itop::cuda
