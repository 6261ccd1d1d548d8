#include "cpu/cpu_backend.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "cpu/kernels.hpp"
#include "cpu/selection.hpp"
#include "itop/scratch_memory.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

/// 131,072 weights: whatever the layers' sizes, threads share the work evenly, and a chunk's words fit the first-level
/// cache.
constexpr std::int64_t kChunkWords = 2048;

class HostWords final : public WordBuffer {
 public:
  HostWords(std::int64_t num_words, Contents contents)
      : num_words_(num_words), memory_(static_cast<std::size_t>(num_words) * sizeof(Word)) {
    if (contents == Contents::kZero && !memory_.is_zero()) std::fill_n(data(), num_words, Word{0});
  }
  Word* data() noexcept override { return static_cast<Word*>(memory_.data()); }
  std::int64_t size() const noexcept override { return num_words_; }

 private:
  std::int64_t num_words_;
  ScratchMemory memory_;
};

struct LayerChunk {
  std::size_t layer;
  cpu::WordRange range;
};

template <class Layers>
std::vector<LayerChunk> chunks_of(const Layers& layers) {
  std::vector<LayerChunk> chunks;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    const std::int64_t words = words_for(layers[layer].numel);
    for (std::int64_t begin = 0; begin < words; begin += kChunkWords) {
      chunks.push_back({layer, {begin, std::min(begin + kChunkWords, words), layers[layer].numel}});
    }
  }
  return chunks;
}

/// Runs `body(i)` for every chunk. Small ones go together, so that a thread is not woken for less than a chunk's worth.
template <class Body>
void for_chunks(const std::vector<LayerChunk>& chunks, Body&& body) {
  std::vector<std::size_t> first_of_task{0};
  std::int64_t num_words = 0;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    num_words += chunks[i].range.end_word - chunks[i].range.begin_word;
    if (num_words < kChunkWords && i + 1 < chunks.size()) continue;
    first_of_task.push_back(i + 1);
    num_words = 0;
  }
  ThreadPool::global().parallel_for(static_cast<std::int64_t>(first_of_task.size()) - 1, [&](std::int64_t task) {
    const auto t = static_cast<std::size_t>(task);
    for (std::size_t i = first_of_task[t]; i < first_of_task[t + 1]; ++i) body(i);
  });
}

/// Runs `body(first, last)` over pieces of [0, num_words).
template <class Body>
void for_word_pieces(std::int64_t num_words, Body&& body) {
  constexpr std::int64_t piece = 16 * kChunkWords;
  ThreadPool::global().parallel_for((num_words + piece - 1) / piece,
                                    [&](std::int64_t i) { body(i * piece, std::min((i + 1) * piece, num_words)); });
}

template <class Operation>
void combine_with(const Word* a, const Word* b, Word* target, std::int64_t num_words, Operation operation) {
  for_word_pieces(num_words, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t word = first; word < last; ++word) target[word] = operation(a[word], b[word]);
  });
}

constexpr int kBytesPerWord = 8;

/// Eight bits to eight bytes of 0 or 1, the lowest bit first in memory.
std::uint64_t bytes_of_bits(std::uint64_t bits) {
  static_assert(std::endian::native == std::endian::little);
  constexpr std::uint64_t kOneBitEach = 0x8040201008040201ULL;
  const std::uint64_t selected = (bits * 0x0101010101010101ULL) & kOneBitEach;
  return ((selected + 0x7F7F7F7F7F7F7F7FULL) >> 7) & 0x0101010101010101ULL;
}

/// One bit for each of eight bytes that is not zero.
Word bits_of_bytes(std::uint64_t bytes) {
  constexpr std::uint64_t kLow = 0x7F7F7F7F7F7F7F7FULL;
  const std::uint64_t ones = ((((bytes & kLow) + kLow) | bytes) >> 7) & 0x0101010101010101ULL;
  return (ones * 0x0102040810204080ULL) >> 56;
}

LayerCounts commit_chunk(const LayerCommit& layer, const cpu::WordRange& range, const CommitOptions& options) {
  std::array<Word, kChunkWords> zeros;
  LayerCounts counts;
  cpu::kernels().commit_bits(layer, options, range, zeros.data(), counts);
  for (const TensorView& tensor : layer.tensors) {
    cpu::kernels().zero_where(tensor.data, size_of(tensor.dtype), zeros.data(), range);
  }
  return counts;
}

void apply_chunk(const LayerApply& layer, const cpu::WordRange& range) {
  std::array<Word, kChunkWords> zeros;
  for (std::int64_t word = range.begin_word; word < range.end_word; ++word) {
    zeros[static_cast<std::size_t>(word - range.begin_word)] = ~layer.active[word] & valid_bits(word, range.numel);
  }
  for (const TensorView& tensor : layer.tensors) {
    cpu::kernels().zero_where(tensor.data, size_of(tensor.dtype), zeros.data(), range);
  }
}

LayerCounts& operator+=(LayerCounts& sum, const LayerCounts& other) {
  sum.active += other.active;
  sum.explored += other.explored;
  sum.reliable += other.reliable;
  sum.dropped += other.dropped;
  sum.grown += other.grown;
  sum.regrown += other.regrown;
  return sum;
}

}  // namespace

std::unique_ptr<WordBuffer> CpuBackend::allocate(std::int64_t num_words, Contents contents, StreamHandle) {
  return std::make_unique<HostWords>(num_words, contents);
}

void CpuBackend::copy_to_host(const Word* source, std::span<Word> target, StreamHandle) {
  std::copy_n(source, target.size(), target.begin());
}

void CpuBackend::copy_from_host(std::span<const Word> source, Word* target, StreamHandle) {
  std::copy(source.begin(), source.end(), target);
}

void CpuBackend::complement(std::span<const LayerComplement> layers, StreamHandle) {
  const std::vector<LayerChunk> chunks = chunks_of(layers);
  for_chunks(chunks, [&](std::size_t i) {
    const auto& [layer, range] = chunks[i];
    const auto [of, target, numel] = layers[layer];
    if (of == nullptr) {
      std::fill(target + range.begin_word, target + range.end_word, ~Word{0});
    } else {
      for (std::int64_t word = range.begin_word; word < range.end_word; ++word) target[word] = ~of[word];
    }
    target[range.end_word - 1] &= valid_bits(range.end_word - 1, numel);
  });
}

void CpuBackend::combine(BitOperation operation, const Word* a, const Word* b, Word* target, std::int64_t num_words,
                         StreamHandle) {
  switch (operation) {
    case BitOperation::kAnd:
      return combine_with(a, b, target, num_words, [](Word x, Word y) { return x & y; });
    case BitOperation::kOr:
      return combine_with(a, b, target, num_words, [](Word x, Word y) { return x | y; });
    case BitOperation::kAndNot:
      return combine_with(a, b, target, num_words, [](Word x, Word y) { return x & ~y; });
    case BitOperation::kXor:
      return combine_with(a, b, target, num_words, [](Word x, Word y) { return x ^ y; });
  }
}

std::vector<std::int64_t> CpuBackend::count(const Word* words, std::span<const std::int64_t> offsets, StreamHandle) {
  if (offsets.empty()) return {};
  std::vector<std::int64_t> counts(offsets.size() - 1, 0);
  ThreadPool::global().parallel_for(static_cast<std::int64_t>(counts.size()), [&](std::int64_t i) {
    const auto range = static_cast<std::size_t>(i);
    counts[range] = cpu::kernels().count(words + offsets[range], offsets[range + 1] - offsets[range]);
  });
  return counts;
}

void CpuBackend::unpack(const Word* words, std::uint8_t* bytes, std::int64_t numel, StreamHandle) {
  for_word_pieces(words_for(numel), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t word = first; word < last; ++word) {
      std::uint64_t spread[kBytesPerWord];
      for (int i = 0; i < kBytesPerWord; ++i) spread[i] = bytes_of_bits((words[word] >> (8 * i)) & 0xFF);
      const std::int64_t base = word * kWordBits;
      std::memcpy(bytes + base, spread, static_cast<std::size_t>(std::min(kWordBits, numel - base)));
    }
  });
}

void CpuBackend::pack(const std::uint8_t* bytes, Word* words, std::int64_t numel, StreamHandle) {
  for_word_pieces(words_for(numel), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t word = first; word < last; ++word) {
      std::uint64_t spread[kBytesPerWord] = {};
      const std::int64_t base = word * kWordBits;
      std::memcpy(spread, bytes + base, static_cast<std::size_t>(std::min(kWordBits, numel - base)));
      Word packed = 0;
      for (int i = 0; i < kBytesPerWord; ++i) packed |= bits_of_bytes(spread[i]) << (8 * i);
      words[word] = packed;
    }
  });
}

std::shared_ptr<SelectionVerdict> CpuBackend::select(std::span<const Selection> selections, Reduction& reduction,
                                                     StreamHandle) {
  cpu::select(selections, reduction, ThreadPool::global());
  return nullptr;
}

std::vector<LayerCounts> CpuBackend::commit(std::span<const LayerCommit> layers, const CommitOptions& options,
                                            std::span<const std::shared_ptr<SelectionVerdict>>, StreamHandle) {
  const std::vector<LayerChunk> chunks = chunks_of(layers);
  std::vector<LayerCounts> of_chunk(chunks.size());
  for_chunks(chunks,
             [&](std::size_t i) { of_chunk[i] = commit_chunk(layers[chunks[i].layer], chunks[i].range, options); });
  std::vector<LayerCounts> counts(layers.size());
  for (std::size_t i = 0; i < chunks.size(); ++i) counts[chunks[i].layer] += of_chunk[i];
  return counts;
}

void CpuBackend::apply(std::span<const LayerApply> layers, StreamHandle) {
  const std::vector<LayerChunk> chunks = chunks_of(layers);
  for_chunks(chunks, [&](std::size_t i) { apply_chunk(layers[chunks[i].layer], chunks[i].range); });
}

}  // namespace itop
