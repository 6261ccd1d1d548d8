#include "cuda/mask_kernels.hpp"

#include "cuda/cuda_check.hpp"
#include "cuda/launches.hpp"

namespace itop::cuda {
namespace {

template <class Table>
__global__ void __launch_bounds__(kStreamThreads)
    commit_kernel(const __grid_constant__ Table table, CommitOptions options) {
  commit_chunk(table, options);
}

template <class Table>
__global__ void __launch_bounds__(kStreamThreads) apply_kernel(const __grid_constant__ Table table) {
  apply_chunk(table);
}

template <class Table>
__global__ void __launch_bounds__(kStreamThreads) complement_kernel(const __grid_constant__ Table table) {
  complement_chunk(table);
}

/// Calls `launch(table, num_blocks)` for tables that hold all rows between them.
template <class Table, class Entry, class Launch>
void for_tables(std::span<const Entry> rows, const char* kernel, Launch&& launch) {
  Table table;
  while (!rows.empty()) {
    rows = table.take(rows);
    if (table.num_rows == 0) continue;
    launch(table, static_cast<unsigned>(table.num_chunks()));
    check_launch(kernel);
  }
}

}  // namespace

void launch_commit(std::span<const CommitEntry> rows, const CommitOptions& options, cudaStream_t stream) {
  for_tables<CommitTable>(rows, "launch of commit", [&](const CommitTable& table, unsigned num_blocks) {
    commit_kernel<<<num_blocks, kStreamThreads, 0, stream>>>(table, options);
  });
}

void launch_apply(std::span<const ApplyEntry> rows, cudaStream_t stream) {
  const auto launch = [&](const auto& table, unsigned num_blocks) {
    apply_kernel<<<num_blocks, kStreamThreads, 0, stream>>>(table);
  };
  constexpr std::size_t few = sizeof(ApplyTable::rows) / sizeof(ApplyEntry);
  if (rows.size() <= few) {
    for_tables<ApplyTable>(rows, "launch of apply", launch);
  } else {
    for_tables<LargeApplyTable>(rows, "launch of apply", launch);
  }
}

void launch_complement(std::span<const LayerComplement> rows, cudaStream_t stream) {
  for_tables<ComplementTable>(rows, "launch of complement", [&](const ComplementTable& table, unsigned num_blocks) {
    complement_kernel<<<num_blocks, kStreamThreads, 0, stream>>>(table);
  });
}

}  // namespace itop::cuda
