#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "cpu/kernels.hpp"
#include "free_positions.hpp"
#include "itop/sparse_growth.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kWordsAtOnce = 1024;  // whose bits stay in the first-level cache
constexpr std::int64_t kMostRanges = 64;

/// A free position whose coarse key decides nothing.
struct Undecided {
  std::int64_t coarse_key;
  std::int64_t index;
};

/// Of a stretch of the matrix: free positions with coarse tie keys below a bracket, and those inside it.
struct Drawn {
  ScratchArray<std::int64_t> chosen;
  ScratchArray<Undecided> undecided;
};

/// Draws the keys of positions [first, last), a cache's worth at a time.
void draw_range(const PositionList& taken, const cpu::TiePass& bracket, std::int64_t first, std::int64_t last,
                Drawn& drawn) {
  Word free[kWordsAtOnce];
  Word chosen[kWordsAtOnce];
  cpu::TiePass pass = bracket;
  pass.candidates = free;
  pass.chosen = chosen;
  cpu::PassResult result;
  for (; first < last; first += kWordsAtOnce * kWordBits) {
    const std::int64_t num_bits = std::min(kWordsAtOnce * kWordBits, last - first);
    const std::int64_t num_words = words_for(num_bits);
    fill_free_bits(taken, first, num_bits, free);
    pass.index_map = IndexMap::contiguous(num_bits, first);
    result.num_below = 0;
    result.inside.resize(0);
    cpu::kernels().tie_pass(pass, {0, num_words, num_bits}, result);
    const std::size_t before = drawn.chosen.size();
    const auto num_below = static_cast<std::size_t>(result.num_below);
    drawn.chosen.resize(before + num_below + cpu::kListedSlack);
    cpu::kernels().list_bits(chosen, num_words, first, drawn.chosen.data() + before);
    drawn.chosen.resize(before + num_below);
    for (const cpu::InsideCandidate& inside : result.inside) {
      drawn.undecided.push_back({inside.key, first + inside.position});
    }
  }
}

std::vector<Drawn> draw_keys(const PositionList& taken, const KeyStream& stream, std::uint16_t low, std::uint16_t high,
                             ThreadPool& pool) {
  const std::int64_t numel = taken.num_rows * taken.num_columns;
  cpu::TiePass bracket;
  bracket.low = low;
  bracket.high = high;
  bracket.stream = stream;
  constexpr std::int64_t kAtOnce = kWordsAtOnce * kWordBits;
  const std::int64_t per_range = ((numel + kMostRanges - 1) / kMostRanges + kAtOnce - 1) / kAtOnce * kAtOnce;
  std::vector<Drawn> ranges(static_cast<std::size_t>((numel + per_range - 1) / per_range));
  pool.parallel_for(static_cast<std::int64_t>(ranges.size()), [&](std::int64_t range) {
    draw_range(taken, bracket, range * per_range, std::min(numel, (range + 1) * per_range),
               ranges[static_cast<std::size_t>(range)]);
  });
  return ranges;
}

/// The `wanted` of the undecided with the smallest tie keys, ascending. Fine keys are drawn for equal coarse ones only.
std::vector<std::int64_t> decide(std::vector<Undecided>& undecided, std::int64_t wanted, const KeyStream& stream) {
  std::vector<std::int64_t> chosen;
  if (wanted == 0) return chosen;
  const auto boundary = undecided.begin() + (wanted - 1);
  std::nth_element(undecided.begin(), boundary, undecided.end(),
                   [](const Undecided& a, const Undecided& b) { return a.coarse_key < b.coarse_key; });
  const std::int64_t last_key = boundary->coarse_key;
  std::vector<std::pair<std::uint64_t, std::int64_t>> equal;
  for (const Undecided& position : undecided) {
    if (position.coarse_key < last_key) chosen.push_back(position.index);
    if (position.coarse_key != last_key) continue;
    equal.emplace_back(fine_key(stream, static_cast<std::uint64_t>(position.index)), position.index);
  }
  const std::int64_t left = wanted - static_cast<std::int64_t>(chosen.size());
  std::nth_element(equal.begin(), equal.begin() + (left - 1), equal.end());
  for (std::int64_t i = 0; i < left; ++i) chosen.push_back(equal[static_cast<std::size_t>(i)].second);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

/// Both lists in one, ascending; a range's members follow those of the ranges before it.
ScratchArray<std::int64_t> merged(const std::vector<Drawn>& ranges, const std::vector<std::int64_t>& decided,
                                  std::int64_t k, ThreadPool& pool) {
  ScratchArray<std::int64_t> all(static_cast<std::size_t>(k));
  std::vector<std::size_t> first_decided(ranges.size() + 1, decided.size());
  std::vector<std::size_t> first_chosen(ranges.size() + 1, 0);
  std::size_t next = 0;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    first_decided[i] = next;
    // A range's last undecided position bounds its own among the decided.
    const auto& undecided = ranges[i].undecided;
    while (next < decided.size() && !undecided.empty() && decided[next] <= undecided.back().index) {
      ++next;
    }
    first_chosen[i + 1] = first_chosen[i] + ranges[i].chosen.size();
  }
  pool.parallel_for(static_cast<std::int64_t>(ranges.size()), [&](std::int64_t range) {
    const auto i = static_cast<std::size_t>(range);
    const ScratchArray<std::int64_t>& chosen = ranges[i].chosen;
    const std::int64_t* from = chosen.begin();
    std::int64_t* to = all.begin() + first_chosen[i] + first_decided[i];
    for (std::size_t place = first_decided[i]; place < first_decided[i + 1]; ++place) {  // few: runs lie between them
      const std::int64_t* const end = std::lower_bound(from, chosen.end(), decided[place]);
      to = std::copy(std::exchange(from, end), end, to);
      *to++ = decided[place];
    }
    std::copy(from, chosen.end(), to);
  });
  return all;
}

ScratchArray<std::int64_t> smallest_tie_keys(const PositionList& taken, std::int64_t k, const KeyStream& stream,
                                             ThreadPool& pool) {
  // Coarse keys are uniform: the k-th smallest lies within six standard deviations of its expectation, or we look at
  // all.
  const auto num_free = static_cast<double>(taken.num_free());
  const double share = static_cast<double>(k) / num_free;
  const double spread = 6 * std::sqrt(share * (1 - share) / num_free) + 1e-12;
  const double scale = 1 << kCoarseKeyBits;
  const auto clamped = [](double key) { return static_cast<std::uint16_t>(std::clamp(key, 0.0, 65535.0)); };
  auto ranges = draw_keys(taken, stream, clamped(std::floor((share - spread) * scale)),
                          clamped(std::ceil((share + spread) * scale)), pool);
  std::int64_t num_chosen = 0;
  std::int64_t num_undecided = 0;
  const auto count = [&] {
    num_chosen = num_undecided = 0;
    for (const Drawn& drawn : ranges) {
      num_chosen += static_cast<std::int64_t>(drawn.chosen.size());
      num_undecided += static_cast<std::int64_t>(drawn.undecided.size());
    }
  };
  count();
  if (num_chosen > k || num_chosen + num_undecided < k) {
    ranges = draw_keys(taken, stream, 0, 65535, pool);
    count();
  }
  std::vector<Undecided> undecided;
  undecided.reserve(static_cast<std::size_t>(num_undecided));
  for (const Drawn& drawn : ranges) undecided.insert(undecided.end(), drawn.undecided.begin(), drawn.undecided.end());
  return merged(ranges, decide(undecided, k - num_chosen, stream), k, pool);
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

ScratchArray<std::int64_t> positions_of_ranks(const PositionList& taken, const std::vector<std::int64_t>& ranks) {
  ScratchArray<std::int64_t> positions(ranks.size());
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
      positions[next] = row * taken.num_columns + rank + skipped;
    }
    free_before += num_free;
  }
  return positions;
}

}  // namespace

ScratchArray<std::int64_t> grow_uniformly(const PositionList& taken, std::int64_t k, const KeyStream& stream,
                                          std::int64_t max_streamed, ThreadPool& pool) {
  check_num_grown(taken, k);
  if (k == 0) return {};
  if (taken.num_rows * taken.num_columns <= max_streamed) return smallest_tie_keys(taken, k, stream, pool);
  return positions_of_ranks(taken, draw_ranks(taken.num_free(), k, stream));
}

}  // namespace itop
