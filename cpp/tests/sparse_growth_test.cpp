#include "itop/sparse_growth.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "itop/error.hpp"
#include "itop/thread_pool.hpp"
#include "product_scores.hpp"

namespace itop {
namespace {

template <class Value>
std::vector<Value> to_vector(const ScratchArray<Value>& array) {
  return {array.begin(), array.end()};
}

struct Taken {
  std::int64_t num_rows;
  std::int64_t num_columns;
  std::vector<std::int64_t> pointers{0};
  std::vector<std::int32_t> columns;

  /// Every position whose index is a multiple of `step`.
  Taken(std::int64_t rows, std::int64_t width, std::int64_t step) : num_rows(rows), num_columns(width) {
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t column = 0; column < width; ++column) {
        if ((row * width + column) % step == 0) columns.push_back(static_cast<std::int32_t>(column));
      }
      pointers.push_back(static_cast<std::int64_t>(columns.size()));
    }
  }
  PositionList list() const { return {num_rows, num_columns, pointers.data(), columns.data()}; }
  std::vector<std::int64_t> free() const {
    std::vector<std::int64_t> positions;
    for (std::int64_t row = 0; row < num_rows; ++row) {
      for (std::int64_t column = 0; column < num_columns; ++column) {
        const auto first = columns.begin() + pointers[static_cast<std::size_t>(row)];
        const auto last = columns.begin() + pointers[static_cast<std::size_t>(row) + 1];
        if (!std::binary_search(first, last, static_cast<std::int32_t>(column))) {
          positions.push_back(row * num_columns + column);
        }
      }
    }
    return positions;
  }
};

/// The rule, by sorting everything.
std::vector<std::int64_t> best(const Taken& taken, const std::vector<float>& scores, std::int64_t k,
                               const KeyStream& stream) {
  std::vector<std::int64_t> positions = taken.free();
  std::sort(positions.begin(), positions.end(), [&](std::int64_t a, std::int64_t b) {
    const auto rank = [&](std::int64_t i) {
      return std::make_tuple(-std::abs(scores[static_cast<std::size_t>(i)]),
                             tie_key(stream, static_cast<std::uint64_t>(i)), i);
    };
    return rank(a) < rank(b);
  });
  positions.resize(static_cast<std::size_t>(k));
  std::sort(positions.begin(), positions.end());
  return positions;
}

std::vector<std::int64_t> streamed(const Taken& taken, const std::vector<float>& scores, std::int64_t k,
                                   const KeyStream& stream, std::int64_t rows_a_tile, double at_least = 0.0) {
  ThreadPool pool(2);
  StreamedGrowth growth(taken.list(), k, stream, at_least);
  for (std::int64_t row = 0; row < taken.num_rows; row += rows_a_tile) {
    growth.offer(row, std::min(rows_a_tile, taken.num_rows - row), scores.data() + row * taken.num_columns,
                 DType::kFloat32, pool);
  }
  return to_vector(growth.finish(pool));
}

TEST(StreamedGrowth, ChoosesTheLargestMagnitudesWhateverTheTiles) {
  const Taken taken(40, 53, 7);
  std::vector<float> scores;
  for (std::int64_t i = 0; i < 40 * 53; ++i) scores.push_back(std::sin(static_cast<float>(i * i)));
  const KeyStream stream{5, 1, 2, 3};
  for (const std::int64_t k : {0, 1, 100, 1700}) {
    const auto expected = best(taken, scores, k, stream);
    for (const std::int64_t rows : {1, 7, 40}) EXPECT_EQ(streamed(taken, scores, k, stream, rows), expected);
  }
}

TEST(StreamedGrowth, BreaksTiesByKeyThenIndexAlsoWhenTheyArePrunedEarly) {
  const Taken taken(300, 400, 11);  // enough equal scores to overflow the list of candidates
  std::vector<float> scores(300 * 400, 1.0F);
  for (std::size_t i = 0; i < scores.size(); i += 1000) scores[i] = -2.0F;
  const KeyStream stream{9, 0, 4, 1};
  EXPECT_EQ(streamed(taken, scores, 500, stream, 16), best(taken, scores, 500, stream));
}

TEST(StreamedGrowth, AGuessThatIsTooHighFindsFewerAndOneThatHoldsFindsTheSame) {
  const Taken taken(10, 10, 3);
  std::vector<float> scores;
  for (int i = 0; i < 100; ++i) scores.push_back(static_cast<float>(i));
  const KeyStream stream{};
  EXPECT_EQ(streamed(taken, scores, 5, stream, 4, 92.0), best(taken, scores, 5, stream));
  EXPECT_LT(streamed(taken, scores, 5, stream, 4, 95.0).size(), 5U);
}

TEST(StreamedGrowth, RefusesScoresThatAreNotFinite) {
  const Taken taken(4, 4, 2);
  for (const float wrong : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> scores(16, 1.0F);
    scores[3] = wrong;
    EXPECT_THROW(streamed(taken, scores, 2, {}, 4), NonFiniteError);
  }
}

template <class Scalar>
std::vector<Scalar> wave(std::int64_t count, double step) {
  std::vector<Scalar> values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(
        static_cast<Scalar>(std::sin(step * static_cast<double>(i % 65521) * static_cast<double>(i % 97))));
  }
  return values;
}

/// gradient^T x of every pass, the passes summed up; few bits a factor, so that no sum is rounded.
template <class Scalar>
std::vector<Scalar> coarse(std::vector<Scalar> values) {
  for (Scalar& value : values) value = std::round(value * 8);
  return values;
}

template <class Scalar>
void expect_product_grows_as_its_scores_do(const Taken& taken, std::int64_t k, const std::vector<std::int64_t>& depths,
                                           DType type) {
  const KeyStream stream{4, 1, 3, 2};
  std::vector<std::vector<Scalar>> memory;
  std::vector<ProductFactor> factors;
  std::vector<float> scores(static_cast<std::size_t>(taken.num_rows * taken.num_columns), 0.0F);
  for (const std::int64_t depth : depths) {
    memory.push_back(coarse(wave<Scalar>(depth * taken.num_columns, 0.37)));
    memory.push_back(coarse(wave<Scalar>(depth * taken.num_rows, 0.71)));
  }
  for (std::size_t i = 0; i < depths.size(); ++i) {
    const auto& x = memory[2 * i];
    const auto& gradient = memory[2 * i + 1];
    factors.push_back({x.data(), gradient.data(), depths[i]});
    for (std::int64_t s = 0; s < depths[i]; ++s) {
      for (std::int64_t row = 0; row < taken.num_rows; ++row) {
        for (std::int64_t column = 0; column < taken.num_columns; ++column) {
          scores[static_cast<std::size_t>(row * taken.num_columns + column)] +=
              static_cast<float>(gradient[static_cast<std::size_t>(s * taken.num_rows + row)] *
                                 x[static_cast<std::size_t>(s * taken.num_columns + column)]);
        }
      }
    }
  }
  const auto expected = best(taken, scores, k, stream);
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    StreamedGrowth growth(taken.list(), k, stream, 0.0);
    growth.offer_product(factors, type, pool);
    EXPECT_EQ(to_vector(growth.finish(pool)), expected);
  }
}

TEST(StreamedGrowth, OfAProductChoosesWhatItsScoresWould) {
  const Taken odd(77, 53, 7);  // no multiple of any tile
  for (const std::int64_t k : {1, 300, 3000}) {
    expect_product_grows_as_its_scores_do<float>(odd, k, {5}, DType::kFloat32);
    expect_product_grows_as_its_scores_do<double>(odd, k, {5, 3}, DType::kFloat64);
  }
  expect_product_grows_as_its_scores_do<float>(odd, 200, {300, 1, 7}, DType::kFloat32);  // deeper than a block
}

TEST(StreamedGrowth, OfALargeProductIsExactAlthoughItBeginsWithASample) {
  const Taken large(700, 1100, 19);
  for (const std::int64_t k : {1, 5000, 700'000}) {
    expect_product_grows_as_its_scores_do<float>(large, k, {6}, DType::kFloat32);
  }
}

TEST(StreamedGrowth, OfALargeProductGoesByItsScoresBits) {
  const Taken taken(701, 1099, 23);
  const KeyStream stream{4, 1, 3, 2};
  for (const auto& [depth, shift] : {std::pair{128, 0.0F}, std::pair{40, 3.0F}, std::pair{1100, 0.0F}}) {
    std::vector<float> x = wave<float>(depth * taken.num_columns, 0.37);
    for (float& value : x) value += shift;  // all scores alike
    const std::vector<float> gradient = wave<float>(depth * taken.num_rows, 0.71);
    const ProductFactor factor{x.data(), gradient.data(), depth};
    ThreadPool pool(3);
    const ProductScores<float> product({&factor, 1}, taken.num_rows, taken.num_columns, pool);
    std::vector<float> padded(704 * 1120);
    product.write(0, 704, 0, 1120, padded.data(), nullptr);
    std::vector<float> scores;
    for (std::int64_t row = 0; row < taken.num_rows; ++row) {
      scores.insert(scores.end(), padded.begin() + row * 1120, padded.begin() + row * 1120 + taken.num_columns);
    }
    for (const std::int64_t k : {1, 10'000, 200'000}) {
      StreamedGrowth growth(taken.list(), k, stream, 0.0);
      growth.offer_product({&factor, 1}, DType::kFloat32, pool);
      EXPECT_EQ(to_vector(growth.finish(pool)), best(taken, scores, k, stream)) << depth << ", " << k;
    }
  }
}

TEST(StreamedGrowth, OfAProductOfZerosIsByTieKeys) {
  const Taken taken(600, 900, 13);
  const std::vector<float> zeros(900, 0.0F);
  const KeyStream stream{4, 1, 3, 2};
  ThreadPool pool(2);
  for (const std::int64_t depth : {0, 1}) {
    StreamedGrowth growth(taken.list(), 1234, stream, 0.0);
    const ProductFactor factor{zeros.data(), zeros.data(), depth};
    growth.offer_product({&factor, 1}, DType::kFloat32, pool);
    EXPECT_EQ(to_vector(growth.finish(pool)), best(taken, std::vector<float>(600 * 900, 0.0F), 1234, stream));
  }
}

TEST(StreamedGrowth, OfAProductRefusesWhatIsNotFinite) {
  const Taken taken(30, 40, 3);
  std::vector<float> x(40, 1.0F);
  x[7] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> gradient(30, 1.0F);
  ThreadPool pool(1);
  StreamedGrowth growth(taken.list(), 5, {}, 0.0);
  const ProductFactor factor{x.data(), gradient.data(), 1};
  EXPECT_THROW(growth.offer_product({&factor, 1}, DType::kFloat32, pool), NonFiniteError);
}

TEST(StreamedGrowth, RefusesMoreThanThereIsRoomFor) {
  const Taken taken(4, 4, 2);
  EXPECT_THROW(StreamedGrowth(taken.list(), 9, {}, 0.0), std::invalid_argument);
  EXPECT_THROW(StreamedGrowth(taken.list(), -1, {}, 0.0), std::invalid_argument);
}

TEST(GrowUniformly, TakesTheFreePositionsWithTheSmallestTieKeys) {
  ThreadPool pool(2);
  const Taken taken(90, 101, 13);
  const KeyStream stream{3, 7, 1, 2};
  const std::vector<float> equal(90 * 101, 0.0F);
  for (const std::int64_t k : {0, 1, 40, 4000, 8390}) {
    EXPECT_EQ(to_vector(grow_uniformly(taken.list(), k, stream, 1 << 20, pool)), best(taken, equal, k, stream)) << k;
  }
}

TEST(GrowUniformly, DrawsDistinctFreePositionsOfAMatrixThatNobodyCouldEnumerate) {
  ThreadPool pool(1);
  constexpr std::int64_t kSide = 1'000'000;
  const std::vector<std::int64_t> pointers(kSide + 1, 0);
  const PositionList nothing{kSide, kSide, pointers.data(), nullptr};
  const auto drawn = grow_uniformly(nothing, 100000, {1, 2, 3, 4}, 1 << 20, pool);
  ASSERT_EQ(drawn.size(), 100000U);
  EXPECT_TRUE(std::adjacent_find(drawn.begin(), drawn.end(), std::greater_equal<>()) == drawn.end());
  EXPECT_GE(drawn.front(), 0);
  EXPECT_LT(drawn.back(), kSide * kSide);
  double mean = 0;
  for (const std::int64_t position : drawn) mean += static_cast<double>(position) / (1e12 * 100000);
  EXPECT_NEAR(mean, 0.5, 0.005);  // five standard deviations of a uniform mean
}

TEST(GrowUniformly, ByRanksReachesEveryFreePositionAndNoOther) {
  ThreadPool pool(1);
  const Taken taken(7, 9, 4);
  const auto free = taken.free();
  EXPECT_EQ(to_vector(grow_uniformly(taken.list(), static_cast<std::int64_t>(free.size()), {}, 0, pool)), free);
  std::vector<int> hits(63, 0);
  for (std::uint32_t update = 0; update < 4000; ++update) {
    for (const std::int64_t position : grow_uniformly(taken.list(), 5, {8, 0, update, 0}, 0, pool)) ++hits[position];
  }
  const double expected = 4000.0 * 5 / static_cast<double>(free.size());
  for (std::int64_t i = 0; i < 63; ++i) {
    const bool is_free = std::binary_search(free.begin(), free.end(), i);
    EXPECT_NEAR(hits[static_cast<std::size_t>(i)], is_free ? expected : 0, is_free ? 6 * std::sqrt(expected) : 0);
  }
}

class UpdatePattern : public ::testing::Test {
 protected:
  // a . b .        row pointers 0 2 2 4
  // . . . .
  // . c . d
  std::vector<std::int64_t> pointers_{0, 2, 2, 4};
  std::vector<std::int32_t> columns_{0, 2, 1, 3};
  PositionList pattern_{3, 4, pointers_.data(), columns_.data()};
  std::vector<std::uint8_t> keep_{1, 0, 0, 1};  // drops b and c
  ThreadPool pool_{2};
};

TEST_F(UpdatePattern, MergesWhatStaysWithWhatIsGrown) {
  const std::vector<std::int64_t> grown{1, 5, 8};
  const auto updated = update_pattern(pattern_, keep_.data(), grown.data(), 3, false, pool_);
  EXPECT_EQ(to_vector(updated.row_pointers), (std::vector<std::int64_t>{0, 2, 3, 5}));
  EXPECT_EQ(to_vector(updated.columns), (std::vector<std::int32_t>{0, 1, 1, 0, 3}));
  EXPECT_EQ(to_vector(updated.sources), (std::vector<std::int32_t>{0, -1, -1, -1, 3}));
}

TEST_F(UpdatePattern, AWeightDroppedAndGrownKeepsItsValueOnRequest) {
  const std::vector<std::int64_t> grown{2};
  const auto keeping = update_pattern(pattern_, keep_.data(), grown.data(), 1, true, pool_);
  EXPECT_EQ(to_vector(keeping.sources), (std::vector<std::int32_t>{0, 1, 3}));
  EXPECT_EQ(keeping.num_regrown, 1);
  const auto anew = update_pattern(pattern_, keep_.data(), grown.data(), 1, false, pool_);
  EXPECT_EQ(to_vector(anew.sources), (std::vector<std::int32_t>{0, -1, 3}));
}

TEST_F(UpdatePattern, RefusesToGrowWhatIsKeptOutOfRangeOrOutOfOrder) {
  for (const std::vector<std::int64_t>& grown : {std::vector<std::int64_t>{0}, {11}, {12}, {-1}, {5, 1}, {1, 1}}) {
    EXPECT_THROW(
        update_pattern(pattern_, keep_.data(), grown.data(), static_cast<std::int64_t>(grown.size()), false, pool_),
        std::invalid_argument);
  }
}

/// Large enough that rows are shared out over threads: every range ends where the next begins.
TEST(UpdatePatternInRanges, IsWhatOneThreadMakesOfIt) {
  const Taken before(3000, 400, 7);
  const std::int64_t count = before.list().count();
  std::vector<std::uint8_t> keep;
  for (std::int64_t entry = 0; entry < count; ++entry) keep.push_back(entry % 3 == 1 || entry % 5 == 0 ? 1 : 0);
  std::vector<std::int64_t> grown;
  std::vector<std::int64_t> expected;
  std::vector<std::int32_t> expected_sources;
  std::int64_t entry = 0;
  std::int64_t num_regrown = 0;
  for (std::int64_t index = 0; index < 3000 * 400; ++index) {
    const bool was_active = index % 7 == 0;
    const bool stays = was_active && keep[static_cast<std::size_t>(entry)] != 0;
    const bool grows = !stays && index % 11 == 3;
    if (grows) grown.push_back(index);
    if (stays || grows) {
      expected.push_back(index);
      expected_sources.push_back(was_active ? static_cast<std::int32_t>(entry) : -1);
    }
    num_regrown += was_active && grows ? 1 : 0;
    entry += was_active ? 1 : 0;
  }
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    const auto updated =
        update_pattern(before.list(), keep.data(), grown.data(), static_cast<std::int64_t>(grown.size()), true, pool);
    std::vector<std::int64_t> indices;
    for (std::int64_t row = 0; row < 3000; ++row) {
      for (auto i = updated.row_pointers[static_cast<std::size_t>(row)];
           i < updated.row_pointers[static_cast<std::size_t>(row) + 1]; ++i) {
        indices.push_back(row * 400 + updated.columns[static_cast<std::size_t>(i)]);
      }
    }
    EXPECT_EQ(indices, expected);
    EXPECT_EQ(to_vector(updated.sources), expected_sources);
    EXPECT_EQ(updated.num_regrown, num_regrown);
  }
}

}  // namespace
}  // namespace itop
