#include "itop/bitset.hpp"

#include <gtest/gtest.h>

#include <array>

namespace itop {
namespace {

TEST(BitSet, NeedsOneWordForEverySixtyFourBitsBegun) {
  EXPECT_EQ(words_for(0), 0);
  EXPECT_EQ(words_for(1), 1);
  EXPECT_EQ(words_for(64), 1);
  EXPECT_EQ(words_for(65), 2);
  EXPECT_EQ(words_for(128), 2);
}

TEST(BitSet, HasValidBitsUpToTheLastWeightOnly) {
  EXPECT_EQ(valid_bits(0, 64), ~Word{0});
  EXPECT_EQ(valid_bits(0, 63), ~Word{0} >> 1);
  EXPECT_EQ(valid_bits(0, 1), Word{1});
  EXPECT_EQ(valid_bits(1, 65), Word{1});
  EXPECT_EQ(valid_bits(1, 64), Word{0});
  EXPECT_EQ(valid_bits(5, 64), Word{0});
  EXPECT_EQ(valid_bits(0, 0), Word{0});
}

TEST(BitSet, KeepsWeightIInBitIModulo64OfWordIOver64) {
  const std::array<Word, 2> words{Word{1} << 63, Word{0b100}};
  EXPECT_TRUE(test_bit(words.data(), 63));
  EXPECT_TRUE(test_bit(words.data(), 66));
  EXPECT_FALSE(test_bit(words.data(), 0));
  EXPECT_FALSE(test_bit(words.data(), 62));
  EXPECT_FALSE(test_bit(words.data(), 64));
}

}  // namespace
}  // namespace itop
