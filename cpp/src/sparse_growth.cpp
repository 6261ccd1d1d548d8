#include "itop/sparse_growth.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cpu/kernels.hpp"
#include "itop/error.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kWordsPerChunk = 1024;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

void check_count(const PositionList& taken, std::int64_t k) {
  if (k < 0 || k > taken.num_free()) {
    throw std::invalid_argument("k must be between 0 and the " + std::to_string(taken.num_free()) +
                                " free positions, got " + std::to_string(k));
  }
}

/// The free positions among `num_bits` from index `first` on, as bits.
void fill_free_bits(const PositionList& taken, std::int64_t first, std::int64_t num_bits, Word* words) {
  std::fill_n(words, divide_up(num_bits, kWordBits), ~Word{0});
  if (num_bits % kWordBits != 0) words[num_bits / kWordBits] = (Word{1} << (num_bits % kWordBits)) - 1;
  std::int64_t row = first / taken.num_columns;
  for (; row < taken.num_rows && row * taken.num_columns < first + num_bits; ++row) {
    const std::int64_t row_start = row * taken.num_columns - first;
    const std::int32_t* entry = taken.columns + taken.row_pointers[row];
    const std::int32_t* const end = taken.columns + taken.row_pointers[row + 1];
    if (row_start < 0) entry = std::lower_bound(entry, end, -row_start);
    for (; entry < end && row_start + *entry < num_bits; ++entry) {
      const std::int64_t bit = row_start + *entry;
      words[bit / kWordBits] &= ~(Word{1} << (bit % kWordBits));
    }
  }
}

std::int64_t key_of_magnitude(double magnitude, bool wide) {
  const auto order = SelectionOrder::kLargest;
  if (wide) return OrderedKey64::from_bits(std::bit_cast<std::uint64_t>(magnitude), ScoreTransform::kMagnitude, order);
  // Rounded towards zero: a score equal to the guess stays a candidate.
  auto narrow = static_cast<float>(magnitude);
  if (static_cast<double>(narrow) > magnitude) narrow = std::nextafter(narrow, 0.0F);
  return OrderedKey32::from_bits(std::bit_cast<std::uint32_t>(narrow), ScoreTransform::kMagnitude, order);
}

}  // namespace

StreamedGrowth::StreamedGrowth(const PositionList& taken, std::int64_t k, const KeyStream& stream, double at_least)
    : taken_(taken), k_(k), stream_(stream), at_least_(at_least) {
  check_count(taken, k);
}

void StreamedGrowth::offer(std::int64_t first_row, std::int64_t num_rows, const void* scores, DType type,
                           ThreadPool& pool) {
  if (k_ == 0 || num_rows == 0) return;
  const bool wide = type == DType::kFloat64;
  if (!has_limit_) {
    limit_ = key_of_magnitude(at_least_, wide);
    has_limit_ = true;
  }
  const std::int64_t first = first_row * taken_.num_columns;
  const std::int64_t count = num_rows * taken_.num_columns;
  const std::int64_t num_words = divide_up(count, kWordBits);
  const std::int64_t num_chunks = divide_up(num_words, kWordsPerChunk);
  std::vector<cpu::PassResult> results(static_cast<std::size_t>(num_chunks));
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    const std::int64_t first_word = chunk * kWordsPerChunk;
    const std::int64_t first_bit = first_word * kWordBits;
    const std::int64_t num_bits = std::min(kWordsPerChunk * kWordBits, count - first_bit);
    std::vector<Word> free(static_cast<std::size_t>(divide_up(num_bits, kWordBits)));
    fill_free_bits(taken_, first + first_bit, num_bits, free.data());
    cpu::ScorePass pass;
    pass.scores = static_cast<const std::byte*>(scores) + first_bit * static_cast<std::int64_t>(size_of(type));
    pass.format = {type, ScoreTransform::kMagnitude, SelectionOrder::kLargest, wide};
    pass.candidates = free.data();
    pass.low = std::numeric_limits<std::int64_t>::min();
    pass.high = limit_;
    pass.capacity = num_bits;
    pass.lists_in_order = true;
    cpu::kernels().score_pass(pass, {0, static_cast<std::int64_t>(free.size()), num_bits}, results[chunk]);
  });
  for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    const cpu::PassResult& result = results[static_cast<std::size_t>(chunk)];
    if (!result.all_finite) throw NonFiniteError("", "the scores of growth hold NaN or infinity");
    for (const cpu::InsideCandidate& candidate : result.inside) {
      candidates_.push_back({candidate.key, first + chunk * kWordsPerChunk * kWordBits + candidate.position});
    }
  }
  if (static_cast<std::int64_t>(candidates_.size()) > 2 * k_ + 65536) keep_best();
}

void StreamedGrowth::keep_best() {
  if (static_cast<std::int64_t>(candidates_.size()) <= k_) return;
  std::vector<std::int64_t> keys;
  keys.reserve(candidates_.size());
  for (const Candidate& candidate : candidates_) keys.push_back(candidate.key);
  const auto last = keys.begin() + (k_ - 1);
  std::nth_element(keys.begin(), last, keys.end());
  limit_ = *last;
  const auto wanted = 1 + std::count(keys.begin(), last, limit_);
  // Equal keys at the limit: tie keys are drawn for these few only.
  using Tie = std::pair<std::uint64_t, std::int64_t>;
  std::vector<Tie> ties;
  for (const Candidate& candidate : candidates_) {
    if (candidate.key != limit_) continue;
    ties.emplace_back(tie_key(stream_, static_cast<std::uint64_t>(candidate.index)), candidate.index);
  }
  std::nth_element(ties.begin(), ties.begin() + (wanted - 1), ties.end());
  const Tie last_tie = ties[static_cast<std::size_t>(wanted - 1)];
  // In their order: candidates of rows offered in order stay sorted.
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    if (candidate.key != limit_) return candidate.key > limit_;
    return Tie{tie_key(stream_, static_cast<std::uint64_t>(candidate.index)), candidate.index} > last_tie;
  });
}

std::vector<std::int64_t> StreamedGrowth::finish() {
  keep_best();
  std::vector<std::int64_t> chosen;
  chosen.reserve(candidates_.size());
  for (const Candidate& candidate : candidates_) chosen.push_back(candidate.index);
  if (!std::is_sorted(chosen.begin(), chosen.end())) std::sort(chosen.begin(), chosen.end());
  return chosen;
}

namespace {

/// Free positions with coarse tie keys below `low`, and those from `low` to `high`.
struct Drawn {
  std::vector<std::int64_t> chosen;
  std::vector<std::int64_t> undecided;
};

Drawn draw_keys(const PositionList& taken, const KeyStream& stream, std::uint16_t low, std::uint16_t high,
                ThreadPool& pool) {
  const std::int64_t numel = taken.num_rows * taken.num_columns;
  const std::int64_t bits_per_chunk = kWordsPerChunk * kWordBits;
  const std::int64_t num_chunks = divide_up(numel, bits_per_chunk);
  std::vector<Drawn> parts(static_cast<std::size_t>(num_chunks));
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    const std::int64_t first = chunk * bits_per_chunk;
    const std::int64_t num_bits = std::min(bits_per_chunk, numel - first);
    const std::int64_t num_words = divide_up(num_bits, kWordBits);
    std::vector<Word> free(static_cast<std::size_t>(num_words));
    std::vector<Word> chosen(static_cast<std::size_t>(num_words), 0);
    fill_free_bits(taken, first, num_bits, free.data());
    cpu::TiePass pass;
    pass.candidates = free.data();
    pass.chosen = chosen.data();
    pass.low = low;
    pass.high = high;
    pass.index_map = IndexMap::contiguous(num_bits, first);
    pass.stream = stream;
    cpu::PassResult result;
    cpu::kernels().tie_pass(pass, {0, num_words, num_bits}, result);
    Drawn& part = parts[static_cast<std::size_t>(chunk)];
    part.chosen.reserve(static_cast<std::size_t>(result.num_below));
    for (std::int64_t word = 0; word < num_words; ++word) {
      for (Word left = chosen[static_cast<std::size_t>(word)]; left != 0; left &= left - 1) {
        part.chosen.push_back(first + word * kWordBits + std::countr_zero(left));
      }
    }
    for (const cpu::InsideCandidate& inside : result.inside) part.undecided.push_back(first + inside.position);
  });
  Drawn all;
  for (const Drawn& part : parts) {
    all.chosen.insert(all.chosen.end(), part.chosen.begin(), part.chosen.end());
    all.undecided.insert(all.undecided.end(), part.undecided.begin(), part.undecided.end());
  }
  return all;
}

std::vector<std::int64_t> smallest_tie_keys(const PositionList& taken, std::int64_t k, const KeyStream& stream,
                                            ThreadPool& pool) {
  // Coarse keys are uniform: the k-th smallest lies within six standard deviations of its expectation, or we look at
  // all.
  const auto num_free = static_cast<double>(taken.num_free());
  const double share = static_cast<double>(k) / num_free;
  const double spread = 6 * std::sqrt(share * (1 - share) / num_free) + 1e-12;
  const double scale = 1 << kCoarseKeyBits;
  const auto clamped = [](double key) { return static_cast<std::uint16_t>(std::clamp(key, 0.0, 65535.0)); };
  Drawn drawn = draw_keys(taken, stream, clamped(std::floor((share - spread) * scale)),
                          clamped(std::ceil((share + spread) * scale)), pool);
  const auto num_chosen = [&] { return static_cast<std::int64_t>(drawn.chosen.size()); };
  const auto num_drawn = [&] { return num_chosen() + static_cast<std::int64_t>(drawn.undecided.size()); };
  if (num_chosen() > k || num_drawn() < k) drawn = draw_keys(taken, stream, 0, 65535, pool);
  const auto wanted = static_cast<std::size_t>(k - num_chosen());
  if (wanted > 0) {
    std::vector<std::pair<std::uint64_t, std::int64_t>> keyed;
    keyed.reserve(drawn.undecided.size());
    for (const std::int64_t index : drawn.undecided) {
      keyed.emplace_back(tie_key(stream, static_cast<std::uint64_t>(index)), index);
    }
    std::nth_element(keyed.begin(), keyed.begin() + static_cast<std::ptrdiff_t>(wanted) - 1, keyed.end());
    const auto num_sorted = static_cast<std::ptrdiff_t>(drawn.chosen.size());
    for (std::size_t i = 0; i < wanted; ++i) drawn.chosen.push_back(keyed[i].second);
    std::sort(drawn.chosen.begin() + num_sorted, drawn.chosen.end());
    std::inplace_merge(drawn.chosen.begin(), drawn.chosen.begin() + num_sorted, drawn.chosen.end());
  }
  return drawn.chosen;
}

/// k distinct ranks below `num_free`, ascending. Drawing until k are distinct makes every set of k equally likely.
std::vector<std::int64_t> draw_ranks(std::int64_t num_free, std::int64_t k, const KeyStream& stream) {
  std::vector<std::int64_t> ranks;
  std::uint64_t counter = 0;
  while (static_cast<std::int64_t>(ranks.size()) < k) {
    const auto known = static_cast<std::ptrdiff_t>(ranks.size());
    while (static_cast<std::int64_t>(ranks.size()) < k) {
      const PhiloxBlock block = philox(stream.counter_block(counter++, 1), stream.key0(), stream.key1());
      const std::uint64_t random = (std::uint64_t{block.word[1]} << 32) | block.word[0];
      __extension__ using Wide = unsigned __int128;
      ranks.push_back(static_cast<std::int64_t>((Wide{random} * static_cast<std::uint64_t>(num_free)) >> 64));
    }
    std::sort(ranks.begin() + known, ranks.end());
    std::inplace_merge(ranks.begin(), ranks.begin() + known, ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  }
  return ranks;
}

std::vector<std::int64_t> positions_of_ranks(const PositionList& taken, std::vector<std::int64_t> ranks) {
  std::int64_t free_before = 0;  // of the row
  std::size_t next = 0;
  for (std::int64_t row = 0; row < taken.num_rows && next < ranks.size(); ++row) {
    const std::int32_t* entry = taken.columns + taken.row_pointers[row];
    const std::int32_t* const end = taken.columns + taken.row_pointers[row + 1];
    const std::int64_t num_free = taken.num_columns - (end - entry);
    std::int64_t skipped = 0;
    for (; next < ranks.size() && ranks[next] < free_before + num_free; ++next) {
      const std::int64_t rank = ranks[next] - free_before;
      for (; entry < end && *entry <= rank + skipped; ++entry) ++skipped;
      ranks[next] = row * taken.num_columns + rank + skipped;
    }
    free_before += num_free;
  }
  return ranks;
}

}  // namespace

std::vector<std::int64_t> grow_uniformly(const PositionList& taken, std::int64_t k, const KeyStream& stream,
                                         std::int64_t max_streamed, ThreadPool& pool) {
  check_count(taken, k);
  if (k == 0) return {};
  if (taken.num_rows * taken.num_columns <= max_streamed) return smallest_tie_keys(taken, k, stream, pool);
  return positions_of_ranks(taken, draw_ranks(taken.num_free(), k, stream));
}

UpdatedPattern update_pattern(const PositionList& pattern, const std::uint8_t* keep, const std::int64_t* grown,
                              std::int64_t num_grown, bool regrown_keeps_value) {
  const std::int64_t num_old = pattern.count();
  if (num_old + num_grown > std::numeric_limits<std::int32_t>::max()) {
    throw std::invalid_argument("a layer holds fewer than 2^31 active weights");
  }
  for (std::int64_t i = 0; i < num_grown; ++i) {
    if (grown[i] < 0 || grown[i] >= pattern.num_rows * pattern.num_columns || (i > 0 && grown[i] <= grown[i - 1])) {
      throw std::invalid_argument("grown positions must ascend within the matrix, position " + std::to_string(i) +
                                  " is " + std::to_string(grown[i]));
    }
  }
  UpdatedPattern result;
  const auto num_kept = num_old - std::count(keep, keep + num_old, std::uint8_t{0});
  const auto num_new = static_cast<std::size_t>(num_kept + num_grown);
  // One element more: an entry is written before it is known whether it stays.
  result.row_pointers.resize(static_cast<std::size_t>(pattern.num_rows) + 1);
  result.columns.resize(num_new + 1);
  result.sources.resize(num_new + 1);
  std::int32_t* const columns = result.columns.data();
  std::int32_t* const sources = result.sources.data();
  std::int64_t written = 0;
  std::int64_t next = 0;
  for (std::int64_t row = 0; row < pattern.num_rows; ++row) {
    const std::int64_t row_start = row * pattern.num_columns;
    std::int64_t entry = pattern.row_pointers[row];
    const std::int64_t end = pattern.row_pointers[row + 1];
    const auto copy_entry = [&] {
      columns[written] = pattern.columns[entry];
      sources[written] = static_cast<std::int32_t>(entry);
      written += keep[entry] != 0 ? 1 : 0;
      ++entry;
    };
    for (; next < num_grown && grown[next] < row_start + pattern.num_columns; ++next) {
      const auto column = static_cast<std::int32_t>(grown[next] - row_start);
      while (entry < end && pattern.columns[entry] < column) copy_entry();
      const bool was_active = entry < end && pattern.columns[entry] == column;
      if (was_active && keep[entry] != 0) {
        throw std::invalid_argument("position (" + std::to_string(row) + ", " + std::to_string(column) +
                                    ") is active and kept, it cannot be grown");
      }
      columns[written] = column;
      sources[written] = was_active && regrown_keeps_value ? static_cast<std::int32_t>(entry) : -1;
      ++written;
      if (was_active) ++entry;
    }
    while (entry < end) copy_entry();
    result.row_pointers[static_cast<std::size_t>(row) + 1] = written;
  }
  result.columns.resize(num_new);
  result.sources.resize(num_new);
  return result;
}

namespace {

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

/// Keys between which the k-th smallest key surely or nearly surely lies, from an evenly spaced sample.
std::pair<std::int64_t, std::int64_t> sampled_bracket(const void* values, const cpu::KeyFormat& format,
                                                      std::int64_t count, std::int64_t k) {
  constexpr std::int64_t kSample = 4096;
  std::vector<std::int64_t> sample;
  const std::int64_t size = std::min(count, kSample);
  sample.reserve(static_cast<std::size_t>(size));
  for (std::int64_t i = 0; i < size; ++i) sample.push_back(ordered_key(values, format, count / size * i));
  std::sort(sample.begin(), sample.end());
  const double share = static_cast<double>(k) / static_cast<double>(count);
  const double spread =
      6 * std::sqrt(share * (1 - share) / static_cast<double>(size)) + 2.0 / static_cast<double>(size);
  const auto rank = [&](double at) { return static_cast<std::int64_t>(std::floor(at * static_cast<double>(size))); };
  const std::int64_t low = rank(share - spread);
  const std::int64_t high = rank(share + spread) + 1;
  constexpr auto kNone = std::numeric_limits<std::int64_t>::min();
  constexpr auto kAll = std::numeric_limits<std::int64_t>::max();
  return {low < 0 ? kNone : sample[static_cast<std::size_t>(low)],
          high >= size ? kAll : sample[static_cast<std::size_t>(high)]};
}

struct BelowAndInside {
  std::int64_t num_below = 0;
  std::vector<cpu::InsideCandidate> inside;
};

/// Marks entries with a key below `low` as chosen, and lists those from `low` to `high`.
BelowAndInside choose_below(const void* values, const cpu::KeyFormat& format, std::int64_t count, std::int64_t low,
                            std::int64_t high, std::uint8_t* is_chosen, ThreadPool& pool) {
  const std::int64_t bits_per_chunk = kWordsPerChunk * kWordBits;
  const std::int64_t num_chunks = divide_up(count, bits_per_chunk);
  std::vector<cpu::PassResult> results(static_cast<std::size_t>(num_chunks));
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    const std::int64_t first = chunk * bits_per_chunk;
    const std::int64_t num_bits = std::min(bits_per_chunk, count - first);
    const std::int64_t num_words = divide_up(num_bits, kWordBits);
    std::vector<Word> candidates(static_cast<std::size_t>(num_words), ~Word{0});
    if (num_bits % kWordBits != 0) candidates.back() = (Word{1} << (num_bits % kWordBits)) - 1;
    std::vector<Word> chosen(static_cast<std::size_t>(num_words), 0);
    cpu::ScorePass pass;
    pass.scores = static_cast<const std::byte*>(values) + first * static_cast<std::int64_t>(size_of(format.dtype));
    pass.format = format;
    pass.candidates = candidates.data();
    pass.chosen = chosen.data();
    pass.low = low;
    pass.high = high;
    pass.capacity = num_bits;
    cpu::kernels().score_pass(pass, {0, num_words, num_bits}, results[static_cast<std::size_t>(chunk)]);
    for (std::int64_t bit = 0; bit < num_bits; ++bit) {
      is_chosen[first + bit] =
          static_cast<std::uint8_t>(chosen[static_cast<std::size_t>(bit / kWordBits)] >> (bit % kWordBits)) & 1U;
    }
  });
  BelowAndInside found;
  for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    const cpu::PassResult& result = results[static_cast<std::size_t>(chunk)];
    if (!result.all_finite) throw NonFiniteError("", "the scores of active weights hold NaN or infinity");
    found.num_below += result.num_below;
    for (cpu::InsideCandidate candidate : result.inside) {
      candidate.position += chunk * bits_per_chunk;
      found.inside.push_back(candidate);
    }
  }
  return found;
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
  const auto [low, high] = sampled_bracket(scores.values, format, count, k);
  BelowAndInside found = choose_below(scores.values, format, count, low, high, is_chosen, pool);
  const auto num_found = [&] { return found.num_below + static_cast<std::int64_t>(found.inside.size()); };
  if (found.num_below > k || num_found() < k) {  // the sample misled: all are candidates
    found = choose_below(scores.values, format, count, std::numeric_limits<std::int64_t>::min(),
                         std::numeric_limits<std::int64_t>::max(), is_chosen, pool);
  }
  const std::int64_t wanted = k - found.num_below;
  if (wanted == 0) return;
  const auto boundary = found.inside.begin() + (wanted - 1);
  std::nth_element(found.inside.begin(), boundary, found.inside.end(),
                   [](const auto& a, const auto& b) { return a.key < b.key; });
  const std::int64_t last_key = boundary->key;
  struct Tied {
    std::uint64_t key;
    std::int64_t position;
    std::int64_t entry;
  };
  std::vector<Tied> tied;
  std::int64_t left = wanted;
  for (const cpu::InsideCandidate& candidate : found.inside) {
    if (candidate.key < last_key) {
      is_chosen[candidate.position] = 1;
      --left;
    } else if (candidate.key == last_key) {
      const std::int64_t row =
          std::upper_bound(pattern.row_pointers, pattern.row_pointers + pattern.num_rows + 1, candidate.position) -
          pattern.row_pointers - 1;
      const std::int64_t position = row * pattern.num_columns + pattern.columns[candidate.position];
      tied.push_back({tie_key(stream, static_cast<std::uint64_t>(position)), position, candidate.position});
    }
  }
  std::nth_element(tied.begin(), tied.begin() + (left - 1), tied.end(), [](const Tied& a, const Tied& b) {
    return std::tie(a.key, a.position) < std::tie(b.key, b.position);
  });
  for (std::int64_t i = 0; i < left; ++i) is_chosen[tied[static_cast<std::size_t>(i)].entry] = 1;
}

namespace {

template <class Element>
void carry(const void* from, const std::int32_t* sources, std::int64_t count, void* to, ThreadPool& pool) {
  constexpr std::int64_t kPerChunk = 65536;
  const auto* const old = static_cast<const Element*>(from);
  auto* const out = static_cast<Element*>(to);
  pool.parallel_for(divide_up(count, kPerChunk), [&](std::int64_t chunk) {
    const std::int64_t last = std::min(count, (chunk + 1) * kPerChunk);
    for (std::int64_t i = chunk * kPerChunk; i < last; ++i) out[i] = sources[i] < 0 ? Element{0} : old[sources[i]];
  });
}

}  // namespace

void carry_values(const void* from, const std::int32_t* sources, std::int64_t count, std::size_t element_size, void* to,
                  ThreadPool& pool) {
  switch (element_size) {
    case 2:
      return carry<std::uint16_t>(from, sources, count, to, pool);
    case 4:
      return carry<std::uint32_t>(from, sources, count, to, pool);
    case 8:
      return carry<std::uint64_t>(from, sources, count, to, pool);
    default:
      throw std::invalid_argument("values have 2, 4 or 8 bytes, got " + std::to_string(element_size));
  }
}

}  // namespace itop
