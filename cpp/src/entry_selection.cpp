#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/order_statistics.hpp"
#include "itop/error.hpp"
#include "itop/sparse_growth.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kWordsPerChunk = 256;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t ordered_key(const void* values, const cpu::KeyFormat& format, std::int64_t index) {
  const auto narrow = [&](std::uint32_t bits) {
    return std::int64_t{OrderedKey32::from_bits(bits, format.transform, format.order)};
  };
  switch (format.dtype) {
    case DType::kFloat32:
      return narrow(static_cast<const std::uint32_t*>(values)[index]);
    case DType::kBFloat16:
      return narrow(float32_bits_of_bfloat16(static_cast<const std::uint16_t*>(values)[index]));
    case DType::kFloat16:
      return narrow(float32_bits_of_float16(static_cast<const std::uint16_t*>(values)[index]));
    case DType::kFloat64:
      return OrderedKey64::from_bits(static_cast<const std::uint64_t*>(values)[index], format.transform, format.order);
  }
  return 0;
}

/// The order statistics of these values at two ranks (from 1); every value lies in [lowest, highest].
std::pair<std::int64_t, std::int64_t> at_ranks(ScratchArray<std::int64_t>& values, std::int64_t first,
                                               std::int64_t second, ThreadPool& pool) {
  constexpr auto kLowest = std::numeric_limits<std::int64_t>::min();
  constexpr auto kHighest = std::numeric_limits<std::int64_t>::max();
  std::array<cpu::OrderStatisticQuery, 2> queries{{{&values, first, kLowest, kHighest, 0},  //
                                                   {&values, second, kLowest, kHighest, 0}}};
  LocalReduction alone;
  cpu::answer(queries, alone, pool);
  return {queries[0].result, queries[1].result};
}

/// Keys between which the k-th smallest key nearly surely lies, from an evenly spaced sample. A larger one leaves fewer
/// entries inside the bracket: both cost least where it grows as the two-thirds power of the entries.
std::pair<std::int64_t, std::int64_t> sampled_bracket(const void* values, const cpu::KeyFormat& format,
                                                      std::int64_t count, std::int64_t k, ThreadPool& pool) {
  constexpr double kMinSample = 256;
  constexpr double kDeviations = 5;
  constexpr auto kNone = std::numeric_limits<std::int64_t>::min();
  constexpr auto kAll = std::numeric_limits<std::int64_t>::max();
  const double share = static_cast<double>(k) / static_cast<double>(count);
  const double deviation = std::sqrt(share * (1 - share));
  const double root = std::cbrt(kDeviations * static_cast<double>(count) * deviation);
  const auto size = std::min(count, static_cast<std::int64_t>(std::max(kMinSample, root * root)));
  ScratchArray<std::int64_t> sample;
  sample.resize(static_cast<std::size_t>(size));
  constexpr std::int64_t kSampledPerChunk = 2048;
  pool.parallel_for(divide_up(size, kSampledPerChunk), [&](std::int64_t chunk) {
    const std::int64_t last = std::min(size, (chunk + 1) * kSampledPerChunk);
    for (std::int64_t i = chunk * kSampledPerChunk; i < last; ++i) {
      sample[static_cast<std::size_t>(i)] = ordered_key(values, format, count * i / size);
    }
  });
  const double spread =
      kDeviations * deviation / std::sqrt(static_cast<double>(size)) + 2.0 / static_cast<double>(size);
  const auto rank = [&](double at) { return static_cast<std::int64_t>(std::floor(at * static_cast<double>(size))); };
  const std::int64_t low = rank(share - spread) + 1;
  const std::int64_t high = rank(share + spread) + 2;
  const auto [low_key, high_key] = at_ranks(sample, std::max<std::int64_t>(low, 1), std::min(high, size), pool);
  return {low < 1 ? kNone : low_key, high > size ? kAll : high_key};
}

/// is_chosen[i] = bit i, 0 or 1.
void spread_bits(const Word* words, std::int64_t num_bits, std::uint8_t* is_chosen) {
  // Seven bits times this factor: bit i of copy i, which is shifted by 7 i, begins byte i. The eighth has its own way.
  constexpr std::uint64_t kCopies = 0x0002040810204081U;
  constexpr std::uint64_t kOnes = 0x0101010101010101U;
  std::int64_t bit = 0;
  for (; bit + 8 <= num_bits; bit += 8) {
    const std::uint64_t eight = (words[bit / kWordBits] >> (bit % kWordBits)) & 0xFFU;
    const std::uint64_t low = ((eight & 0x7FU) * kCopies) & kOnes;
    const std::uint64_t bytes = low | ((eight >> 7) << 56);
    std::memcpy(is_chosen + bit, &bytes, sizeof(bytes));
  }
  for (; bit < num_bits; ++bit) is_chosen[bit] = test_bit(words, bit) ? 1 : 0;
}

/// Of entries beside a bracket of keys: how many lie below, and those inside by chunk of entries.
struct BelowAndInside {
  std::int64_t num_below = 0;
  std::vector<std::int64_t> first_inside;  ///< [chunks + 1]
  std::vector<cpu::PassResult> chunks;     ///< positions from the chunk's first entry

  std::int64_t num_inside() const { return first_inside.back(); }
};

constexpr std::int64_t kEntriesPerChunk = kWordsPerChunk * kWordBits;

/// Marks entries with a key below `low` as chosen, and lists those from `low` to `high`.
BelowAndInside choose_below(const void* values, const cpu::KeyFormat& format, std::int64_t count, std::int64_t low,
                            std::int64_t high, std::uint8_t* is_chosen, ThreadPool& pool) {
  const std::int64_t num_chunks = divide_up(count, kEntriesPerChunk);
  BelowAndInside found;
  found.chunks.resize(static_cast<std::size_t>(num_chunks));
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    const std::int64_t first = chunk * kEntriesPerChunk;
    const std::int64_t num_bits = std::min(kEntriesPerChunk, count - first);
    const std::int64_t num_words = words_for(num_bits);
    Word candidates[kWordsPerChunk];
    Word chosen[kWordsPerChunk];
    std::fill_n(candidates, num_words, ~Word{0});
    candidates[num_words - 1] = valid_bits(num_words - 1, num_bits);
    cpu::ScorePass pass;
    pass.scores = static_cast<const std::byte*>(values) + first * static_cast<std::int64_t>(size_of(format.dtype));
    pass.format = format;
    pass.candidates = candidates;
    pass.chosen = chosen;
    pass.low = low;
    pass.high = high;
    pass.capacity = num_bits;
    cpu::kernels().score_pass(pass, {0, num_words, num_bits}, found.chunks[static_cast<std::size_t>(chunk)]);
    spread_bits(chosen, num_bits, is_chosen + first);
  });
  found.first_inside.push_back(0);
  for (const cpu::PassResult& result : found.chunks) {
    if (!result.all_finite) throw NonFiniteError("", "the scores of active weights hold NaN or infinity");
    found.num_below += result.num_below;
    found.first_inside.push_back(found.first_inside.back() + result.num_inside);
  }
  return found;
}

/// An entry whose key is that of the last one chosen.
struct Tied {
  std::uint64_t key;
  std::int64_t position;
  std::int64_t entry;
};

Tied tied_entry(const PositionList& pattern, const KeyStream& stream, std::int64_t entry) {
  const std::int64_t row = std::upper_bound(pattern.row_pointers, pattern.row_pointers + pattern.num_rows + 1, entry) -
                           pattern.row_pointers - 1;
  const std::int64_t position = row * pattern.num_columns + pattern.columns[entry];
  return {tie_key(stream, static_cast<std::uint64_t>(position)), position, entry};
}

}  // namespace

void select_entries(const PositionList& pattern, const EntryScores& scores, std::int64_t k, const KeyStream& stream,
                    std::uint8_t* is_chosen, ThreadPool& pool) {
  const std::int64_t count = pattern.count();
  if (k < 0 || k > count) {
    throw std::invalid_argument("k must be between 0 and the " + std::to_string(count) + " entries, got " +
                                std::to_string(k));
  }
  if (count == 0) return;
  const cpu::KeyFormat format{scores.type, scores.transform, scores.order, scores.type == DType::kFloat64};
  const auto [low, high] = sampled_bracket(scores.values, format, count, k, pool);
  BelowAndInside found = choose_below(scores.values, format, count, low, high, is_chosen, pool);
  if (found.num_below > k || found.num_below + found.num_inside() < k) {  // the sample misled: all are candidates
    found = choose_below(scores.values, format, count, std::numeric_limits<std::int64_t>::min(),
                         std::numeric_limits<std::int64_t>::max(), is_chosen, pool);
  }
  const std::int64_t wanted = k - found.num_below;
  if (wanted == 0) return;
  const std::int64_t num_chunks = std::ssize(found.chunks);
  ScratchArray<std::int64_t> keys;
  keys.resize(static_cast<std::size_t>(found.num_inside()));
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    const auto& inside = found.chunks[static_cast<std::size_t>(chunk)].inside;
    std::transform(inside.begin(), inside.end(), keys.begin() + found.first_inside[static_cast<std::size_t>(chunk)],
                   [](const auto& each) { return each.key; });
  });
  const std::int64_t last_key = at_ranks(keys, wanted, wanted, pool).first;
  std::vector<std::vector<Tied>> tied_of(found.chunks.size());
  std::vector<std::int64_t> num_chosen(found.chunks.size(), 0);
  pool.parallel_for(num_chunks, [&](std::int64_t number) {
    const auto chunk = static_cast<std::size_t>(number);
    const std::int64_t first = number * kEntriesPerChunk;
    std::int64_t chosen = 0;
    for (const cpu::InsideCandidate& candidate : found.chunks[chunk].inside) {
      const bool is_better = candidate.key < last_key;
      is_chosen[first + candidate.position] = is_better ? 1 : 0;
      chosen += is_better ? 1 : 0;
      if (candidate.key == last_key) tied_of[chunk].push_back(tied_entry(pattern, stream, first + candidate.position));
    }
    num_chosen[chunk] = chosen;
  });
  std::vector<Tied> tied;
  for (const auto& of_chunk : tied_of) tied.insert(tied.end(), of_chunk.begin(), of_chunk.end());
  const std::int64_t left = wanted - std::accumulate(num_chosen.begin(), num_chosen.end(), std::int64_t{0});
  std::nth_element(tied.begin(), tied.begin() + (left - 1), tied.end(), [](const Tied& a, const Tied& b) {
    return std::tie(a.key, a.position) < std::tie(b.key, b.position);
  });
  for (std::int64_t i = 0; i < left; ++i) is_chosen[tied[static_cast<std::size_t>(i)].entry] = 1;
}

}  // namespace itop
