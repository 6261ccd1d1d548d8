#include "cpu/order_statistics.hpp"

#include <algorithm>

namespace itop::cpu {
namespace {

constexpr int kPivots = 15;

std::uint64_t to_unsigned(std::int64_t value) { return static_cast<std::uint64_t>(value) ^ (std::uint64_t{1} << 63); }
std::int64_t to_signed(std::uint64_t value) { return static_cast<std::int64_t>(value ^ (std::uint64_t{1} << 63)); }

/// The answer lies in [low, high]; pivot j cuts that range into sixteen.
struct SearchRange {
  std::uint64_t low;
  std::uint64_t high;

  std::uint64_t pivot(int j) const {
    const std::uint64_t width = high - low;
    const std::uint64_t step = width / (kPivots + 1);
    const std::uint64_t rest = width % (kPivots + 1);
    const auto cut = static_cast<std::uint64_t>(j + 1);
    return low + step * cut + rest * cut / (kPivots + 1);
  }
};

void answer_merged(std::span<OrderStatisticQuery> queries, Reduction& reduction, ThreadPool& threads) {
  threads.parallel_for(static_cast<std::int64_t>(queries.size()), [&](std::int64_t i) {
    auto& values = *queries[static_cast<std::size_t>(i)].values;
    if (!std::is_sorted(values.begin(), values.end())) std::sort(values.begin(), values.end());
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
    counts.assign(open.size() * kPivots, 0);
    for (std::size_t slot = 0; slot < open.size(); ++slot) {
      const auto& values = *queries[open[slot]].values;
      for (int j = 0; j < kPivots; ++j) {
        const std::int64_t pivot = to_signed(ranges[open[slot]].pivot(j));
        counts[slot * kPivots + static_cast<std::size_t>(j)] =
            std::upper_bound(values.begin(), values.end(), pivot) - values.begin();
      }
    }
    reduction.sum(counts);
    for (std::size_t slot = 0; slot < open.size(); ++slot) {
      SearchRange& range = ranges[open[slot]];
      const SearchRange before = range;
      const std::int64_t* up_to = counts.data() + slot * kPivots;
      const int j = static_cast<int>(std::lower_bound(up_to, up_to + kPivots, queries[open[slot]].rank) - up_to);
      if (j < kPivots) range.high = before.pivot(j);
      if (j > 0) range.low = before.pivot(j - 1) + 1;
    }
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
  threads.parallel_for(static_cast<std::int64_t>(queries.size()), [&](std::int64_t i) {
    auto& query = queries[static_cast<std::size_t>(i)];
    const auto wanted = query.values->begin() + (query.rank - 1);
    std::nth_element(query.values->begin(), wanted, query.values->end());
    query.result = *wanted;
  });
}

}  // namespace itop::cpu
