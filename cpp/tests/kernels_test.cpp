#include "cpu/kernels.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <vector>

#include "itop/ordered_key.hpp"
#include "support/draws.hpp"

namespace itop::cpu {
namespace {

/// Scores and candidates of a segment whose last word is not full, some words without candidates.
struct Segment {
  std::vector<float> scores;
  std::vector<Word> candidates;

  Segment(testing::Draws& draws, std::int64_t numel) : candidates(static_cast<std::size_t>(words_for(numel))) {
    for (std::int64_t i = 0; i < numel; ++i) {
      scores.push_back(static_cast<float>(draws.below(2001) - 1000) / 1000.0F);
      const bool may_be_one = (i / kWordBits) % 5 != 3;
      if (may_be_one && draws.below(10) < 7)
        candidates[static_cast<std::size_t>(i / kWordBits)] |= Word{1} << (i % kWordBits);
    }
  }

  std::int64_t numel() const { return static_cast<std::int64_t>(scores.size()); }
  bool is_candidate(std::int64_t i) const { return test_bit(candidates.data(), i); }
  std::int64_t key(std::int64_t i, const KeyFormat& format) const {
    return OrderedKey32::from_bits(std::bit_cast<std::uint32_t>(scores[static_cast<std::size_t>(i)]), format.transform,
                                   format.order);
  }
};

std::vector<InsideCandidate> by_position(const PassResult& result) {
  std::vector<InsideCandidate> inside(result.inside.begin(), result.inside.end());
  std::sort(inside.begin(), inside.end(), [](const auto& a, const auto& b) { return a.position < b.position; });
  return inside;
}

void expect_same(const std::vector<InsideCandidate>& found, const std::vector<InsideCandidate>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].position, expected[i].position);
    EXPECT_EQ(found[i].key, expected[i].key);
  }
}

TEST(ScorePass, ChoosesWhatLiesBelowABracketAndListsWhatLiesInside) {
  testing::Draws draws(61);
  for (const std::int64_t numel : {1, 63, 64, 300, 64 * 64 * 5 + 17}) {
    for (const ScoreTransform transform : {ScoreTransform::kMagnitude, ScoreTransform::kSigned}) {
      const Segment segment(draws, numel);
      const KeyFormat format{DType::kFloat32, transform, SelectionOrder::kLargest, false};
      std::vector<std::int64_t> keys;
      for (std::int64_t i = 0; i < numel; ++i) keys.push_back(segment.key(i, format));
      std::sort(keys.begin(), keys.end());
      const std::int64_t low = keys[static_cast<std::size_t>(numel / 3)];
      const std::int64_t high = keys[static_cast<std::size_t>(numel / 2)];
      std::vector<Word> expected_chosen(segment.candidates.size());
      std::vector<InsideCandidate> expected_inside;
      for (std::int64_t i = 0; i < numel; ++i) {
        const std::int64_t key = segment.key(i, format);
        if (!segment.is_candidate(i)) continue;
        if (key < low) expected_chosen[static_cast<std::size_t>(i / kWordBits)] |= Word{1} << (i % kWordBits);
        if (key >= low && key <= high) expected_inside.push_back({key, i});
      }
      for (const bool lists_in_order : {false, true}) {
        std::vector<Word> chosen(segment.candidates.size(), ~Word{0});
        ScorePass pass{segment.scores.data(), format, segment.candidates.data(), chosen.data(), low, high, numel,
                       lists_in_order};
        PassResult result;
        kernels().score_pass(pass, {0, words_for(numel), numel}, result);
        EXPECT_EQ(chosen, expected_chosen);
        EXPECT_EQ(result.num_inside, static_cast<std::int64_t>(expected_inside.size()));
        expect_same(by_position(result), expected_inside);
        const bool in_order = std::is_sorted(result.inside.begin(), result.inside.end(),
                                             [](const auto& a, const auto& b) { return a.position < b.position; });
        EXPECT_TRUE(in_order || !lists_in_order);
      }
    }
  }
}

TEST(TiePass, TakesTheTiesBelowABracketOfCoarseKeysAndListsThoseInside) {
  testing::Draws draws(62);
  const KeyStream stream{0x123456789ABCDEF0ULL, 3, 7, 2};
  const std::uint16_t low = 20'000;
  const std::uint16_t high = 23'000;
  for (const std::int64_t numel : {1, 63, 64 * 3 + 5, 64 * 64 * 2 + 17}) {
    const Segment segment(draws, numel);
    // Neighbours that begin anywhere, also where a counter's low half overflows, and rows of a transposed layer.
    for (const IndexMap& map : {IndexMap::contiguous(numel), IndexMap::contiguous(numel, 8 * 77),
                                IndexMap::contiguous(numel, (std::int64_t{8} << 32) - 8 * 100),
                                IndexMap::contiguous(numel, 5), IndexMap{0, {1, 1, 1, numel}, {0, 0, 0, 3}}}) {
      std::vector<Word> expected_chosen(segment.candidates.size());
      std::vector<InsideCandidate> expected_inside;
      std::int64_t num_below = 0;
      for (std::int64_t i = 0; i < numel; ++i) {
        if (!segment.is_candidate(i)) continue;
        const std::int64_t key = coarse_key(stream, static_cast<std::uint64_t>(map(i)));
        if (key < low) {
          expected_chosen[static_cast<std::size_t>(i / kWordBits)] |= Word{1} << (i % kWordBits);
          ++num_below;
        }
        if (key >= low && key <= high) expected_inside.push_back({key, i});
      }
      TiePass pass;
      std::vector<Word> chosen(segment.candidates.size(), ~Word{0});
      pass.candidates = segment.candidates.data();
      pass.chosen = chosen.data();
      pass.low = low;
      pass.high = high;
      pass.index_map = map;
      pass.stream = stream;
      PassResult result;
      kernels().tie_pass(pass, {0, words_for(numel), numel}, result);
      EXPECT_EQ(chosen, expected_chosen);
      EXPECT_EQ(result.num_below, num_below);
      EXPECT_EQ(result.num_inside, static_cast<std::int64_t>(expected_inside.size()));
      expect_same(by_position(result), expected_inside);
    }
  }
}

TEST(TiePass, AddsTiesOfAScoreToWhatIsChosen) {
  const std::int64_t numel = 64 * 3;
  std::vector<float> scores(static_cast<std::size_t>(numel), 0.0F);
  for (std::int64_t i = 0; i < numel; i += 2) scores[static_cast<std::size_t>(i)] = 1.0F;
  const std::vector<Word> candidates(3, ~Word{0});
  std::vector<Word> chosen(3, 1);
  TiePass pass;
  pass.scores = scores.data();
  pass.candidates = candidates.data();
  pass.chosen = chosen.data();
  pass.key = OrderedKey32::from_bits(0, ScoreTransform::kMagnitude, SelectionOrder::kLargest);
  pass.low = std::numeric_limits<std::uint16_t>::max();
  pass.high = pass.low;
  pass.index_map = IndexMap::contiguous(numel);
  PassResult result;
  kernels().tie_pass(pass, {0, 3, numel}, result);
  EXPECT_EQ(chosen, std::vector<Word>(3, 0xAAAAAAAAAAAAAAABULL));
  EXPECT_EQ(result.num_below, numel / 2);
}

TEST(AppendKeys, GivesTheKeysOfTheCandidatesAtThePlaces) {
  testing::Draws draws(63);
  const Segment segment(draws, 64 * 40);
  const KeyFormat format{DType::kFloat32, ScoreTransform::kMagnitude, SelectionOrder::kSmallest, false};
  std::vector<PartOfWord> places;
  for (std::int64_t word = 0; word < 40; word += 1 + draws.below(2)) {
    places.push_back({word, draws.below(2) == 0 ? ~Word{0} : Word{0xFFFF} << (16 * draws.below(4))});
  }
  std::vector<std::int64_t> expected;
  for (const auto& [word, bits] : places) {
    for (std::int64_t bit = 0; bit < kWordBits; ++bit) {
      const std::int64_t i = word * kWordBits + bit;
      if (((bits >> bit) & 1U) != 0 && segment.is_candidate(i)) expected.push_back(segment.key(i, format));
    }
  }
  ScratchArray<std::int64_t> keys;
  kernels().append_keys(segment.scores.data(), format, segment.candidates.data(), places, keys);
  EXPECT_EQ(std::vector<std::int64_t>(keys.begin(), keys.end()), expected);
}

}  // namespace
}  // namespace itop::cpu
