#include "itop/compressed_set.hpp"

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

// 600 x 500 positions are five stretches: steps of 2 make bitmaps, of 100 lists of offsets.
TEST(CompressedSet, HoldsTheUnionInBothForms) {
  const Positions sparse = multiples(600, 500, 100);
  const Positions dense = multiples(600, 500, 2);
  ThreadPool pool(2);
  CompressedSet set(600 * 500);
  EXPECT_EQ(set.insert(sparse.list(), pool), 3000);
  EXPECT_EQ(set.insert(sparse.list(), pool), 0);
  EXPECT_TRUE(set.contains_all(sparse.list()));
  EXPECT_FALSE(set.contains_all(dense.list()));
  EXPECT_EQ(indices(set.to_positions(500, pool)), indices(sparse));
  EXPECT_EQ(set.insert(dense.list(), pool), 150000 - 3000);
  EXPECT_EQ(indices(set.to_positions(500, pool)), indices(dense));
  EXPECT_LT(set.num_bytes(), std::size_t{600 * 500 / 8 + 4096});
  EXPECT_EQ(set.insert(multiples(600, 500, 3).list(), pool), 50000);
  EXPECT_TRUE(set.contains_all(multiples(600, 500, 3).list()));
  EXPECT_FALSE(set.contains_all(multiples(600, 500, 5).list()));
}

/// A few positions all over a huge matrix, some of them at the ends of rows.
Positions scattered(std::int64_t rows, std::int64_t columns, std::int64_t every, std::int64_t seed) {
  Positions positions{rows, columns, {}, {}};
  positions.row_pointers.push_back(0);
  for (std::int64_t row = 0; row < rows; ++row) {
    if (row % every == 0) {
      const std::int64_t middle = (row * 7919 + seed * 104729) % columns;
      if (middle > 0) positions.columns.push_back(0);
      positions.columns.push_back(static_cast<std::int32_t>(middle));
      if (middle < columns - 1) positions.columns.push_back(static_cast<std::int32_t>(columns - 1));
    }
    positions.row_pointers.push_back(static_cast<std::int64_t>(positions.columns.size()));
  }
  return positions;
}

// 3,000 x 300,007 are 9 * 10^8 positions: fourteen groups of stretches, whose borders lie inside rows.
TEST(CompressedSet, IsTheSameWhateverTheThreadsAndInWhateverOrder) {
  const Positions a = scattered(3000, 300007, 3, 1);
  const Positions b = scattered(3000, 300007, 2, 2);
  std::set<std::int64_t> expected = indices(a);
  expected.merge(indices(b));
  std::vector<std::uint8_t> first;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (const bool a_first : {true, false}) {
      CompressedSet set(std::int64_t{3000} * 300007);
      std::int64_t num_new = set.insert((a_first ? a : b).list(), pool);
      num_new += set.insert((a_first ? b : a).list(), pool);
      EXPECT_EQ(num_new, static_cast<std::int64_t>(expected.size()));
      EXPECT_EQ(indices(set.to_positions(300007, pool)), expected);
      EXPECT_TRUE(set.contains_all(a.list()) && set.contains_all(b.list()));
      EXPECT_FALSE(set.contains_all(scattered(3000, 300007, 1, 1).list()));
      if (first.empty()) first = set.to_bytes();
      EXPECT_EQ(set.to_bytes(), first);
    }
  }
}

TEST(CompressedSet, ComesBackFromItsBytesAndRefusesOthers) {
  ThreadPool pool(2);
  // A stretch's members are bits in memory and in the bytes, a list in both, and with a step of 25 bits in memory only.
  for (const std::int64_t step : {2, 25, 100}) {
    const Positions positions = multiples(600, 500, step);
    CompressedSet set(600 * 500);
    set.insert(positions.list(), pool);
    const std::vector<std::uint8_t> bytes = set.to_bytes();
    const CompressedSet back = CompressedSet::from_bytes(600 * 500, bytes.data(), bytes.size());
    EXPECT_EQ(back.count(), set.count());
    EXPECT_EQ(indices(back.to_positions(500, pool)), indices(positions));
    EXPECT_EQ(back.to_bytes(), bytes);
    CompressedSet grown = CompressedSet::from_bytes(600 * 500, bytes.data(), bytes.size());
    EXPECT_EQ(grown.insert(positions.list(), pool), 0);
    EXPECT_EQ(grown.to_bytes(), bytes);
    EXPECT_THROW(CompressedSet::from_bytes(600 * 500, bytes.data(), bytes.size() - 1), std::invalid_argument);
    EXPECT_THROW(CompressedSet::from_bytes(600 * 500 - 70000, bytes.data(), bytes.size()), std::invalid_argument);
    // The number of stretches, a count, a stretch's number, the contents of the last stretch.
    for (const std::size_t damaged :
         {std::size_t{0}, std::size_t{7}, std::size_t{8}, std::size_t{18}, bytes.size() - 1}) {
      std::vector<std::uint8_t> wrong = bytes;
      wrong[damaged] ^= 0x7f;
      EXPECT_THROW(CompressedSet::from_bytes(600 * 500, wrong.data(), wrong.size()), std::invalid_argument) << damaged;
    }
  }
  const CompressedSet nothing(1000);
  const std::vector<std::uint8_t> bytes = nothing.to_bytes();
  EXPECT_EQ(CompressedSet::from_bytes(1000, bytes.data(), bytes.size()).count(), 0);
  EXPECT_THROW(CompressedSet::from_bytes(1000, bytes.data(), 7), std::invalid_argument);
}

TEST(CompressedSet, NeedsMemoryForItsMembersOnly) {
  ThreadPool pool(2);
  CompressedSet nothing(std::int64_t{1} << 40);
  EXPECT_EQ(nothing.count(), 0);
  EXPECT_LT(nothing.num_bytes(), std::size_t{2} << 20);
  // A member in each of 20,000 stretches: two bytes and a word that says where.
  CompressedSet set(std::int64_t{20000} * 1000000);
  const Positions lonely = multiples(20000, 1, 1);
  const PositionList spread{20000, 1000000, lonely.row_pointers.data(), lonely.columns.data()};
  EXPECT_EQ(set.insert(spread, pool), 20000);
  EXPECT_LT(set.num_bytes(), std::size_t{20000 * 6 + 300 * 64});
}

}  // namespace
}  // namespace itop
