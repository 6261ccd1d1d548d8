#include "cuda/mask_kernels.hpp"

#include "cuda/launch.hpp"
#include "cuda/launches.hpp"

namespace itop::cuda {
namespace {

template <class Table>
__global__ void __launch_bounds__(kStreamThreads)
    commit_kernel(const __grid_constant__ Table table, CommitOptions options, Refusals refusals) {
  commit_chunk(table, options, refusals);
}

template <class Table>
__global__ void __launch_bounds__(kStreamThreads) apply_kernel(const __grid_constant__ Table table) {
  apply_chunk(table);
}

template <class Table>
__global__ void __launch_bounds__(kStreamThreads) complement_kernel(const __grid_constant__ Table table) {
  complement_chunk(table);
}

/// Starts `kernel` with tables that hold all rows between them.
template <class Table, class Entry, class... Parameters>
void launch_tables(const char* name, void (*kernel)(Table, Parameters...), std::span<const Entry> rows,
                   cudaStream_t stream, const std::type_identity_t<Parameters>&... arguments) {
  Table table;
  while (!rows.empty()) {
    rows = table.take(rows);
    launch(name, kernel, table.num_chunks(), kStreamThreads, stream, table, arguments...);
  }
}

}  // namespace

void launch_commit(std::span<const CommitEntry> rows, const CommitOptions& options, const Refusals& refusals,
                   cudaStream_t stream) {
  launch_tables("commit", commit_kernel<CommitTable>, rows, stream, options, refusals);
}

bool load_apply() {
  const auto load = [](auto* kernel) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
      cudaGetLastError();
      return false;
    }
    check(error, "cudaFuncGetAttributes");
    return true;
  };
  return load(apply_kernel<ApplyTable>) && load(apply_kernel<LargeApplyTable>);
}

void launch_apply(std::span<const ApplyEntry> rows, cudaStream_t stream) {
  constexpr std::size_t few = sizeof(ApplyTable::rows) / sizeof(ApplyEntry);
  if (rows.size() <= few) {
    launch_tables("apply", apply_kernel<ApplyTable>, rows, stream);
  } else {
    launch_tables("apply", apply_kernel<LargeApplyTable>, rows, stream);
  }
}

void launch_complement(std::span<const LayerComplement> rows, cudaStream_t stream) {
  launch_tables("complement", complement_kernel<ComplementTable>, rows, stream);
}

}  // namespace itop::cuda
