#pragma once

#include <cstdint>

#include "cuda/launch_shape.hpp"
#include "cuda/mask_tables.hpp"
#include "cuda/row_lookup.hpp"
#include "cuda/simt.hpp"
#include "itop/bitset.hpp"

/// The kernels of topology changes and mask application.
namespace itop::cuda {

/// Zeroes the weights of this lane's word whose bit is set, for the whole warp: each word in turn, 32 neighbours at a
/// time.
template <class Element>
ITOP_DEVICE void zero_tile(Element* data, std::int64_t first_word, Word zeros) {
  for (int owner = 0; owner < kWarpSize; ++owner) {
    const Word word = simt::shuffle(zeros, owner);
    if (word == 0) continue;
    Element* first = data + (first_word + owner) * kWordBits;
    const int lane = simt::lane();
    if ((word >> lane) & 1u) first[lane] = Element{0};
    if ((word >> (lane + kWarpSize)) & 1u) first[lane + kWarpSize] = Element{0};
  }
}

ITOP_DEVICE void zero_tile_of(void* data, int element_size, std::int64_t first_word, Word zeros) {
  switch (element_size) {
    case 2:
      return zero_tile(static_cast<std::uint16_t*>(data), first_word, zeros);
    case 4:
      return zero_tile(static_cast<std::uint32_t*>(data), first_word, zeros);
    default:
      return zero_tile(static_cast<std::uint64_t*>(data), first_word, zeros);
  }
}

/// What a topology change does to one word of a layer.
struct WordChange {
  Word after = 0;
  Word kept = 0;
  Word zeros = 0;  ///< weights whose value and state become zero
};

ITOP_HOST_DEVICE WordChange change_of(Word before, Word dropped, Word grown, Word valid, const CommitOptions& options) {
  WordChange change;
  change.kept = before & ~dropped;
  change.after = change.kept | grown;
  const Word with_values = options.regrown_keeps_value ? change.kept | (dropped & grown) : change.kept;
  change.zeros = (options.zero_all_inactive ? valid : dropped) & ~with_values;
  return change;
}

/// Whether a selection behind the commit was refused; notes it for the host.
ITOP_DEVICE bool is_refused(const Refusals& refusals) {
  std::uint32_t refused = 0;
  for (int i = 0; i < refusals.num_flags; ++i) refused |= *refusals.flags[i];
  if (refused != 0 && simt::block() == 0 && simt::thread() == 0) *refusals.noted = 1;
  return refused != 0;
}

/// A block a chunk, kStreamThreads threads, a word a lane.
template <class Table>
ITOP_DEVICE void commit_chunk(const Table& table, const CommitOptions& options, const Refusals& refusals) {
  if (is_refused(refusals)) return;
  const int row = row_of(table.chunk_offsets, table.num_rows, simt::block());
  const CommitEntry& layer = table.rows[row];
  const std::int64_t first_word = (simt::block() - table.chunk_offsets[row]) * kChunkWords + simt::warp() * kTileWords;
  const std::int64_t num_words = words_for(layer.numel);
  if (first_word >= num_words) return;
  const std::int64_t word = first_word + simt::lane();
  const bool has_word = word < num_words;
  const Word dropped = has_word ? layer.dropped[word] : Word{0};
  const Word grown = has_word ? layer.grown[word] : Word{0};
  WordChange change;
  if (has_word) change = change_of(layer.active[word], dropped, grown, valid_bits(word, layer.numel), options);
  if (layer.counts != nullptr) {
    Word explored = 0;
    Word reliable = 0;
    if (has_word) {
      explored = layer.explored[word] | change.after;
      reliable = layer.reliable[word] | (options.marks_reliable ? change.kept : Word{0});
      layer.active[word] = change.after;
      layer.explored[word] = explored;
      layer.reliable[word] = reliable;
    }
    const Word sets[kCountFields] = {change.after, explored, reliable, dropped, grown, dropped & grown};
    std::uint64_t* counts = layer.counts + simt::block() % kCountPlaces * kCountFields;
    ITOP_UNROLL
    for (int field = 0; field < kCountFields; ++field) {
      simt::add_warp_sum(counts + field, static_cast<std::uint64_t>(simt::popcount(sets[field])));
    }
  }
  for (int tensor = 0; tensor < layer.num_tensors; ++tensor) {
    zero_tile_of(layer.data[tensor], layer.element_size[tensor], first_word, change.zeros);
  }
}

/// A block a chunk, kStreamThreads threads, a word a lane.
template <class Table>
ITOP_DEVICE void apply_chunk(const Table& table) {
  const int row = row_of(table.chunk_offsets, table.num_rows, simt::block());
  const ApplyEntry& tensor = table.rows[row];
  const std::int64_t first_word = (simt::block() - table.chunk_offsets[row]) * kChunkWords + simt::warp() * kTileWords;
  const std::int64_t num_words = words_for(tensor.numel);
  if (first_word >= num_words) return;
  const std::int64_t word = first_word + simt::lane();
  const Word zeros = word < num_words ? ~tensor.active[word] & valid_bits(word, tensor.numel) : Word{0};
  zero_tile_of(tensor.data, tensor.element_size, first_word, zeros);
}

/// A block a chunk, kStreamThreads threads, a word a lane: the weights of the layers that are not in a set.
template <class Table>
ITOP_DEVICE void complement_chunk(const Table& table) {
  const int row = row_of(table.chunk_offsets, table.num_rows, simt::block());
  const LayerComplement& layer = table.rows[row];
  const std::int64_t word = (simt::block() - table.chunk_offsets[row]) * kChunkWords + simt::thread();
  if (word >= words_for(layer.numel)) return;
  const Word in_set = layer.of == nullptr ? Word{0} : layer.of[word];
  layer.target[word] = valid_bits(word, layer.numel) & ~in_set;
}

}  // namespace itop::cuda
