#include "cpu/order_statistics.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "support/draws.hpp"
#include "support/parts.hpp"

namespace itop::cpu {
namespace {

constexpr std::int64_t kLowest = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kHighest = std::numeric_limits<std::int64_t>::max();

std::vector<std::int64_t> values_of(testing::Draws& draws, std::int64_t n, std::int64_t distinct) {
  std::vector<std::int64_t> values;
  for (std::int64_t i = 0; i < n; ++i) values.push_back(draws.below(distinct) - distinct / 2);
  return values;
}

ScratchArray<std::int64_t> scratch_of(const std::vector<std::int64_t>& values) {
  ScratchArray<std::int64_t> array;
  for (const std::int64_t value : values) array.push_back(value);
  return array;
}

TEST(OrderStatistics, AreThoseOfTheSortedValues) {
  ThreadPool threads(2);
  LocalReduction local;
  testing::Draws draws(51);
  for (const std::int64_t n : {1, 2, 10, 1'000, 10'000}) {
    for (const std::int64_t distinct : {std::int64_t{1}, std::int64_t{100}, std::int64_t{1} << 62}) {
      auto sorted = values_of(draws, n, distinct);
      auto values = scratch_of(sorted);
      auto others = scratch_of({7});
      std::sort(sorted.begin(), sorted.end());
      std::vector<OrderStatisticQuery> queries;
      for (const std::int64_t rank : {std::int64_t{1}, (n + 1) / 2, n}) {
        queries.push_back({&values, rank, kLowest, kHighest, 0});
      }
      queries.push_back({&others, 1, kLowest, kHighest, 0});
      answer(queries, local, threads);
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(queries[i].result, sorted[static_cast<std::size_t>(queries[i].rank - 1)]);
      }
      EXPECT_EQ(queries[3].result, 7);
    }
  }
}

TEST(OrderStatistics, AreFoundOverPartsOfWhichSomeAreEmpty) {
  testing::Draws draws(52);
  for (const std::int64_t distinct : {std::int64_t{1}, std::int64_t{5}, std::int64_t{1} << 62}) {
    std::vector<std::vector<std::int64_t>> of_part{values_of(draws, 300, distinct), {}, values_of(draws, 7, distinct)};
    of_part[0].push_back(kLowest);
    of_part[2].push_back(kHighest);
    std::vector<std::int64_t> sorted;
    for (const auto& values : of_part) sorted.insert(sorted.end(), values.begin(), values.end());
    std::sort(sorted.begin(), sorted.end());
    for (const std::int64_t rank : {1, 2, 150, 308, 309}) {
      testing::Parts parts(3);
      std::vector<std::int64_t> results(3);
      parts.run([&](std::size_t part, Reduction& reduction) {
        ThreadPool threads(1);
        auto values = scratch_of(of_part[part]);
        std::vector<OrderStatisticQuery> queries{{&values, rank, kLowest, kHighest, 0}};
        answer(queries, reduction, threads);
        results[part] = queries[0].result;
      });
      EXPECT_EQ(results, std::vector<std::int64_t>(3, sorted[static_cast<std::size_t>(rank - 1)]));
      EXPECT_LE(parts.num_sums(), 17);  // sixteen-fold narrowing of 64 bits
    }
  }
}

TEST(OrderStatistics, OfScatteredValuesNeedFewRounds) {
  testing::Draws draws(53);
  std::vector<std::vector<std::int64_t>> of_part{values_of(draws, 500, std::int64_t{1} << 62),
                                                 values_of(draws, 500, std::int64_t{1} << 62)};
  std::vector<std::int64_t> sorted;
  for (const auto& values : of_part) sorted.insert(sorted.end(), values.begin(), values.end());
  std::sort(sorted.begin(), sorted.end());
  for (const std::int64_t rank : {1, 400, 1'000}) {
    testing::Parts parts(2);
    parts.run([&](std::size_t part, Reduction& reduction) {
      ThreadPool threads(1);
      auto values = scratch_of(of_part[part]);
      std::vector<OrderStatisticQuery> queries{{&values, rank, kLowest, kHighest, 0}};
      answer(queries, reduction, threads);
      EXPECT_EQ(queries[0].result, sorted[static_cast<std::size_t>(rank - 1)]);
    });
    EXPECT_LE(parts.num_sums(), 6);  // a thousand values stand apart after three or four cuts into sixteen
  }
}

}  // namespace
}  // namespace itop::cpu
