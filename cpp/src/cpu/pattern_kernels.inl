// The loops of patterns, compiled once per instruction set: ITOP_PATTERN_KERNELS names the table, ITOP_LANES the
// namespace of the few operations that differ.

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "cpu/pattern_kernels.hpp"

namespace itop::cpu {
namespace {

using namespace ITOP_LANES;

constexpr std::int32_t kNoLimit = std::numeric_limits<std::int32_t>::max();

/// Orders like the key, then like the index; smaller is better.
std::uint64_t entry_of(std::int32_t key, std::int64_t index) {
  return (std::uint64_t{static_cast<std::uint32_t>(key) ^ 0x80000000u} << 32) | static_cast<std::uint64_t>(index);
}
std::int32_t key_of(std::uint64_t entry) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(entry >> 32) ^ 0x80000000u);
}

void set_bit(Word* words, std::int64_t bit) { words[bit / kWordBits] |= Word{1} << (bit % kWordBits); }

/// Keeps the k smallest entries, in any order.
void keep_best(std::vector<std::uint64_t>& entries, std::int64_t k) {
  if (static_cast<std::int64_t>(entries.size()) <= k) return;
  std::nth_element(entries.begin(), entries.begin() + k - 1, entries.end());
  entries.resize(static_cast<std::size_t>(k));
}

/// Of at most 64 weights: their keys fit the first-level cache.
template <ScoreTransform kTransform>
bool best_of_few(const BestOf& group, Word* chosen) {
  const auto* scores = reinterpret_cast<const std::uint32_t*>(group.scores) + group.first;
  std::uint64_t entries[kWordBits];
  std::int64_t count = 0;
  std::uint64_t best = std::numeric_limits<std::uint64_t>::max();
  bool all_finite = true;
  for (Word left = bits_at(group.candidates, group.first, group.length); left != 0; left &= left - 1) {
    const int i = std::countr_zero(left);
    all_finite &= OrderedKey32::is_finite(scores[i]);
    entries[count] = entry_of(OrderedKey32::from_bits(scores[i], kTransform, group.order), i);
    best = std::min(best, entries[count++]);
  }
  const std::int64_t wanted = std::min(group.k, count);
  for (std::int64_t turn = 1; turn <= wanted; ++turn) {
    set_bit(chosen, group.first + static_cast<std::int64_t>(best & 0xFFFFFFFFu));
    if (turn == wanted) break;
    // The next one is the smallest of those that are larger.
    std::uint64_t next = std::numeric_limits<std::uint64_t>::max();
    for (std::int64_t i = 0; i < count; ++i) next = entries[i] > best ? std::min(next, entries[i]) : next;
    best = next;
  }
  return all_finite;
}

/// Lists the candidates whose keys are below a limit.
template <ScoreTransform kTransform>
bool list_below(const BestOf& group, std::int32_t limit, std::vector<std::uint64_t>& entries) {
  const auto* scores = reinterpret_cast<const std::uint32_t*>(group.scores) + group.first;
  std::uint32_t tail[kWordBits] = {};
  entries.clear();
  KeyBracket<kTransform> bracket(group.order == SelectionOrder::kLargest ? -1 : 0, limit, kNoLimit);
  for (std::int64_t begin = 0; begin < group.length; begin += kWordBits) {
    const std::int64_t length = std::min(kWordBits, group.length - begin);
    const Word candidates = bits_at(group.candidates, group.first + begin, length);
    if (candidates == 0) continue;
    const std::uint32_t* bits = scores + begin;
    if (length < kWordBits) {
      std::memcpy(tail, bits, static_cast<std::size_t>(length) * sizeof(*bits));
      bits = tail;
    }
    Word below = 0;
    Word above = 0;
    bracket.compare(bits, below, above);
    for (Word left = below & candidates; left != 0; left &= left - 1) {
      const int i = std::countr_zero(left);
      entries.push_back(entry_of(OrderedKey32::from_bits(bits[i], kTransform, group.order), begin + i));
    }
  }
  return bracket.all_finite();
}

template <ScoreTransform kTransform>
bool best_of(const BestOf& group, BestScratch& scratch, Word* chosen) {
  if (group.k <= 0 || group.length == 0) return true;
  if (group.length <= kWordBits) return best_of_few<kTransform>(group, chosen);
  std::vector<std::uint64_t>& entries = scratch.entries;
  const auto k = static_cast<std::size_t>(group.k);
  bool all_finite = list_below<kTransform>(group, scratch.limit, entries);
  if (entries.size() < k && scratch.limit != kNoLimit) {
    scratch.limit = kNoLimit;
    all_finite &= list_below<kTransform>(group, kNoLimit, entries);
  }
  // Groups of a layer are alike: some more than the k best of this one will hold those of the next.
  const std::size_t enough = 2 * k + 16;
  if (entries.size() > enough + enough / 2) {
    keep_best(entries, static_cast<std::int64_t>(enough));
    scratch.limit = key_of(entries[enough - 1]);
  }
  keep_best(entries, group.k);
  for (const std::uint64_t entry : entries) {
    set_bit(chosen, group.first + static_cast<std::int64_t>(entry & 0xFFFFFFFFu));
  }
  return all_finite;
}

template <ScoreTransform kTransform>
void compare(const float* values, std::int64_t numel, std::int64_t begin_word, std::int64_t end_word, bool greater,
             float limit, Word* bits) {
  const std::int32_t key =
      OrderedKey32::from_bits(std::bit_cast<std::uint32_t>(limit), ScoreTransform::kSigned, SelectionOrder::kSmallest);
  KeyBracket<kTransform> bracket(0, key, key);
  std::uint32_t tail[kWordBits] = {};
  for (std::int64_t word = begin_word; word < end_word; ++word) {
    const auto* patterns = reinterpret_cast<const std::uint32_t*>(values) + word * kWordBits;
    const std::int64_t length = std::min(kWordBits, numel - word * kWordBits);
    if (length < kWordBits) {
      std::memcpy(tail, patterns, static_cast<std::size_t>(length) * sizeof(*patterns));
      patterns = tail;
    }
    Word below = 0;
    Word above = 0;
    bracket.compare(patterns, below, above);
    bits[word - begin_word] = (greater ? above : below) & valid_bits(word, numel);
  }
}

}  // namespace

const PatternKernels ITOP_PATTERN_KERNELS = {
    best_of<ScoreTransform::kMagnitude>,
    best_of<ScoreTransform::kSigned>,
    compare<ScoreTransform::kMagnitude>,
    compare<ScoreTransform::kSigned>,
};

}  // namespace itop::cpu
