#include "itop/position_set.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <set>
#include <stdexcept>
#include <vector>

#include "itop/thread_pool.hpp"

namespace itop {
namespace {

/// The multiples of `step` in a matrix.
Positions multiples(std::int64_t rows, std::int64_t columns, std::int64_t step) {
  Positions positions{rows, columns, {0}, {}};
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      if ((row * columns + column) % step == 0) positions.columns.push_back(static_cast<std::int32_t>(column));
    }
    positions.row_pointers.push_back(static_cast<std::int64_t>(positions.columns.size()));
  }
  return positions;
}

std::set<std::int64_t> indices(const Positions& positions) {
  std::set<std::int64_t> result;
  for (std::int64_t row = 0; row < positions.num_rows; ++row) {
    for (auto entry = positions.row_pointers[static_cast<std::size_t>(row)];
         entry < positions.row_pointers[static_cast<std::size_t>(row) + 1]; ++entry) {
      result.insert(row * positions.num_columns + positions.columns[static_cast<std::size_t>(entry)]);
    }
  }
  return result;
}

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

}  // namespace
}  // namespace itop
