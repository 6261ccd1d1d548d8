#include "cuda/word_kernels.hpp"

#include <algorithm>
#include <cstring>

#include "cuda/launch.hpp"
#include "cuda/launches.hpp"
#include "cuda/write_kernels.hpp"

namespace itop::cuda {
namespace {

__global__ void __launch_bounds__(kStreamThreads)
    combine_kernel(BitOperation operation, const Word* a, const Word* b, Word* target, std::int64_t num_words) {
  combine_word(operation, a, b, target, num_words);
}

__global__ void __launch_bounds__(kStreamThreads)
    count_kernel(const Word* words, const std::int64_t* word_offsets, const std::int64_t* chunk_offsets, int num_ranges,
                 std::uint64_t* counts) {
  count_range(words, word_offsets, chunk_offsets, num_ranges, counts);
}

__global__ void __launch_bounds__(kStreamThreads)
    unpack_kernel(const Word* words, std::uint8_t* bytes, std::int64_t numel) {
  unpack_bits(words, bytes, numel);
}

__global__ void __launch_bounds__(kStreamThreads)
    pack_kernel(const std::uint8_t* bytes, Word* words, std::int64_t numel) {
  pack_bytes(bytes, words, numel);
}

template <class Words>
__global__ void __launch_bounds__(kStreamThreads)
    write_kernel(const __grid_constant__ Words parcel, std::uint64_t* target, ZeroRange zeros, ZeroRange more_zeros) {
  write(parcel, target, zeros, more_zeros);
}

/// Starts launches until all of `source` is on its way; the first one makes the zeros.
template <class Words>
void launch_parcels(std::uint64_t* target, std::span<const std::byte> source, ZeroRange zeros, ZeroRange more_zeros,
                    cudaStream_t stream) {
  constexpr std::int64_t kMostBlocks = 256;
  constexpr std::size_t capacity = sizeof(Words::words);
  Words parcel;
  do {
    const std::size_t num_bytes = std::min(source.size(), capacity);
    if (num_bytes > 0) std::memcpy(parcel.words, source.data(), num_bytes);
    source = source.subspan(num_bytes);
    parcel.num_words = static_cast<std::int32_t>(num_bytes / sizeof(std::uint64_t));
    const std::int64_t num_zeros = std::max(zeros.num_words, more_zeros.num_words);
    const std::int64_t num_blocks =
        std::max(ceil_div(num_zeros, kStreamThreads * kZeroesPerThread), ceil_div(parcel.num_words, kStreamThreads));
    launch("write", write_kernel<Words>, std::min(num_blocks, kMostBlocks), kStreamThreads, stream, parcel, target,
           zeros, more_zeros);
    target += parcel.num_words;
    zeros = more_zeros = {};
  } while (!source.empty());
}

}  // namespace

void launch_write(void* target, std::span<const std::byte> source, const ZeroRange& zeros, const ZeroRange& more_zeros,
                  cudaStream_t stream) {
  auto* const words = static_cast<std::uint64_t*>(target);
  if (source.size() <= sizeof(SmallParcel::words)) {
    launch_parcels<SmallParcel>(words, source, zeros, more_zeros, stream);
  } else {
    launch_parcels<LargeParcel>(words, source, zeros, more_zeros, stream);
  }
}

void launch_combine(BitOperation operation, const Word* a, const Word* b, Word* target, std::int64_t num_words,
                    cudaStream_t stream) {
  launch("combine", combine_kernel, ceil_div(num_words, kStreamThreads), kStreamThreads, stream, operation, a, b,
         target, num_words);
}

void launch_count(const Word* words, const std::int64_t* word_offsets, const std::int64_t* chunk_offsets,
                  std::int64_t num_chunks, int num_ranges, std::uint64_t* counts, cudaStream_t stream) {
  launch("count", count_kernel, num_chunks, kStreamThreads, stream, words, word_offsets, chunk_offsets, num_ranges,
         counts);
}

void launch_unpack(const Word* words, std::uint8_t* bytes, std::int64_t numel, cudaStream_t stream) {
  launch("unpack", unpack_kernel, ceil_div(numel, kBytesPerThread * kStreamThreads), kStreamThreads, stream, words,
         bytes, numel);
}

void launch_pack(const std::uint8_t* bytes, Word* words, std::int64_t numel, cudaStream_t stream) {
  launch("pack", pack_kernel, ceil_div(numel, kBytesPerThread * kStreamThreads), kStreamThreads, stream, bytes, words,
         numel);
}

}  // namespace itop::cuda
