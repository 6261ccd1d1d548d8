#include "itop/compressed_set.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <stdexcept>
#include <vector>

#include "itop/thread_pool.hpp"
#include "support/positions.hpp"

namespace itop {
namespace {

// 600 x 500 positions are five stretches: steps of 2 make bitmaps, of 100 lists of offsets.
TEST(CompressedSet, HoldsTheUnionInBothForms) {
  ThreadPool pool(2);
  const Positions sparse = multiples(600, 500, 100);
  const Positions dense = multiples(600, 500, 2);
  CompressedSet set(600 * 500);
  EXPECT_EQ(set.insert(sparse.list(), pool), 3000);
  EXPECT_EQ(set.insert(sparse.list(), pool), 0);
  EXPECT_TRUE(set.contains_all(sparse.list()));
  EXPECT_FALSE(set.contains_all(dense.list()));
  EXPECT_EQ(indices(set.to_positions(500)), indices(sparse));
  EXPECT_EQ(set.insert(dense.list(), pool), 150000 - 3000);
  EXPECT_EQ(indices(set.to_positions(500)), indices(dense));
  EXPECT_LT(set.num_bytes(), std::size_t{600 * 500 / 8 + 4096});
}

TEST(CompressedSet, ComesBackFromItsBytesAndRefusesOthers) {
  ThreadPool pool(2);
  for (const std::int64_t step : {2, 100}) {
    const Positions positions = multiples(600, 500, step);
    CompressedSet set(600 * 500);
    set.insert(positions.list(), pool);
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

TEST(CompressedSet, RefusesPositionsOfAnotherMatrix) {
  ThreadPool pool(1);
  const Positions positions = multiples(4, 6, 2);
  EXPECT_THROW(CompressedSet(20).insert(positions.list(), pool), std::invalid_argument);
}

// A million rows and columns: a few members far apart, in stretches that come before, between and behind known ones.
TEST(CompressedSet, NeedsMemoryForMembersOnly) {
  constexpr std::int64_t kSide = 1'000'000;
  ThreadPool pool(2);
  CompressedSet set(kSide * kSide);
  EXPECT_EQ(set.num_bytes(), 0U);
  std::set<std::int64_t> expected;
  for (const std::int64_t step : {300'007, 170'003, 90'001}) {
    std::vector<std::int64_t> ascending;
    for (std::int64_t index = step; index < kSide * kSide; index += step * 9'999) ascending.push_back(index);
    const auto count = static_cast<std::int64_t>(ascending.size());
    const Positions positions = positions_of(kSide, kSide, ascending.data(), count, pool);
    const std::size_t before = expected.size();
    expected.insert(ascending.begin(), ascending.end());
    EXPECT_FALSE(set.contains_all(positions.list()));
    EXPECT_EQ(set.insert(positions.list(), pool), static_cast<std::int64_t>(expected.size() - before));
    EXPECT_TRUE(set.contains_all(positions.list()));
  }
  EXPECT_EQ(indices(set.to_positions(kSide)), expected);
  EXPECT_LT(set.num_bytes(), expected.size() * 64);
}

// Members enough that the merge goes by bits, and the list becomes a bitmap on the way.
TEST(CompressedSet, GrowsFromAListToABitmap) {
  ThreadPool pool(1);
  CompressedSet set(300 * 200);
  std::set<std::int64_t> expected;
  for (const std::int64_t step : {997, 101, 41, 17, 11, 7}) {
    const Positions more = multiples(300, 200, step);
    for (const std::int64_t index : indices(more)) expected.insert(index);
    set.insert(more.list(), pool);
    EXPECT_EQ(set.count(), static_cast<std::int64_t>(expected.size()));
    EXPECT_EQ(indices(set.to_positions(200)), expected);
  }
}

}  // namespace
}  // namespace itop
