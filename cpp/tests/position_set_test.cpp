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
  EXPECT_THROW(CompressedSet(20).insert(a.list()), std::invalid_argument);
}

// 600 x 500 positions are five stretches: steps of 2 make bitmaps, of 100 lists of offsets.
TEST(CompressedSet, HoldsTheUnionInBothForms) {
  const Positions sparse = multiples(600, 500, 100);
  const Positions dense = multiples(600, 500, 2);
  CompressedSet set(600 * 500);
  EXPECT_EQ(set.insert(sparse.list()), 3000);
  EXPECT_EQ(set.insert(sparse.list()), 0);
  EXPECT_TRUE(set.contains_all(sparse.list()));
  EXPECT_FALSE(set.contains_all(dense.list()));
  EXPECT_EQ(indices(set.to_positions(500)), indices(sparse));
  EXPECT_EQ(set.insert(dense.list()), 150000 - 3000);
  EXPECT_EQ(indices(set.to_positions(500)), indices(dense));
  EXPECT_LT(set.num_bytes(), std::size_t{600 * 500 / 8 + 4096});
}

TEST(CompressedSet, ComesBackFromItsBytesAndRefusesOthers) {
  for (const std::int64_t step : {2, 100}) {
    const Positions positions = multiples(600, 500, step);
    CompressedSet set(600 * 500);
    set.insert(positions.list());
    std::vector<std::uint8_t> bytes = set.to_bytes();
    const CompressedSet back = CompressedSet::from_bytes(600 * 500, bytes.data(), bytes.size());
    EXPECT_EQ(back.count(), set.count());
    EXPECT_EQ(indices(back.to_positions(500)), indices(positions));
    EXPECT_THROW(CompressedSet::from_bytes(600 * 500, bytes.data(), bytes.size() - 1), std::invalid_argument);
    EXPECT_THROW(CompressedSet::from_bytes(600 * 500 - 70000, bytes.data(), bytes.size()), std::invalid_argument);
    bytes[0] ^= 1;  // a count
    EXPECT_THROW(CompressedSet::from_bytes(600 * 500, bytes.data(), bytes.size()), std::invalid_argument);
  }
}

TEST(CompressedSet, NeedsNoMemoryForWhatIsNotThere) {
  CompressedSet set(std::int64_t{1} << 36);
  EXPECT_EQ(set.count(), 0);
  EXPECT_LT(set.num_bytes(), std::size_t{64} << 20);
}

}  // namespace
}  // namespace itop
