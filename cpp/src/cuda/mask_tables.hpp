#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/launch_shape.hpp"
#include "itop/backend.hpp"
#include "itop/bitset.hpp"

/// The tables of topology changes and mask application. They travel as kernel arguments, by value: nothing is
/// allocated, uploaded or waited for, so a launch can be captured in a CUDA graph, which then holds its own copy of the
/// table.
namespace itop::cuda {

/// Neighbouring blocks count in different places, so that their atomic operations do not queue up. The reader adds them
/// up.
inline constexpr int kCountPlaces = 8;
inline constexpr int kCountFields = 6;  ///< as in LayerCounts

/// One layer's topology change.
struct CommitEntry {
  static constexpr int kTensors = 4;  ///< weights and the states of most optimisers; more take another entry

  Word* active = nullptr;
  Word* explored = nullptr;
  Word* reliable = nullptr;
  const Word* dropped = nullptr;
  const Word* grown = nullptr;
  std::int64_t numel = 0;
  std::uint64_t* counts =
      nullptr;  ///< [kCountPlaces][kCountFields]; null: bit sets stay as they are, only tensors are zeroed
  void* data[kTensors] = {};
  std::uint8_t element_size[kTensors] = {};
  std::int32_t num_tensors = 0;
};

/// What keeps a commit from changing anything: flags that selections before it set on the device, whose scores had no
/// order.
struct Refusals {
  static constexpr int kCapacity = 4;

  const std::uint32_t* flags[kCapacity] = {};
  std::int32_t num_flags = 0;
  std::uint64_t* noted = nullptr;  ///< set to 1 where a flag is set
};

/// One tensor to which its layer's mask is applied.
struct ApplyEntry {
  const Word* active = nullptr;
  void* data = nullptr;
  std::int64_t numel = 0;
  std::int32_t element_size = 0;
};

/// Rows for one launch, and where each row's chunks begin. Kernel arguments may take 32,764 bytes.
template <class Entry, int kCapacity>
struct LayerTable {
  Entry rows[kCapacity];
  std::int64_t chunk_offsets[kCapacity + 1];
  std::int32_t num_rows = 0;

  /// Takes rows from the front of `rows` until the table is full; rows without weights are left out.
  std::span<const Entry> take(std::span<const Entry> from) {
    num_rows = 0;
    chunk_offsets[0] = 0;
    std::size_t taken = 0;
    for (; taken < from.size() && num_rows < kCapacity; ++taken) {
      if (from[taken].numel == 0) continue;
      rows[num_rows] = from[taken];
      chunk_offsets[num_rows + 1] = chunk_offsets[num_rows] + chunks_for(from[taken].numel);
      ++num_rows;
    }
    return from.subspan(taken);
  }
  std::int64_t num_chunks() const { return chunk_offsets[num_rows]; }
};

/// Up to 4 KB of arguments, and up to what a launch may have.
using ApplyTable = LayerTable<ApplyEntry, 96>;
using LargeApplyTable = LayerTable<ApplyEntry, 800>;
using CommitTable = LayerTable<CommitEntry, 300>;
using ComplementTable = LayerTable<LayerComplement, 120>;
static_assert(sizeof(ApplyTable) <= 4096);
static_assert(sizeof(LargeApplyTable) <= 32764);
static_assert(sizeof(CommitTable) + sizeof(CommitOptions) + sizeof(Refusals) + 32 <= 32764);
static_assert(sizeof(ComplementTable) <= 4096);

/// A commit as rows. Tensors beyond a row's room come first, in rows that only zero: they need the masks as they were.
struct CommitPlan {
  std::vector<CommitEntry> zero_first;
  std::vector<CommitEntry> rows;
};
CommitPlan commit_plan(std::span<const LayerCommit> layers, std::uint64_t* counts);
std::vector<ApplyEntry> apply_rows(std::span<const LayerApply> layers);

/// The layers' counts from [num_layers][kCountPlaces][kCountFields].
std::vector<LayerCounts> layer_counts(std::span<const std::uint64_t> counts);

}  // namespace itop::cuda
