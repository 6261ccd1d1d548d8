#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/sparse_kernels.hpp"
#include "itop/sparse_linear.hpp"
#include "itop/sparse_matrix.hpp"
#include "itop/sparse_scratch.hpp"
#include "itop/thread_pool.hpp"

namespace itop {

/// The entries of rows [first_row, last_row) of a block.
inline cpu::EntryRuns runs_of(const SparsePattern& pattern, std::int64_t block, std::int64_t first_row,
                              std::int64_t last_row) {
  return {pattern.block_starts + block * pattern.num_rows + first_row,
          pattern.block_starts + (block + 1) * pattern.num_rows + first_row, last_row - first_row, pattern.columns};
}

/// Up to `2^log2` samples that a kernel handles together.
struct SampleTile {
  std::int64_t first = 0;  ///< of the batch
  int num_samples = 0;
  int log2 = 0;
  std::int64_t packed_before = 0;  ///< samples of the earlier tiles, padding included

  int size() const noexcept { return 1 << log2; }
};

/// Cuts [first, first + count) into tiles of at most 2^max_log2, padding little.
std::vector<SampleTile> tile_samples(std::int64_t first, std::int64_t count, int max_log2);

std::int64_t packed_samples(const std::vector<SampleTile>& tiles);

/// packed: tile after tile `[features][tile size]`, from rows `[batch, features]`.
template <class Scalar>
void pack_activations(const ActivationView& dense, std::int64_t num_features, const std::vector<SampleTile>& tiles,
                      Scalar* packed, ThreadPool& pool);

/// Writes features [first_feature, first_feature + count) of a tile's samples to rows `[batch, num_features]`.
/// @param packed [count][tile size]
template <class Scalar>
void unpack_features(const Scalar* packed, const SampleTile& tile, std::int64_t first_feature, std::int64_t count,
                     void* dense, ValueType type, std::int64_t num_features);

/// out[i] = values[permutation[i]], or values[i] where the permutation is null, for i in [0, count).
template <class Scalar>
void gather_values(const void* values, ValueType type, const std::uint32_t* permutation, std::int64_t first,
                   std::int64_t count, Scalar* out);

/// to[permutation[first + i]] = from[i], or to[first + i] where the permutation is null; rounded to nearest even where
/// `type` is narrower.
template <class Scalar>
void write_values(const Scalar* from, std::int64_t count, void* to, ValueType type, const std::uint32_t* permutation,
                  std::int64_t first);

/// The values in a pattern's order as Scalar; a copy only where order or type differ.
template <class Scalar>
class OrderedValues {
 public:
  OrderedValues(const SparsePattern& pattern, const void* values, ValueType type, ThreadPool& pool)
      : copied_(pattern.permutation != nullptr || type == ValueType::kBFloat16),
        copy_(copied_ ? static_cast<std::size_t>(pattern.num_entries()) * sizeof(Scalar) : 0),
        values_(values) {
    if (!copied_) return;
    constexpr std::int64_t kEntriesPerChunk = 16384;
    const std::int64_t count = pattern.num_entries();
    pool.parallel_for((count + kEntriesPerChunk - 1) / kEntriesPerChunk, [&](std::int64_t chunk) {
      const std::int64_t first = chunk * kEntriesPerChunk;
      gather_values(values, type, pattern.permutation, first, std::min(kEntriesPerChunk, count - first),
                    copy_.template as<Scalar>() + first);
    });
  }
  const Scalar* data() const noexcept {
    return copied_ ? copy_.template as<Scalar>() : static_cast<const Scalar*>(values_);
  }

 private:
  bool copied_;
  ScratchLease copy_;
  const void* values_;
};

/// First rows of panels of about equal work, with `num_rows` at the end.
/// @param row_bytes bytes of one row of the dense result, a tile wide
/// @param in_bytes  bytes of the whole dense operand, a tile wide
std::vector<std::int64_t> cut_panels(const SparsePattern& pattern, std::int64_t row_bytes, std::int64_t in_bytes,
                                     std::int64_t num_samples, int num_threads);

}  // namespace itop
