#include "itop/patterns.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

namespace itop {
namespace {

std::vector<float> some_values(std::int64_t count, bool with_ties) {
  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = with_ties ? std::round(normal(generator) * 2.0F) : normal(generator);
  return values;
}

std::vector<Word> some_bits(std::int64_t count, unsigned percent) {
  std::mt19937 generator(percent);
  std::vector<Word> words(static_cast<std::size_t>(words_for(count) + 1));
  for (std::int64_t i = 0; i < count; ++i) {
    if (generator() % 100 < percent) words[static_cast<std::size_t>(i / kWordBits)] |= Word{1} << (i % kWordBits);
  }
  return words;
}

/// Sorts each group whole.
std::vector<Word> best_by_sorting(const GroupSelection& selection, ScoreTransform transform, SelectionOrder order) {
  std::vector<Word> chosen(static_cast<std::size_t>(words_for(selection.num_rows * selection.num_columns)));
  for (std::int64_t row = 0; row < selection.num_rows; ++row) {
    for (std::int64_t group = 0; group < selection.num_groups(); ++group) {
      std::vector<std::pair<float, std::int64_t>> entries;
      std::int64_t k = selection.targets[row * selection.num_groups() + group];
      const std::int64_t end = std::min((group + 1) * selection.group_size, selection.num_columns);
      for (std::int64_t column = group * selection.group_size; column < end; ++column) {
        const std::int64_t i = row * selection.num_columns + column;
        if (selection.present != nullptr && test_bit(selection.present, i)) --k;
        if (!test_bit(selection.candidates, i)) continue;
        float score = selection.scores[i];
        if (transform == ScoreTransform::kMagnitude) score = std::fabs(score);
        entries.emplace_back(order == SelectionOrder::kLargest ? -score : score, i);
      }
      std::sort(entries.begin(), entries.end());
      for (std::int64_t place = 0; place < std::min<std::int64_t>(k, std::ssize(entries)); ++place) {
        const std::int64_t i = entries[static_cast<std::size_t>(place)].second;
        chosen[static_cast<std::size_t>(i / kWordBits)] |= Word{1} << (i % kWordBits);
      }
    }
  }
  return chosen;
}

class GroupsOf : public ::testing::TestWithParam<std::tuple<std::int64_t, std::int64_t, ScoreTransform, bool, bool>> {};

TEST_P(GroupsOf, AreSelectedAsSortingEachWouldSelect) {
  const auto [columns, size, transform, largest, ties] = GetParam();
  const std::int64_t rows = 37;
  const auto order = largest ? SelectionOrder::kLargest : SelectionOrder::kSmallest;
  const std::vector<float> scores = some_values(rows * columns, ties);
  const std::vector<Word> candidates = some_bits(rows * columns, 80);
  const std::vector<Word> present = some_bits(rows * columns, 5);
  GroupSelection selection{rows, columns, size, scores.data(), candidates.data(), present.data(), nullptr, nullptr};
  std::vector<std::int32_t> targets(static_cast<std::size_t>(rows * selection.num_groups()));
  for (std::size_t i = 0; i < targets.size(); ++i) {
    targets[i] = static_cast<std::int32_t>(i % 5) * static_cast<std::int32_t>(std::min(size, columns)) / 8;
  }
  std::vector<Word> chosen(static_cast<std::size_t>(words_for(rows * columns)));
  selection.targets = targets.data();
  selection.chosen = chosen.data();
  for (const int num_threads : {1, 3}) {
    std::fill(chosen.begin(), chosen.end(), Word{0});
    ThreadPool threads(num_threads);
    EXPECT_EQ(select_in_groups({&selection, 1}, transform, order, threads), 1u);
    EXPECT_EQ(chosen, best_by_sorting(selection, transform, order));
  }
}

INSTANTIATE_TEST_SUITE_P(EveryShape, GroupsOf,
                         ::testing::Values(std::tuple{64, 16, ScoreTransform::kMagnitude, true, false},
                                           std::tuple{147, 16, ScoreTransform::kMagnitude, true, true},
                                           std::tuple{147, 16, ScoreTransform::kSigned, false, true},
                                           std::tuple{61, 64, ScoreTransform::kSigned, true, false},
                                           std::tuple{5000, 5000, ScoreTransform::kMagnitude, true, false},
                                           std::tuple{5000, 5000, ScoreTransform::kMagnitude, false, true},
                                           std::tuple{1153, 1153, ScoreTransform::kSigned, true, true},
                                           std::tuple{1153, 700, ScoreTransform::kSigned, false, false},
                                           std::tuple{1, 1, ScoreTransform::kMagnitude, true, false}));

TEST(Groups, SayWhoseScoresAreNotFinite) {
  std::vector<float> good(8, 1.0F);
  for (const std::int64_t size : {4, 400}) {
    std::vector<float> bad(static_cast<std::size_t>(size), 1.0F);
    bad[2] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<Word> all = some_bits(size, 100);
    const std::vector<std::int32_t> targets(8, 1);
    std::vector<Word> chosen(16);
    ThreadPool threads(1);
    const GroupSelection fine{2, 4, 4, good.data(), all.data(), nullptr, targets.data(), chosen.data()};
    const GroupSelection wrong{1, size, size, bad.data(), all.data(), nullptr, targets.data(), chosen.data() + 1};
    const std::vector<GroupSelection> both{fine, wrong};
    EXPECT_EQ(select_in_groups(both, ScoreTransform::kMagnitude, SelectionOrder::kLargest, threads), 1u);
  }
}

TEST(Blocks, AreSummedMarkedAndSpreadAsEachWeightSays) {
  for (const auto& [rows, columns, height, width] :
       {std::tuple{8, 8, 4, 4}, std::tuple{13, 147, 4, 4}, std::tuple{70, 130, 3, 100}, std::tuple{5, 3, 7, 1}}) {
    const BlockGrid grid{rows, columns, height, width};
    const std::vector<float> values = some_values(rows * columns, true);
    const std::vector<Word> bits = some_bits(rows * columns, 4);
    std::vector<double> sums(static_cast<std::size_t>(grid.num_blocks()));
    std::vector<bool> any(sums.size());
    for (std::int64_t i = 0; i < rows * columns; ++i) {
      const auto block = static_cast<std::size_t>(i / columns / height * grid.grid_columns() + i % columns / width);
      sums[block] += std::fabs(values[static_cast<std::size_t>(i)]);
      any[block] = any[block] || test_bit(bits.data(), i);
    }
    ThreadPool threads(2);
    std::vector<float> summed(sums.size());
    block_sums(grid, values.data(), ScoreTransform::kMagnitude, summed.data(), threads);
    std::vector<Word> blocks(static_cast<std::size_t>(words_for(grid.num_blocks())) + 1, ~Word{0});
    blocks_with_any(grid, bits.data(), blocks.data(), threads);
    std::vector<Word> weights(static_cast<std::size_t>(words_for(rows * columns)), ~Word{0});
    weights_of_blocks(grid, blocks.data(), weights.data(), threads);
    for (std::size_t block = 0; block < sums.size(); ++block) {
      EXPECT_EQ(summed[block], sums[block]);
      EXPECT_EQ(test_bit(blocks.data(), static_cast<std::int64_t>(block)), any[block]);
    }
    for (std::int64_t i = 0; i < rows * columns; ++i) {
      const auto block = static_cast<std::size_t>(i / columns / height * grid.grid_columns() + i % columns / width);
      EXPECT_EQ(test_bit(weights.data(), i), any[block]);
    }
    EXPECT_EQ(weights.back() & ~valid_bits(static_cast<std::int64_t>(weights.size()) - 1, rows * columns), 0u);
  }
}

TEST(Patterns, CompareAsFloatsDo) {
  const std::int64_t numel = 1000;
  std::vector<float> values = some_values(numel, true);
  values[3] = -0.0F;
  std::vector<Word> bits(static_cast<std::size_t>(words_for(numel)));
  ThreadPool threads(1);
  for (const bool greater : {false, true}) {
    for (const auto transform : {ScoreTransform::kSigned, ScoreTransform::kMagnitude}) {
      for (const float limit : {0.0F, 1.0F, -0.5F}) {
        compare_with(values.data(), numel, transform, greater, limit, bits.data(), threads);
        for (std::int64_t i = 0; i < numel; ++i) {
          float value = values[static_cast<std::size_t>(i)];
          if (transform == ScoreTransform::kMagnitude) value = std::fabs(value);
          EXPECT_EQ(test_bit(bits.data(), i), greater ? value > limit : value < limit) << value << " and " << limit;
        }
      }
    }
  }
}

TEST(Patterns, SumsOfMagnitudesAreExactForEveryExponent) {
  const std::vector<float> values{1.0F, -1.5F, 3.0e38F, 1.0e-45F, -3.0e-41F, 1.17549435e-38F, 0.0F, 7.0F};
  const Word set = 0x7F;  // all but the last
  std::vector<std::int64_t> sums(static_cast<std::size_t>(kNumExponents));
  ThreadPool threads(1);
  sum_magnitudes(&set, values.data(), std::ssize(values), sums.data(), threads);
  std::vector<std::int64_t> expected(sums.size());
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    int exponent = 0;
    const double mantissa = std::frexp(static_cast<double>(std::fabs(values[i])), &exponent);
    if (mantissa != 0.0) expected[static_cast<std::size_t>(exponent + 148)] += std::llround(std::ldexp(mantissa, 24));
  }
  EXPECT_EQ(sums, expected);
}

TEST(Patterns, TheSmallestMagnitudeIsThatOfTheSet) {
  ThreadPool threads(3);
  std::vector<float> values(100'000, 2.0F);
  std::vector<Word> set(static_cast<std::size_t>(words_for(std::ssize(values))), ~Word{0});
  set.back() = valid_bits(std::ssize(set) - 1, std::ssize(values));
  values[70'001] = -0.25F;
  values[99'999] = 0.5F;
  EXPECT_EQ(smallest_magnitude(set.data(), values.data(), std::ssize(values), threads), 0.25F);
  set[70'001 / kWordBits] = 0;
  EXPECT_EQ(smallest_magnitude(set.data(), values.data(), std::ssize(values), threads), 0.5F);
  std::ranges::fill(set, Word{0});
  EXPECT_EQ(smallest_magnitude(set.data(), values.data(), std::ssize(values), threads),
            std::numeric_limits<float>::infinity());
}

TEST(Patterns, CountBitsOfRowsThatBeginInsideWords) {
  const std::int64_t rows = 90;
  const std::int64_t columns = 147;
  const std::vector<Word> bits = some_bits(rows * columns, 30);
  std::vector<std::int64_t> counts(static_cast<std::size_t>(rows));
  std::vector<std::int64_t> expected(counts.size());
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    expected[static_cast<std::size_t>(i / columns)] += test_bit(bits.data(), i) ? 1 : 0;
  }
  ThreadPool threads(2);
  count_in_rows(bits.data(), rows, columns, counts.data(), threads);
  EXPECT_EQ(counts, expected);
}

TEST(Patterns, ExplorationScoresCountFirst) {
  const Word active = 0b01;
  const std::vector<float> gradients{-0.5F, 0.25F};
  std::vector<std::int16_t> counts{1, 0};
  std::vector<float> scores(2);
  ThreadPool threads(1);
  exploration_scores(&active, gradients.data(), 2, 0.5F, 1.0F, counts.data(), scores.data(), threads);
  EXPECT_EQ(counts, (std::vector<std::int16_t>{2, 0}));
  EXPECT_EQ(scores, (std::vector<float>{0.5F + 0.5F * (1.0F / 3.0F), 0.75F}));
}

}  // namespace
}  // namespace itop
