#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "itop/backend.hpp"
#include "itop/bitset.hpp"
#include "itop/index_map.hpp"
#include "itop/ordered_key.hpp"
#include "itop/random.hpp"
#include "itop/scratch_memory.hpp"
#include "itop/tensor_view.hpp"

namespace itop::cpu {

/// A candidate whose key fell inside the bracket, so that only an exact comparison decides.
struct InsideCandidate {
  std::int64_t key = 0;
  std::int64_t position = 0;  ///< in the segment's storage order
};

/// The words [begin_word, end_word) of one segment.
struct WordRange {
  std::int64_t begin_word = 0;
  std::int64_t end_word = 0;
  std::int64_t numel = 0;  ///< of the whole segment
};

/// How scores become keys. `wide` keys are those of float64, for selections in which a float64 tensor takes part.
struct KeyFormat {
  DType dtype = DType::kFloat32;
  ScoreTransform transform = ScoreTransform::kMagnitude;
  SelectionOrder order = SelectionOrder::kLargest;
  bool wide = false;
};

/// chosen <- candidates with key < low (not written if null); those with low <= key <= high are counted, and listed
/// until there are more than `capacity`.
struct ScorePass {
  const void* scores = nullptr;
  KeyFormat format;
  const Word* candidates = nullptr;
  Word* chosen = nullptr;
  std::int64_t low = 0;
  std::int64_t high = 0;
  std::int64_t capacity = 0;
  bool lists_in_order = false;  ///< of positions, which takes longer
};

/// Among the candidates whose key is `key`: chosen gains those with coarse tie key < low; those with low <= coarse <=
/// high are listed with their coarse keys. If scores is null, all candidates are meant, and chosen holds nothing else.
struct TiePass {
  const void* scores = nullptr;
  KeyFormat format;
  const Word* candidates = nullptr;
  Word* chosen = nullptr;
  std::int64_t key = 0;
  std::uint16_t low = 0;
  std::uint16_t high = 0;
  IndexMap index_map;
  KeyStream stream;
};

struct PassResult {
  std::int64_t num_below = 0;
  std::int64_t num_inside = 0;
  bool all_finite = true;
  ScratchArray<InsideCandidate> inside;
};

/// Some of the weights of a word.
struct PartOfWord {
  std::int64_t word = 0;
  Word bits = 0;  ///< of neighbours
};

/// Candidates by the digit `(key >> shift) & (2^digit_bits - 1)`, of those whose higher bits equal `prefix`.
/// Keys are taken as unsigned in their order (sign bit flipped).
struct HistogramPass {
  const void* scores = nullptr;
  KeyFormat format;
  const Word* candidates = nullptr;
  int shift = 0;
  int digit_bits = 0;
  std::uint64_t prefix = 0;
};

inline constexpr int kListedSlack = 4;  ///< elements that a list of bits may write behind its last

/// The loops that run once per weight, one table per instruction set.
struct Kernels {
  void (*score_pass)(const ScorePass&, const WordRange&, PassResult&);
  /// Appends the keys of the candidates at some places, each in order of storage.
  void (*append_keys)(const void* scores, const KeyFormat& format, const Word* candidates,
                      std::span<const PartOfWord> places, ScratchArray<std::int64_t>& keys);
  void (*tie_pass)(const TiePass&, const WordRange&, PassResult&);
  void (*histogram_pass)(const HistogramPass&, const WordRange&, std::int64_t* bins);
  /// The number of set bits.
  std::int64_t (*count)(const Word* words, std::int64_t num_words);
  /// out[i] = first + the place of the i-th set bit. Up to kListedSlack elements behind them are overwritten.
  void (*list_bits)(const Word* words, std::int64_t num_words, std::int64_t first, std::int64_t* out);
  /// The same of at most 2^16 bits, from 0.
  void (*list_offsets)(const Word* words, std::int64_t num_words, std::uint16_t* out);
  /// Changes the bit sets of a layer and counts; `zeros` receives where values become zero, its first word that of the
  /// range.
  void (*commit_bits)(const LayerCommit& layer, const CommitOptions& options, const WordRange& range, Word* zeros,
                      LayerCounts& counts);
  /// Zeroes the elements whose bit is set; where[0] is the word `range.begin_word`.
  void (*zero_where)(void* data, std::size_t element_size, const Word* where, const WordRange& range);
};

extern const Kernels kPortableKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

/// The table for this processor.
const Kernels& kernels();

}  // namespace itop::cpu
