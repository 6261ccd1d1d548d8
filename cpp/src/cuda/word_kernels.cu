#include "cuda/word_kernels.hpp"

#include "cuda/cuda_check.hpp"
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

unsigned blocks_for(std::int64_t num_threads) { return static_cast<unsigned>(ceil_div(num_threads, kStreamThreads)); }

}  // namespace

void launch_combine(BitOperation operation, const Word* a, const Word* b, Word* target, std::int64_t num_words,
                    cudaStream_t stream) {
  if (num_words == 0) return;
  combine_kernel<<<blocks_for(num_words), kStreamThreads, 0, stream>>>(operation, a, b, target, num_words);
  check_launch("launch of combine");
}

void launch_count(const Word* words, const std::int64_t* word_offsets, const std::int64_t* chunk_offsets,
                  std::int64_t num_chunks, int num_ranges, std::uint64_t* counts, cudaStream_t stream) {
  if (num_chunks == 0) return;
  count_kernel<<<static_cast<unsigned>(num_chunks), kStreamThreads, 0, stream>>>(words, word_offsets, chunk_offsets,
                                                                                 num_ranges, counts);
  check_launch("launch of count");
}

void launch_unpack(const Word* words, std::uint8_t* bytes, std::int64_t numel, cudaStream_t stream) {
  if (numel == 0) return;
  unpack_kernel<<<blocks_for(numel), kStreamThreads, 0, stream>>>(words, bytes, numel);
  check_launch("launch of unpack");
}

void launch_pack(const std::uint8_t* bytes, Word* words, std::int64_t numel, cudaStream_t stream) {
  if (numel == 0) return;
  pack_kernel<<<blocks_for(words_for(numel) * kWarpSize), kStreamThreads, 0, stream>>>(bytes, words, numel);
  check_launch("launch of pack");
}

}  // namespace itop::cuda
