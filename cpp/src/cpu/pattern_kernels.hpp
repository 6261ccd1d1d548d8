#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "itop/bitset.hpp"
#include "itop/ordered_key.hpp"

namespace itop::cpu {

/// The weights [first, first + length) of a layer, of which the k best candidates are wanted.
struct BestOf {
  const float* scores = nullptr;  ///< of the layer
  const Word* candidates = nullptr;
  std::int64_t first = 0;
  std::int64_t length = 0;
  std::int64_t k = 0;
  SelectionOrder order = SelectionOrder::kLargest;
};

/// What a thread keeps between groups of one layer.
struct BestScratch {
  std::vector<std::uint64_t> entries;
  /// Only keys below are listed at first: what would have done for the groups before. The result does not depend on it.
  std::int32_t limit = std::numeric_limits<std::int32_t>::max();
};

/// Loops over scores in groups and bits of comparisons, one table per instruction set.
struct PatternKernels {
  /// chosen gains the k best. False where scores were not finite.
  bool (*best_by_magnitude)(const BestOf&, BestScratch& scratch, Word* chosen);
  bool (*best_by_value)(const BestOf&, BestScratch& scratch, Word* chosen);
  /// bits[0] is the word `begin_word`.
  void (*compare_magnitudes)(const float* values, std::int64_t numel, std::int64_t begin_word, std::int64_t end_word,
                             bool greater, float limit, Word* bits);
  void (*compare_values)(const float* values, std::int64_t numel, std::int64_t begin_word, std::int64_t end_word,
                         bool greater, float limit, Word* bits);
};

extern const PatternKernels kPortablePatternKernels;
extern const PatternKernels kAvx2PatternKernels;
extern const PatternKernels kAvx512PatternKernels;

/// The bits [first, first + length) of a set, length at most 64, at the low end of a word.
inline Word bits_at(const Word* words, std::int64_t first, std::int64_t length) {
  const std::int64_t word = first / kWordBits;
  const std::int64_t shift = first % kWordBits;
  Word bits = words[word] >> shift;
  if (shift + length > kWordBits) bits |= words[word + 1] << (kWordBits - shift);
  return bits & valid_bits(0, length);
}

}  // namespace itop::cpu
