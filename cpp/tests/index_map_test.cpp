#include "itop/index_map.hpp"

#include <gtest/gtest.h>

namespace itop {
namespace {

TEST(IndexMap, OfAPlainLayerIsTheIdentity) {
  const IndexMap map = IndexMap::contiguous(100);
  EXPECT_TRUE(map.is_contiguous());
  EXPECT_EQ(map.numel(), 100);
  for (std::int64_t i = 0; i < 100; ++i) EXPECT_EQ(map(i), i);
}

TEST(IndexMap, OfAnEmptyLayerCoversNothing) { EXPECT_EQ(IndexMap::contiguous(0).numel(), 0); }

TEST(IndexMap, OfAShardOfRowsAddsWhereTheShardBegins) {
  const IndexMap map = IndexMap::contiguous(20, 300);
  EXPECT_TRUE(map.is_contiguous());
  EXPECT_EQ(map(0), 300);
  EXPECT_EQ(map(19), 319);
}

TEST(IndexMap, OfAShardOfColumnsStepsOverTheOtherColumns) {
  // Columns 2 and 3 of a [3, 5] layer.
  const IndexMap map{2, {1, 1, 3, 2}, {0, 0, 5, 1}};
  EXPECT_FALSE(map.is_contiguous());
  const std::int64_t expected[] = {2, 3, 7, 8, 12, 13};
  for (std::int64_t i = 0; i < 6; ++i) EXPECT_EQ(map(i), expected[i]);
}

TEST(IndexMap, OfAChannelsLastTensorFollowsTheLogicalShape) {
  // Logical [out 2, in 3, height 2, width 2], stored out, height, width, in.
  constexpr std::int64_t kIn = 3, kHeight = 2, kWidth = 2;
  const IndexMap map{0, {2, kHeight, kWidth, kIn}, {kIn * kHeight * kWidth, kWidth, 1, kHeight * kWidth}};
  EXPECT_EQ(map.numel(), 24);
  std::int64_t position = 0;
  for (std::int64_t out = 0; out < 2; ++out) {
    for (std::int64_t row = 0; row < kHeight; ++row) {
      for (std::int64_t column = 0; column < kWidth; ++column) {
        for (std::int64_t in = 0; in < kIn; ++in) {
          EXPECT_EQ(map(position++), ((out * kIn + in) * kHeight + row) * kWidth + column);
        }
      }
    }
  }
}

}  // namespace
}  // namespace itop
