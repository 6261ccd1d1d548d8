#include "cuda/word_kernels.hpp"

#include "cuda/launch.hpp"
#include "cuda/launches.hpp"

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
  unpack_bit(words, bytes, numel);
}

__global__ void __launch_bounds__(kStreamThreads)
    pack_kernel(const std::uint8_t* bytes, Word* words, std::int64_t numel) {
  pack_word(bytes, words, numel);
}

}  // namespace

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
  launch("unpack", unpack_kernel, ceil_div(numel, kStreamThreads), kStreamThreads, stream, words, bytes, numel);
}

void launch_pack(const std::uint8_t* bytes, Word* words, std::int64_t numel, cudaStream_t stream) {
  launch("pack", pack_kernel, ceil_div(words_for(numel) * kWarpSize, kStreamThreads), kStreamThreads, stream, bytes,
         words, numel);
}

}  // namespace itop::cuda
