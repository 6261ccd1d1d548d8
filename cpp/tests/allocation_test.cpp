#include "itop/allocation.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "support/draws.hpp"

namespace itop {
namespace {

using Counts = std::vector<std::int64_t>;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Counts allocate_of(const Counts& numel, const std::vector<double>& relative_density, std::int64_t total) {
  return allocate(numel, relative_density, total);
}

TEST(Allocation, GivesEqualDensitiesTheSameShareOfEveryLayer) {
  EXPECT_EQ(allocate_of({100, 200, 300}, {1.0, 1.0, 1.0}, 60), (Counts{10, 20, 30}));
}

TEST(Allocation, OnlyRatiosOfTheDensitiesMatter) {
  EXPECT_EQ(allocate_of({100, 100}, {3.0, 1.0}, 40), (Counts{30, 10}));
  EXPECT_EQ(allocate_of({100, 100}, {0.03, 0.01}, 40), (Counts{30, 10}));
}

TEST(Allocation, MakesALayerDenseThatWouldExceedItAndSharesTheRest) {
  // 10 : 1 over sizes 10 and 100 for 60: the first would get 30, has 10; the second gets 50.
  EXPECT_EQ(allocate_of({10, 100}, {10.0, 1.0}, 60), (Counts{10, 50}));
}

TEST(Allocation, MakesLayersDenseOneAfterAnother) {
  // Round one fills only the first layer; what it cannot take then fills the second.
  EXPECT_EQ(allocate_of({10, 20, 1000}, {100.0, 5.0, 1.0}, 330), (Counts{10, 20, 300}));
}

TEST(Allocation, TakesInfinityForDense) {
  EXPECT_EQ(allocate_of({50, 100, 100}, {kInfinity, 1.0, 1.0}, 70), (Counts{50, 10, 10}));
}

TEST(Allocation, GivesNothingToDensityZero) { EXPECT_EQ(allocate_of({50, 50}, {0.0, 1.0}, 20), (Counts{0, 20})); }

TEST(Allocation, RoundsByLargestRemainder) {
  // Shares 3.333, 3.333, 3.333: the earlier layer gets the odd one. Shares 1.25, 2.75: the larger remainder does.
  EXPECT_EQ(allocate_of({10, 10, 10}, {1.0, 1.0, 1.0}, 10), (Counts{4, 3, 3}));
  EXPECT_EQ(allocate_of({5, 11}, {1.0, 1.0}, 4), (Counts{1, 3}));
}

TEST(Allocation, MeetsTheEnds) {
  EXPECT_EQ(allocate_of({7, 9}, {1.0, 2.0}, 0), (Counts{0, 0}));
  EXPECT_EQ(allocate_of({7, 9}, {1.0, 2.0}, 16), (Counts{7, 9}));
  EXPECT_EQ(allocate_of({}, {}, 0), (Counts{}));
}

TEST(Allocation, SumsToTheTotalAndNeverExceedsALayer) {
  testing::Draws draws(1);
  for (int trial = 0; trial < 2000; ++trial) {
    Counts numel;
    std::vector<double> density;
    for (std::int64_t layer = 0, layers = 1 + draws.below(12); layer < layers; ++layer) {
      numel.push_back(1 + draws.below(trial % 2 == 0 ? 20 : 5'000'000));
      density.push_back(0.001 + 100.0 * draws.uniform() * draws.uniform());
    }
    const std::int64_t capacity = std::accumulate(numel.begin(), numel.end(), std::int64_t{0});
    const std::int64_t total = draws.below(capacity + 1);
    const Counts counts = allocate_of(numel, density, total);
    ASSERT_EQ(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}), total);
    for (std::size_t layer = 0; layer < counts.size(); ++layer) {
      ASSERT_GE(counts[layer], 0);
      ASSERT_LE(counts[layer], numel[layer]);
    }
  }
}

TEST(Allocation, RefusesWhatCannotBeMet) {
  EXPECT_THROW(allocate_of({10}, {1.0, 1.0}, 5), std::invalid_argument);
  EXPECT_THROW(allocate_of({10}, {1.0}, 11), std::invalid_argument);
  EXPECT_THROW(allocate_of({10}, {1.0}, -1), std::invalid_argument);
  EXPECT_THROW(allocate_of({0}, {1.0}, 0), std::invalid_argument);
  EXPECT_THROW(allocate_of({10}, {-1.0}, 5), std::invalid_argument);
  EXPECT_THROW(allocate_of({10}, {std::numeric_limits<double>::quiet_NaN()}, 5), std::invalid_argument);
  EXPECT_THROW(allocate_of({10, 10}, {kInfinity, 1.0}, 5),
               std::invalid_argument);  // the dense layer alone is too large
  EXPECT_THROW(allocate_of({10, 10}, {kInfinity, 0.0}, 15), std::invalid_argument);  // five have no place
}

}  // namespace
}  // namespace itop
