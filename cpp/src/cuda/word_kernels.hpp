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

/// Bytes that one thread packs or unpacks: a load or store of 16 where the bytes lie at a 16-byte address.
inline constexpr std::int64_t kBytesPerThread = sizeof(simt::Vector);

/// Four bits as four bytes of 0 or 1, the lowest first; and back, from bytes that are 0 or not.
ITOP_HOST_DEVICE std::uint32_t bytes_of(std::uint32_t bits) { return (bits * 0x00204081u) & 0x01010101u; }
ITOP_HOST_DEVICE std::uint32_t bits_of(std::uint32_t bytes) {
  const std::uint32_t not_zero = (bytes | ((bytes & 0x7F7F7F7Fu) + 0x7F7F7F7Fu)) & 0x80808080u;
  return ((not_zero >> 7) * 0x10204080u) >> 28;
}

ITOP_DEVICE void unpack_bits(const Word* words, std::uint8_t* bytes, std::int64_t numel) {
  const std::int64_t first = global_thread() * kBytesPerThread;
  if (first >= numel) return;
  const auto bits = static_cast<std::uint32_t>(words[first / kWordBits] >> (first % kWordBits));
  if (first + kBytesPerThread <= numel && simt::is_vector_address(bytes)) {
    simt::Vector vector;
    ITOP_UNROLL
    for (int i = 0; i < 4; ++i) vector.word[i] = bytes_of((bits >> (4 * i)) & 0xFu);
    simt::store_vector(bytes + first, vector);
    return;
  }
  for (std::int64_t i = first; i < numel && i < first + kBytesPerThread; ++i) bytes[i] = (bits >> (i - first)) & 1u;
}

/// Four lanes pack a word.
ITOP_DEVICE void pack_bytes(const std::uint8_t* bytes, Word* words, std::int64_t numel) {
  const std::int64_t first = global_thread() * kBytesPerThread;
  std::uint32_t bits = 0;
  if (first + kBytesPerThread <= numel && simt::is_vector_address(bytes)) {
    const simt::Vector vector = simt::load_vector(bytes + first);
    ITOP_UNROLL
    for (int i = 0; i < 4; ++i) bits |= bits_of(vector.word[i]) << (4 * i);
  } else {
    for (std::int64_t i = first; i < numel && i < first + kBytesPerThread; ++i) {
      bits |= std::uint32_t{bytes[i] != 0} << (i - first);
    }
  }
  constexpr int kLanes = static_cast<int>(kWordBits / kBytesPerThread);
  const int lane = simt::lane();
  Word word = Word{bits} << (lane % kLanes * static_cast<int>(kBytesPerThread));
  for (int distance = 1; distance < kLanes; distance *= 2) word |= simt::shuffle(word, lane ^ distance);
  if (lane % kLanes == 0 && first < numel) words[first / kWordBits] = word;
}

}  // namespace itop::cuda
