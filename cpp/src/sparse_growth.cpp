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
  const auto size = static_cast<std::int64_t>(candidates_.size());
  if (size <= k_) return;
  const auto boundary = candidates_.begin() + k_;
  std::nth_element(candidates_.begin(), boundary - 1, candidates_.end(),
                   [](const Candidate& a, const Candidate& b) { return a.key < b.key; });
  limit_ = candidates_[static_cast<std::size_t>(k_ - 1)].key;
  // Equal keys at the boundary: tie keys are drawn for these few only.
  const auto first_tied =
      std::partition(candidates_.begin(), boundary, [&](const Candidate& candidate) { return candidate.key < limit_; });
  const auto last_tied =
      std::partition(boundary, candidates_.end(), [&](const Candidate& candidate) { return candidate.key == limit_; });
  if (last_tied != boundary) {
    struct Tied {
      std::uint64_t key;
      std::int64_t index;
    };
    std::vector<Tied> tied;
    for (auto candidate = first_tied; candidate != last_tied; ++candidate) {
      tied.push_back({tie_key(stream_, static_cast<std::uint64_t>(candidate->index)), candidate->index});
    }
    const auto wanted = boundary - first_tied;
    std::nth_element(tied.begin(), tied.begin() + (wanted - 1), tied.end(),
                     [](const Tied& a, const Tied& b) { return std::tie(a.key, a.index) < std::tie(b.key, b.index); });
    for (std::ptrdiff_t i = 0; i < wanted; ++i) first_tied[i].index = tied[static_cast<std::size_t>(i)].index;
  }
  candidates_.resize(static_cast<std::size_t>(k_));
}

std::vector<std::int64_t> StreamedGrowth::finish() {
  keep_best();
  std::vector<std::int64_t> chosen;
  chosen.reserve(candidates_.size());
  for (const Candidate& candidate : candidates_) chosen.push_back(candidate.index);
  std::sort(chosen.begin(), chosen.end());
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
    for (std::size_t i = 0; i < wanted; ++i) drawn.chosen.push_back(keyed[i].second);
    std::sort(drawn.chosen.begin(), drawn.chosen.end());
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
  const auto num_kept = static_cast<std::size_t>(num_old - std::count(keep, keep + num_old, std::uint8_t{0}));
  result.row_pointers.reserve(static_cast<std::size_t>(pattern.num_rows) + 1);
  result.columns.reserve(num_kept + static_cast<std::size_t>(num_grown));
  result.sources.reserve(num_kept + static_cast<std::size_t>(num_grown));
  result.row_pointers.push_back(0);
  const auto append = [&](std::int64_t column, std::int64_t source) {
    result.columns.push_back(static_cast<std::int32_t>(column));
    result.sources.push_back(static_cast<std::int32_t>(source));
  };
  std::int64_t next = 0;
  for (std::int64_t row = 0; row < pattern.num_rows; ++row) {
    const std::int64_t row_start = row * pattern.num_columns;
    std::int64_t entry = pattern.row_pointers[row];
    const std::int64_t end = pattern.row_pointers[row + 1];
    for (; next < num_grown && grown[next] < row_start + pattern.num_columns; ++next) {
      const std::int64_t column = grown[next] - row_start;
      for (; entry < end && pattern.columns[entry] < column; ++entry) {
        if (keep[entry] != 0) append(pattern.columns[entry], entry);
      }
      const bool was_active = entry < end && pattern.columns[entry] == column;
      if (was_active && keep[entry] != 0) {
        throw std::invalid_argument("position (" + std::to_string(row) + ", " + std::to_string(column) +
                                    ") is active and kept, it cannot be grown");
      }
      append(column, was_active && regrown_keeps_value ? entry : -1);
      if (was_active) ++entry;
    }
    for (; entry < end; ++entry) {
      if (keep[entry] != 0) append(pattern.columns[entry], entry);
    }
    result.row_pointers.push_back(static_cast<std::int64_t>(result.columns.size()));
  }
  return result;
}

}  // namespace itop
