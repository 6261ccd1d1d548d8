#pragma once

#include <cstdint>

#include "cuda/launch_shape.hpp"
#include "cuda/row_lookup.hpp"
#include "cuda/simt.hpp"
#include "itop/backend.hpp"
#include "itop/bitset.hpp"

/// Set operations, counts, and the way between bits and bytes. All blocks have kStreamThreads threads.
namespace itop::cuda {

ITOP_DEVICE std::int64_t global_thread() { return simt::block() * simt::num_threads() + simt::thread(); }

ITOP_DEVICE void combine_word(BitOperation operation, const Word* a, const Word* b, Word* target,
                              std::int64_t num_words) {
  const std::int64_t word = global_thread();
  if (word >= num_words) return;
  switch (operation) {
    case BitOperation::kAnd:
      target[word] = a[word] & b[word];
      break;
    case BitOperation::kOr:
      target[word] = a[word] | b[word];
      break;
    case BitOperation::kAndNot:
      target[word] = a[word] & ~b[word];
      break;
    case BitOperation::kXor:
      target[word] = a[word] ^ b[word];
      break;
  }
}

/// Counts the bits of each range of words; `chunk_offsets` cut the ranges into chunks, a block each.
ITOP_DEVICE void count_range(const Word* words, const std::int64_t* word_offsets, const std::int64_t* chunk_offsets,
                             int num_ranges, std::uint64_t* counts) {
  const int row = row_of(chunk_offsets, num_ranges, simt::block());
  const std::int64_t word = word_offsets[row] + (simt::block() - chunk_offsets[row]) * kChunkWords + simt::thread();
  std::uint64_t count = 0;
  if (word < word_offsets[row + 1]) count = static_cast<std::uint64_t>(simt::popcount(words[word]));
  simt::add_warp_sum(&counts[row], count);
}

ITOP_DEVICE void unpack_bit(const Word* words, std::uint8_t* bytes, std::int64_t numel) {
  const std::int64_t i = global_thread();
  if (i < numel) bytes[i] = test_bit(words, i) ? 1 : 0;
}

/// A warp packs one word from two ballots.
ITOP_DEVICE void pack_word(const std::uint8_t* bytes, Word* words, std::int64_t numel) {
  const std::int64_t word = global_thread() / kWarpSize;
  if (word >= words_for(numel)) return;
  const std::int64_t first = word * kWordBits + simt::lane();
  const std::int64_t second = first + kWarpSize;
  const std::uint32_t low = simt::ballot(first < numel && bytes[first] != 0);
  const std::uint32_t high = simt::ballot(second < numel && bytes[second] != 0);
  if (simt::lane() == 0) words[word] = Word{low} | (Word{high} << kWarpSize);
}

}  // namespace itop::cuda
