#include "itop/position_set.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <set>
#include <stdexcept>
#include <vector>

#include "itop/thread_pool.hpp"
#include "support/positions.hpp"

namespace itop {
namespace {

TEST(PositionSet, CombinesAsSetsDoWhateverTheThreads) {
  const Positions a = multiples(700, 13, 2);
  const Positions b = multiples(700, 13, 3);
  const auto of_a = indices(a);
  const auto of_b = indices(b);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    std::set<std::int64_t> expected = of_a;
    expected.insert(of_b.begin(), of_b.end());
    EXPECT_EQ(indices(combine(a.list(), b.list(), SetOperation::kUnion, pool)), expected);
    EXPECT_EQ(indices(combine(a.list(), b.list(), SetOperation::kIntersection, pool)), indices(multiples(700, 13, 6)));
    expected.clear();
    std::set_difference(of_a.begin(), of_a.end(), of_b.begin(), of_b.end(), std::inserter(expected, expected.end()));
    EXPECT_EQ(indices(combine(a.list(), b.list(), SetOperation::kDifference, pool)), expected);
  }
}

TEST(PositionSet, MembersFilterToTheIntersection) {
  ThreadPool pool(2);
  const Positions a = multiples(300, 7, 2);
  const Positions b = multiples(300, 7, 5);
  std::vector<std::uint8_t> is_member(a.columns.size());
  find_members(a.list(), b.list(), is_member.data(), pool);
  EXPECT_EQ(indices(filter(a.list(), is_member.data(), pool)), indices(multiples(300, 7, 10)));
}

TEST(PositionSet, RefusesSetsOfDifferentMatrices) {
  ThreadPool pool(1);
  const Positions a = multiples(4, 6, 2);
  const Positions b = multiples(6, 4, 2);
  EXPECT_THROW(combine(a.list(), b.list(), SetOperation::kUnion, pool), std::invalid_argument);
}

TEST(PositionSet, ComesFromAscendingIndicesAndRefusesOthers) {
  const Positions all = multiples(700, 9, 4);
  std::vector<std::int64_t> ascending;
  for (const std::int64_t index : indices(all)) ascending.push_back(index);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const auto count = static_cast<std::int64_t>(ascending.size());
    const Positions back = positions_of(700, 9, ascending.data(), count, pool);
    EXPECT_EQ(indices(back), indices(all));
    EXPECT_EQ(back.row_pointers.back(), count);
    EXPECT_THROW(positions_of(600, 9, ascending.data(), count, pool), std::invalid_argument);
    std::vector<std::int64_t> wrong = ascending;
    std::swap(wrong[700], wrong[701]);
    EXPECT_THROW(positions_of(700, 9, wrong.data(), count, pool), std::invalid_argument);
  }
}

TEST(PositionSet, FiltersRowsSharedOutOverThreads) {
  const Positions all = multiples(5000, 60, 3);
  std::vector<std::uint8_t> is_member;
  std::set<std::int64_t> expected;
  for (const std::int64_t index : indices(all)) {
    is_member.push_back(index % 4 == 0 ? 1 : 0);
    if (is_member.back() != 0) expected.insert(index);
  }
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    EXPECT_EQ(indices(filter(all.list(), is_member.data(), pool)), expected);
  }
}

}  // namespace
}  // namespace itop
