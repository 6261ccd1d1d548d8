#include "itop/random.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <set>
#include <vector>

namespace itop {
namespace {

std::array<std::uint32_t, 4> words_of(const PhiloxBlock& block) {
  return {block.word[0], block.word[1], block.word[2], block.word[3]};
}

// Known answers of Philox 4x32-10 from the authors' Random123 distribution.
TEST(Philox, GivesTheKnownAnswerForZeroes) {
  const auto words = words_of(philox({{0, 0, 0, 0}}, 0, 0));
  EXPECT_EQ(words, (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
}

TEST(Philox, GivesTheKnownAnswerForOnes) {
  const auto words = words_of(philox({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, 0xffffffff, 0xffffffff));
  EXPECT_EQ(words, (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
}

TEST(Philox, GivesTheKnownAnswerForTheDigitsOfPi) {
  const auto words = words_of(philox({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0));
  EXPECT_EQ(words, (std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(TieKey, IsTheCoarseKeyFollowedByFortyEightFineBits) {
  const KeyStream stream{0xFEEDFACECAFEBEEFULL, 3, 7, 11};
  for (std::uint64_t index : {0ULL, 1ULL, 7ULL, 8ULL, 12345ULL, (1ULL << 40) + 5}) {
    const PhiloxBlock coarse = philox(stream.counter_block(index / 8, 0), stream.key0(), stream.key1());
    const PhiloxBlock fine = philox(stream.counter_block(index, 1), stream.key0(), stream.key1());
    const std::uint64_t sixteen = coarse.word[(index % 8) / 2] >> (index % 2 == 0 ? 0 : 16) & 0xFFFF;
    EXPECT_EQ(coarse_key(stream, index), sixteen);
    EXPECT_EQ(tie_key(stream, index), sixteen << 48 | std::uint64_t{fine.word[0]} << 16 | (fine.word[1] & 0xFFFF));
  }
}

TEST(TieKey, ChangesWithSeedLayerUpdateDrawAndIndex) {
  std::set<std::uint64_t> keys;
  const KeyStream base{1, 2, 3, 4};
  keys.insert(tie_key(base, 5));
  keys.insert(tie_key({2, 2, 3, 4}, 5));
  keys.insert(tie_key({1ULL + (1ULL << 32), 2, 3, 4}, 5));
  keys.insert(tie_key({1, 3, 3, 4}, 5));
  keys.insert(tie_key({1, 2, 4, 4}, 5));
  keys.insert(tie_key({1, 2, 3, 5}, 5));
  keys.insert(tie_key(base, 6));
  keys.insert(tie_key(base, 5 + (1ULL << 35)));
  EXPECT_EQ(keys.size(), 8U);
}

TEST(KeyStream, KeepsDrawFineFlagAndCounterApart) {
  const KeyStream stream{0, 10, 20, KeyStream::kMaxDraws - 1};
  const PhiloxBlock block = stream.counter_block((1ULL << 56) - 1, 1);
  EXPECT_EQ(block.word[0], 0xFFFFFFFFU);
  EXPECT_EQ(block.word[1], 0xFFFFFFFFU);  // 7 bits of draw, 1 of fineness, 24 of the counter
  EXPECT_EQ(block.word[2], 10U);
  EXPECT_EQ(block.word[3], 20U);
  EXPECT_EQ(stream.counter_block(0, 0).word[1], 127U << 25);
}

TEST(CoarseKeys, AreUniformOverSixteenBits) {
  const KeyStream stream{42, 0, 0, 0};
  constexpr int kBins = 64;
  constexpr int kDraws = 64 * 4096;
  std::vector<int> histogram(kBins);
  for (std::uint64_t index = 0; index < kDraws; ++index) ++histogram[coarse_key(stream, index) * kBins >> 16];
  double chi_square = 0.0;
  for (const int count : histogram) chi_square += (count - 4096.0) * (count - 4096.0) / 4096.0;
  EXPECT_LT(chi_square, 103.4);  // 63 degrees of freedom, one in a thousand
  EXPECT_GT(chi_square, 33.0);   // and not evenly spread either
}

}  // namespace
}  // namespace itop
