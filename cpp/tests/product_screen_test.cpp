#include "product_screen.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cpu/product_screen_kernels.hpp"
#include "itop/thread_pool.hpp"
#include "product_scores.hpp"

namespace itop {
namespace {

constexpr std::int64_t kRows = 77;  // no multiples of tiles
constexpr std::int64_t kColumns = 301;

std::int64_t rounded_up(std::int64_t value, std::int64_t to) { return (value + to - 1) / to * to; }

/// Passes through a layer with numbers of some kind.
struct Passes {
  std::vector<std::vector<float>> memory;
  std::vector<ProductFactor> factors;

  template <class Draw>
  Passes(const std::vector<std::int64_t>& depths, Draw&& draw) {
    memory.reserve(2 * depths.size());
    for (const std::int64_t depth : depths) {
      for (const std::int64_t width : {kColumns, kRows}) {
        auto& values = memory.emplace_back(static_cast<std::size_t>(depth * width));
        for (float& value : values) value = draw();
      }
      factors.push_back({memory[memory.size() - 2].data(), memory.back().data(), depth});
    }
  }
  Passes(const Passes&) = delete;  // factors point into the memory
};

class ProductScreenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (cpu::product_screen_kernels() == nullptr) GTEST_SKIP() << "no sums of products of bytes on this processor";
  }

  std::optional<ProductScreen> screen_of(const Passes& passes) {
    return ProductScreen::of(passes.factors, kRows, kColumns, pool_);
  }

  /// [rows, columns], both rounded up.
  std::vector<float> scores_of(const Passes& passes) {
    std::vector<float> scores(static_cast<std::size_t>(height_ * width_));
    std::vector<float> spare(scores.size());
    ProductScores<float>(passes.factors, kRows, kColumns, pool_)
        .write(0, height_, 0, width_, scores.data(), spare.data());
    return scores;
  }

  /// Looks at every score for several limits; returns the share that was let through of those below half the limit.
  double expect_none_is_missed(const Passes& passes) {
    const auto screen = screen_of(passes);
    if (!screen.has_value()) {
      ADD_FAILURE() << "these passes are not screened";
      return 1;
    }
    const std::vector<float> scores = scores_of(passes);
    const auto is_in_matrix = [&](std::size_t i) {
      return static_cast<std::int64_t>(i) / width_ < kRows && static_cast<std::int64_t>(i) % width_ < kColumns;
    };
    std::vector<float> magnitudes;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (is_in_matrix(i)) magnitudes.push_back(std::abs(scores[i]));
    }
    std::sort(magnitudes.begin(), magnitudes.end());
    std::int64_t num_small = 0;
    std::int64_t num_let_through = 0;
    for (const double share : {0.5, 0.9, 0.99, 0.9999, 1.0}) {
      const float limit = magnitudes[static_cast<std::size_t>(share * static_cast<double>(magnitudes.size() - 1))];
      std::vector<Word> bits(scores.size() / kWordBits, ~Word{0});
      screen->keep_reachable(0, height_, 0, width_, limit, bits.data());
      for (std::size_t i = 0; i < scores.size(); ++i) {
        if (!is_in_matrix(i)) continue;
        const bool is_kept = (bits[i / kWordBits] >> (i % kWordBits) & 1) != 0;
        const bool has_reached = std::abs(scores[i]) >= limit;
        EXPECT_TRUE(is_kept || !has_reached) << i << ": " << scores[i] << " reaches " << limit;
        if (std::abs(scores[i]) >= limit / 2) continue;
        ++num_small;
        num_let_through += is_kept ? 1 : 0;
      }
    }
    return static_cast<double>(num_let_through) / static_cast<double>(std::max<std::int64_t>(1, num_small));
  }

  void expect_the_same_scores(const Passes& passes) {
    const auto screen = screen_of(passes);
    ASSERT_TRUE(screen.has_value());
    const std::vector<float> scores = scores_of(passes);
    for (const std::int64_t count : {1, 15, 16, 17, 150}) {
      std::vector<std::int32_t> columns;
      for (std::int64_t i = 0; i < count; ++i) columns.push_back(static_cast<std::int32_t>(i * 2 % kColumns));
      std::vector<float> found(static_cast<std::size_t>(count + cpu::kListedScores));
      for (std::int64_t row = 0; row < kRows; ++row) {
        screen->scores_of(row, columns, found.data());
        for (std::size_t i = 0; i < columns.size(); ++i) {
          // To the bit, but for a zero's sign.
          ASSERT_EQ(found[i], scores[static_cast<std::size_t>(row * width_ + columns[i])])
              << "row " << row << ", column " << columns[i];
        }
      }
    }
  }

  std::int64_t height_ = rounded_up(kRows, 64);
  std::int64_t width_ = rounded_up(kColumns, 64);
  ThreadPool pool_{2};
  std::mt19937 generator_{7};
};

TEST_F(ProductScreenTest, MissesNoneAndScreensMostOut) {
  std::normal_distribution<float> normal;
  for (const auto& depths : std::vector<std::vector<std::int64_t>>{{128}, {1}, {2}, {5, 3}, {64, 0, 77}, {1000}}) {
    const Passes passes(depths, [&] { return normal(generator_); });
    EXPECT_LT(expect_none_is_missed(passes), 0.2);
    expect_the_same_scores(passes);
  }
}

TEST_F(ProductScreenTest, MissesNoneWhateverTheNumbers) {
  std::normal_distribution<float> normal;
  std::cauchy_distribution<float> outliers;
  std::uniform_real_distribution<float> positive(0.5F, 1.0F);
  std::uniform_int_distribution<int> exponents(-20, 20);
  int column = 0;
  struct Case {
    std::int64_t depth;
    std::function<float()> draw;
  };
  const std::vector<Case> cases{
      {40, [&] { return outliers(generator_); }},
      {40, [&] { return positive(generator_); }},  // all scores alike
      {40, [&] { return std::max(0.0F, normal(generator_) - 1); }},
      {40, [&] { return std::ldexp(normal(generator_), exponents(generator_)); }},
      {40, [&] { return column++ % 3 == 0 ? normal(generator_) : 0.0F; }},
      {9, [&] { return std::round(normal(generator_)); }},  // ties
      {40, [&] { return 1e-18F * normal(generator_); }},
      {40, [&] { return 1e-22F * normal(generator_); }},  // scores below the normal numbers
      {40, [&] { return 1e-39F * normal(generator_); }},
      {40, [&] { return 1e16F * normal(generator_); }},
      {40, [&] { return std::ldexp(normal(generator_), column++ % 2 == 0 ? -60 : 60); }},
      {40, [] { return 0.0F; }},
      {0, [] { return 1.0F; }},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE("case " + std::to_string(i));
    const Passes passes({cases[i].depth}, cases[i].draw);
    expect_none_is_missed(passes);
    expect_the_same_scores(passes);
  }
}

TEST_F(ProductScreenTest, DoesNotTakeWhatIsNotFiniteOrTooLong) {
  for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30F}) {
    for (const std::size_t side : {0U, 1U}) {
      Passes passes({6}, [] { return 1.0F; });
      passes.memory[side][11] = wrong;
      EXPECT_FALSE(screen_of(passes).has_value());
    }
  }
}

}  // namespace
}  // namespace itop
