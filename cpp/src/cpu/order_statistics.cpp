#include "cpu/order_statistics.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <numeric>
#include <vector>

namespace itop::cpu {
namespace {

constexpr int kPivots = 15;

std::uint64_t to_unsigned(std::int64_t value) { return static_cast<std::uint64_t>(value) ^ (std::uint64_t{1} << 63); }
std::int64_t to_signed(std::uint64_t value) { return static_cast<std::int64_t>(value ^ (std::uint64_t{1} << 63)); }

/// The answer lies in [low, high]; pivot j cuts that range into sixteen.
struct SearchRange {
  std::uint64_t low;
  std::uint64_t high;
  std::int64_t num_below = 0;   ///< values under `low`, over all parts
  std::int64_t num_up_to = -1;  ///< values up to `high`; -1: not counted yet

  /// One value is left: whoever holds it can say which, and no search is needed.
  bool holds_one() const { return num_up_to - num_below == 1; }

  std::uint64_t pivot(int j) const {
    const std::uint64_t width = high - low;
    const std::uint64_t step = width / (kPivots + 1);
    const std::uint64_t rest = width % (kPivots + 1);
    const auto cut = static_cast<std::uint64_t>(j + 1);
    return low + step * cut + rest * cut / (kPivots + 1);
  }
};

std::int64_t nth_element_of(std::vector<std::int64_t>& values, std::int64_t rank) {
  const auto wanted = values.begin() + (rank - 1);
  std::nth_element(values.begin(), wanted, values.end());
  return *wanted;
}

constexpr std::int64_t kPieceValues = 32768;

std::int64_t num_pieces(const ScratchArray<std::int64_t>& values) {
  return (static_cast<std::int64_t>(values.size()) + kPieceValues - 1) / kPieceValues;
}

/// Runs `body(piece, values)` for pieces of an array.
template <class Body>
void for_pieces(const ScratchArray<std::int64_t>& values, ThreadPool& threads, Body&& body) {
  const std::span<const std::int64_t> all(values.data(), values.size());
  threads.parallel_for(num_pieces(values), [&](std::int64_t piece) {
    const auto first = static_cast<std::size_t>(piece * kPieceValues);
    body(static_cast<std::size_t>(piece), all.subspan(first, std::min<std::size_t>(kPieceValues, all.size() - first)));
  });
}

/// Answers the queries of one array, values untouched: count by equal steps between the ends, then sort out the steps
/// from the first query's to the last one's. Queries of one array ask for neighbours.
void answer_all_of(std::span<OrderStatisticQuery> queries, ThreadPool& threads) {
  const ScratchArray<std::int64_t>& values = *queries.front().values;
  constexpr int kBinBits = 10;
  constexpr std::size_t num_bins = std::size_t{1} << kBinBits;
  std::vector<std::int64_t> left;
  if (values.size() <= num_bins) {
    for (auto& query : queries) {
      left.assign(values.begin(), values.end());
      query.result = nth_element_of(left, query.rank);
    }
    return;
  }
  struct Piece {
    std::int64_t least = std::numeric_limits<std::int64_t>::max();
    std::int64_t greatest = std::numeric_limits<std::int64_t>::min();
    std::array<std::int32_t, num_bins> bins{};
    std::vector<std::int64_t> left;
  };
  std::vector<Piece> pieces(static_cast<std::size_t>(num_pieces(values)));
  for_pieces(values, threads, [&](std::size_t piece, std::span<const std::int64_t> some) {
    for (const std::int64_t value : some) {
      pieces[piece].least = std::min(pieces[piece].least, value);
      pieces[piece].greatest = std::max(pieces[piece].greatest, value);
    }
  });
  std::int64_t least = pieces.front().least;
  std::int64_t greatest = pieces.front().greatest;
  for (const Piece& piece : pieces) {
    least = std::min(least, piece.least);
    greatest = std::max(greatest, piece.greatest);
  }
  const std::uint64_t low = to_unsigned(least);
  const int shift = std::max(0, static_cast<int>(std::bit_width(to_unsigned(greatest) - low)) - kBinBits);
  const auto bin_of = [&](std::int64_t value) { return static_cast<std::size_t>((to_unsigned(value) - low) >> shift); };
  for_pieces(values, threads, [&](std::size_t piece, std::span<const std::int64_t> some) {
    for (const std::int64_t value : some) ++pieces[piece].bins[bin_of(value)];
  });
  std::array<std::int64_t, num_bins> bins{};
  for (const Piece& piece : pieces) {
    for (std::size_t bin = 0; bin < num_bins; ++bin) bins[bin] += piece.bins[bin];
  }
  const auto bin_of_rank = [&](std::int64_t rank) {
    std::size_t bin = 0;
    while (rank > bins[bin]) rank -= bins[bin++];
    return bin;
  };
  std::size_t first = num_bins;
  std::size_t last = 0;
  for (const auto& query : queries) {
    const std::size_t bin = bin_of_rank(query.rank);
    first = std::min(first, bin);
    last = std::max(last, bin);
  }
  for_pieces(values, threads, [&](std::size_t piece, std::span<const std::int64_t> some) {
    for (const std::int64_t value : some) {
      if (bin_of(value) - first <= last - first) pieces[piece].left.push_back(value);
    }
  });
  for (const Piece& piece : pieces) left.insert(left.end(), piece.left.begin(), piece.left.end());
  const std::int64_t num_before = std::accumulate(bins.begin(), bins.begin() + first, std::int64_t{0});
  for (auto& query : queries) query.result = nth_element_of(left, query.rank - num_before);
}

/// What one part says of a range: the one value that is left if it holds it, or values up to each pivot and to the end.
void append_counts(const ScratchArray<std::int64_t>& sorted, const SearchRange& range,
                   std::vector<std::int64_t>& counts) {
  const auto first_above = [&](std::uint64_t key) {
    return std::upper_bound(sorted.begin(), sorted.end(), to_signed(key));
  };
  if (range.holds_one()) {
    const auto least = std::lower_bound(sorted.begin(), sorted.end(), to_signed(range.low));
    counts.push_back(least != first_above(range.high) ? *least : 0);
    return;
  }
  for (int j = 0; j < kPivots; ++j) counts.push_back(first_above(range.pivot(j)) - sorted.begin());
  counts.push_back(first_above(range.high) - sorted.begin());
}

/// Narrows a range by the sums over all parts; returns where those of the next range begin.
const std::int64_t* narrow(SearchRange& range, std::int64_t rank, const std::int64_t* sums) {
  if (range.holds_one()) {
    range.low = range.high = to_unsigned(sums[0]);
    return sums + 1;
  }
  const SearchRange before = range;
  const int j = static_cast<int>(std::lower_bound(sums, sums + kPivots, rank) - sums);
  range.num_up_to = sums[j];
  if (j < kPivots) range.high = before.pivot(j);
  if (j > 0) {
    range.low = before.pivot(j - 1) + 1;
    range.num_below = sums[j - 1];
  }
  return sums + kPivots + 1;
}

void answer_merged(std::span<OrderStatisticQuery> queries, Reduction& reduction, ThreadPool& threads) {
  std::vector<ScratchArray<std::int64_t>*> arrays;
  for (const auto& query : queries) arrays.push_back(query.values);
  std::sort(arrays.begin(), arrays.end());
  arrays.erase(std::unique(arrays.begin(), arrays.end()), arrays.end());
  threads.parallel_for(static_cast<std::int64_t>(arrays.size()), [&](std::int64_t i) {
    auto& values = *arrays[static_cast<std::size_t>(i)];
    std::sort(values.begin(), values.end());
  });
  std::vector<SearchRange> ranges;
  for (const auto& query : queries) ranges.push_back({to_unsigned(query.lowest), to_unsigned(query.highest)});
  std::vector<std::int64_t> counts;
  std::vector<std::size_t> open;
  for (;;) {
    open.clear();
    for (std::size_t i = 0; i < queries.size(); ++i) {
      if (ranges[i].low < ranges[i].high) open.push_back(i);
    }
    if (open.empty()) break;
    counts.clear();
    for (const std::size_t i : open) append_counts(*queries[i].values, ranges[i], counts);
    reduction.sum(counts);
    const std::int64_t* of_query = counts.data();
    for (const std::size_t i : open) of_query = narrow(ranges[i], queries[i].rank, of_query);
  }
  for (std::size_t i = 0; i < queries.size(); ++i) queries[i].result = to_signed(ranges[i].low);
}

}  // namespace

void answer(std::span<OrderStatisticQuery> queries, Reduction& reduction, ThreadPool& threads) {
  if (queries.empty()) return;
  if (!reduction.is_local()) {
    answer_merged(queries, reduction, threads);
    return;
  }
  std::vector<std::span<OrderStatisticQuery>> groups;
  for (std::size_t begin = 0; begin < queries.size();) {
    std::size_t end = begin + 1;
    while (end < queries.size() && queries[end].values == queries[begin].values) ++end;
    groups.push_back(queries.subspan(begin, end - begin));
    begin = end;
  }
  threads.parallel_for(static_cast<std::int64_t>(groups.size()),
                       [&](std::int64_t i) { answer_all_of(groups[static_cast<std::size_t>(i)], threads); });
}

std::int64_t nth_smallest(ScratchArray<std::int64_t>& values, std::int64_t rank, ThreadPool& threads) {
  OrderStatisticQuery query{&values, rank, std::numeric_limits<std::int64_t>::min(),
                            std::numeric_limits<std::int64_t>::max(), 0};
  LocalReduction alone;
  answer({&query, 1}, alone, threads);
  return query.result;
}

}  // namespace itop::cpu
