// The contract of Backend::select, run on every device and for every type of scores, against sorting.

#include "itop/selection.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <tuple>

#include "itop/error.hpp"
#include "itop/thread_pool.hpp"
#include "support/draws.hpp"
#include "support/selection_case.hpp"

namespace itop::testing {
namespace {

using Parameters = std::tuple<Device, DType>;

class SelectionOf : public ::testing::TestWithParam<Parameters> {
 protected:
  Device device() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }

  void expect_exact(const SelectionCase& selection) const {
    const Chosen chosen = select_on(device(), selection);
    EXPECT_TRUE(same(chosen, sorted_reference(selection)));
  }

  /// All orders and transforms, and counts from none to too many.
  void expect_exact_for_every_order_and_count(const LayerCase& layer) const {
    const std::int64_t candidates = std::count(layer.candidates.begin(), layer.candidates.end(), true);
    for (const auto transform : {ScoreTransform::kMagnitude, ScoreTransform::kSigned}) {
      for (const auto order : {SelectionOrder::kSmallest, SelectionOrder::kLargest}) {
        for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, candidates / 10, candidates / 2, candidates - 1,
                                     candidates, layer.numel() + 1}) {
          if (k < 0) continue;
          SCOPED_TRACE(::testing::Message() << "n " << layer.numel() << ", k " << k << ", transform "
                                            << static_cast<int>(transform) << ", order " << static_cast<int>(order));
          expect_exact({{layer}, k, transform, order});
        }
      }
    }
  }
};

constexpr std::int64_t kSizes[] = {0, 1, 2, 63, 64, 65, 127, 1000, 4099};

TEST_P(SelectionOf, TakesTheBestOfDistinctScores) {
  Draws draws(11);
  for (const std::int64_t n : kSizes) expect_exact_for_every_order_and_count(LayerCase::of(dtype(), draws.bell(n)));
}

TEST_P(SelectionOf, TakesTheBestOfAnySubsetOfCandidates) {
  Draws draws(12);
  for (const std::int64_t n : kSizes) {
    for (const double density : {0.0, 0.02, 0.5}) {
      LayerCase layer = LayerCase::of(dtype(), draws.bell(n));
      layer.candidates = draws.bits(n, density);
      expect_exact_for_every_order_and_count(layer);
    }
  }
}

TEST_P(SelectionOf, BreaksHeavyTiesByTieKeyThenIndex) {
  Draws draws(13);
  for (const std::int64_t n : {65, 1000, 20'000}) {
    LayerCase layer = LayerCase::of(dtype(), draws.heavy_ties(n));
    layer.candidates = draws.bits(n, 0.7);
    expect_exact_for_every_order_and_count(layer);
  }
}

TEST_P(SelectionOf, IsRandomWhereAllScoresAreEqual) {
  for (const std::int64_t n : {1, 64, 100, 4096, 150'000}) {
    const LayerCase equal = LayerCase::of(dtype(), std::vector<double>(static_cast<std::size_t>(n), -0.25));
    const LayerCase random = LayerCase::random(n);
    for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, n / 3, n - 1, n}) {
      SCOPED_TRACE(::testing::Message() << "n " << n << ", k " << k);
      expect_exact({{equal}, k});
      EXPECT_TRUE(same(select_on(device(), {{equal}, k}), select_on(device(), {{random}, k})));
    }
  }
}

TEST_P(SelectionOf, IsExactWhereASampleNarrowsFirst) {
  Draws draws(14);
  for (const double density : {1.0, 0.1}) {
    LayerCase layer = LayerCase::of(dtype(), draws.bell(300'007));
    layer.candidates = draws.bits(layer.numel(), density);
    expect_exact({{layer}, 9'000, ScoreTransform::kMagnitude, SelectionOrder::kSmallest});
    expect_exact({{layer}, 9'000, ScoreTransform::kSigned, SelectionOrder::kLargest});
    expect_exact({{layer}, 1, ScoreTransform::kMagnitude, SelectionOrder::kLargest});
  }
}

TEST_P(SelectionOf, IsExactWhereTheSampleMisleads) {
  Draws draws(15);
  const LayerCase rows = LayerCase::of(dtype(), draws.rows_of_their_own_scale(300'007));
  for (const std::int64_t k : {1'000, 30'000, 150'000, 290'000}) {
    expect_exact({{rows}, k, ScoreTransform::kMagnitude, SelectionOrder::kSmallest});
    expect_exact({{rows}, k, ScoreTransform::kSigned, SelectionOrder::kLargest});
  }
}

TEST_P(SelectionOf, IsExactWithOneRowOfHugeOutliers) {
  Draws draws(16);
  std::vector<double> values = draws.bell(200'003);
  for (std::size_t i = 100'000; i < 101'000; ++i) values[i] = 60'000.0 + static_cast<double>(i % 64);
  const LayerCase layer = LayerCase::of(dtype(), values);
  for (const std::int64_t k : {500, 1'000, 1'001, 100'000}) {
    expect_exact({{layer}, k, ScoreTransform::kMagnitude, SelectionOrder::kLargest});
    expect_exact({{layer}, k, ScoreTransform::kMagnitude, SelectionOrder::kSmallest});
  }
}

TEST_P(SelectionOf, IsExactWhereNoSampledWordHoldsACandidate) {
  // All candidates lie in one run of a large layer: a sample sees few of them or none.
  Draws draws(17);
  LayerCase layer = LayerCase::of(dtype(), draws.bell(1'000'000));
  layer.candidates.assign(layer.candidates.size(), false);
  for (std::size_t i = 64 * 1234 + 5; i < 64 * 1234 + 900; ++i) layer.candidates[i] = true;
  for (const std::int64_t k : {1, 400, 894})
    expect_exact({{layer}, k, ScoreTransform::kSigned, SelectionOrder::kSmallest});
}

TEST_P(SelectionOf, IsExactWhereMostScoresAreZero) {
  // Gradients of a layer behind dead units: the k-th score is zero, and almost everything ties with it.
  Draws draws(18);
  std::vector<double> values(250'001, 0.0);
  for (std::size_t i = 0; i < 1'000; ++i)
    values[static_cast<std::size_t>(draws.below(250'001))] = draws.uniform() + 0.1;
  const LayerCase layer = LayerCase::of(dtype(), values);
  for (const std::int64_t k : {900, 5'000, 240'000}) {
    expect_exact({{layer}, k, ScoreTransform::kMagnitude, SelectionOrder::kLargest});
    expect_exact({{layer}, k, ScoreTransform::kMagnitude, SelectionOrder::kSmallest});
  }
}

TEST_P(SelectionOf, RefusesNanAndInfinityNamingTheLayer) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double bad : {kNan, kInfinity, -kInfinity}) {
    for (const std::int64_t n : {100, 40'000}) {
      for (const std::int64_t k : {std::int64_t{0}, std::int64_t{10}, n}) {
        SelectionCase fine{{LayerCase::of(dtype(), std::vector<double>(50, 1.0), 1)}, 5};
        std::vector<double> values(static_cast<std::size_t>(n), 1.0);
        values[static_cast<std::size_t>(n) - 1] = bad;
        SelectionCase broken{{LayerCase::of(dtype(), values, 2)}, k};
        LocalReduction local;
        try {
          select_on(device(), {fine, broken}, local);
          FAIL() << "accepted " << bad << " with k " << k;
        } catch (const NonFiniteError& error) {
          EXPECT_EQ(error.layer(), "layer2");
          EXPECT_NE(std::string(error.what()).find("layer2"), std::string::npos);
        }
      }
    }
  }
}

TEST_P(SelectionOf, RefusesNanWhereNoCandidateIsToo) {
  LayerCase layer = LayerCase::of(dtype(), {1.0, std::numeric_limits<double>::quiet_NaN(), 3.0});
  layer.candidates[1] = false;
  EXPECT_THROW(select_on(device(), {{layer}, 1}), NonFiniteError);
}

TEST_P(SelectionOf, SelectsAcrossLayers) {
  Draws draws(19);
  SelectionCase global;
  for (const std::int64_t n : {100, 0, 64, 5'000, 60'000}) {
    auto layer = LayerCase::of(dtype(), draws.bell(n), static_cast<std::uint32_t>(global.layers.size()));
    layer.candidates = draws.bits(n, 0.6);
    global.layers.push_back(std::move(layer));
  }
  for (const std::int64_t k : {0, 1, 300, 20'000, 1'000'000}) {
    global.k = k;
    for (const auto order : {SelectionOrder::kSmallest, SelectionOrder::kLargest}) {
      global.order = order;
      expect_exact(global);
    }
  }
}

TEST_P(SelectionOf, SelectsAcrossLayersOfWhichOneIsFloat64) {
  Draws draws(20);
  SelectionCase global;
  global.layers.push_back(LayerCase::of(dtype(), draws.bell(3'000), 0));
  std::vector<double> fine = draws.bell(3'000);
  // Values that float32 cannot tell from the first layer's.
  for (std::size_t i = 0; i < fine.size(); i += 2)
    fine[i] = decode(dtype(), global.layers[0].scores)[i] * (1.0 + 1e-12);
  global.layers.push_back(LayerCase::of(DType::kFloat64, fine, 1));
  for (const std::int64_t k : {1, 777, 3'000, 5'999}) {
    global.k = k;
    expect_exact(global);
  }
  global.layers.push_back(LayerCase::of(dtype(), draws.bell(200'000), 2));
  global.k = 50'000;
  expect_exact(global);
}

TEST_P(SelectionOf, BreaksTiesAcrossLayers) {
  Draws draws(21);
  SelectionCase global;
  for (std::uint32_t layer = 0; layer < 3; ++layer)
    global.layers.push_back(LayerCase::of(dtype(), draws.heavy_ties(30'000), layer));
  for (const std::int64_t k : {10, 12'345, 50'000}) {
    global.k = k;
    expect_exact(global);
  }
}

TEST_P(SelectionOf, AnswersSeveralSelectionsInOneCallAsIfAlone) {
  Draws draws(22);
  std::vector<SelectionCase> cases;
  std::uint32_t layer = 0;
  for (const std::int64_t n : {0, 1, 64, 1'000, 20'000, 100'000}) {
    cases.push_back(
        {{LayerCase::of(dtype(), draws.bell(n), layer++)}, n / 3, ScoreTransform::kSigned, SelectionOrder::kSmallest});
    cases.push_back({{LayerCase::of(dtype(), draws.heavy_ties(n), layer++)}, n / 7});
    cases.push_back({{LayerCase::random(n, layer++)}, n / 2});
  }
  LocalReduction local;
  const std::vector<Chosen> together = select_on(device(), cases, local);
  for (std::size_t i = 0; i < cases.size(); ++i)
    EXPECT_TRUE(same(together[i], sorted_reference(cases[i]))) << "selection " << i;
}

TEST_P(SelectionOf, DoesNotDependOnTheNumberOfThreads) {
  Draws draws(23);
  std::vector<SelectionCase> cases;
  cases.push_back({{LayerCase::of(dtype(), draws.bell(400'000), 0)}, 12'000});
  cases.push_back({{LayerCase::of(dtype(), draws.heavy_ties(200'000), 1)}, 70'000});
  cases.push_back({{LayerCase::random(300'000, 2)}, 9'000});
  LocalReduction local;
  const int before = ThreadPool::global().num_threads();
  std::vector<std::vector<Chosen>> of_threads;
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool::set_global_num_threads(threads);
    of_threads.push_back(select_on(device(), cases, local));
  }
  ThreadPool::set_global_num_threads(before);
  for (const auto& chosen : of_threads) {
    for (std::size_t i = 0; i < cases.size(); ++i) EXPECT_TRUE(same(chosen[i], of_threads[0][i]));
  }
}

/// A layer of the logical shape [out, in, height, width], stored as channels last.
LayerCase channels_last(const LayerCase& plain, std::int64_t out, std::int64_t in, std::int64_t height,
                        std::int64_t width) {
  LayerCase stored = plain;
  stored.index_map = {0, {out, height, width, in}, {in * height * width, width, 1, height * width}};
  const std::size_t size = size_of(plain.dtype);
  for (std::int64_t position = 0; position < plain.numel(); ++position) {
    const auto to = static_cast<std::size_t>(position);
    const auto from = static_cast<std::size_t>(stored.index_map(position));
    stored.candidates[to] = plain.candidates[from];
    if (!plain.scores.empty())
      std::copy_n(plain.scores.begin() + static_cast<std::ptrdiff_t>(from * size), size,
                  stored.scores.begin() + static_cast<std::ptrdiff_t>(to * size));
  }
  return stored;
}

std::vector<bool> in_logical_order(const std::vector<bool>& stored, const IndexMap& map) {
  std::vector<bool> logical(stored.size());
  for (std::size_t i = 0; i < stored.size(); ++i)
    logical[static_cast<std::size_t>(map(static_cast<std::int64_t>(i)))] = stored[i];
  return logical;
}

TEST_P(SelectionOf, TakesTheSameWeightsOfAChannelsLastTensor) {
  constexpr std::int64_t kOut = 24, kIn = 20, kHeight = 3, kWidth = 5;
  constexpr std::int64_t kNumel = kOut * kIn * kHeight * kWidth;
  Draws draws(24);
  for (LayerCase plain : {LayerCase::of(dtype(), draws.bell(kNumel)), LayerCase::of(dtype(), draws.heavy_ties(kNumel)),
                          LayerCase::random(kNumel)}) {
    plain.candidates = draws.bits(kNumel, 0.8);
    const LayerCase stored = channels_last(plain, kOut, kIn, kHeight, kWidth);
    for (const std::int64_t k : {1, 700, 5'000}) {
      const Chosen of_plain = select_on(device(), {{plain}, k});
      const Chosen of_stored = select_on(device(), {{stored}, k});
      EXPECT_TRUE(same({in_logical_order(of_stored[0], stored.index_map)}, of_plain));
    }
  }
}

TEST_P(SelectionOf, DrawsTheKeysOfAShardThatBeginsAtAnyIndex) {
  Draws draws(25);
  for (const std::int64_t offset : {8, 64, 3, 1'000'001}) {
    LayerCase layer = LayerCase::of(dtype(), draws.heavy_ties(20'000));
    layer.index_map = IndexMap::contiguous(20'000, offset);
    expect_exact({{layer}, 4'321});
  }
}

INSTANTIATE_TEST_SUITE_P(EveryDeviceAndType, SelectionOf,
                         ::testing::Combine(::testing::ValuesIn(available_devices()), ::testing::ValuesIn(kAllDTypes)),
                         name_of_device_and_type);

class RandomSelectionOf : public ::testing::TestWithParam<Device> {};

TEST_P(RandomSelectionOf, IsExactForEverySizeAndCount) {
  Draws draws(26);
  for (const std::int64_t n : {0, 1, 63, 64, 65, 1'000, 70'000, 400'000}) {
    for (const double density : {1.0, 0.1}) {
      LayerCase layer = LayerCase::random(n);
      layer.candidates = draws.bits(n, density);
      for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, n / 50, n / 2, n}) {
        const SelectionCase selection{{layer}, k};
        EXPECT_TRUE(same(select_on(GetParam(), selection), sorted_reference(selection))) << "n " << n << ", k " << k;
      }
    }
  }
}

TEST_P(RandomSelectionOf, IsUniformOverTheCandidates) {
  // Every weight of 128 is chosen with probability 1/4: 600 draws, chi-square over the weights.
  constexpr int kWeights = 128, kDraws = 600, kChosen = 32;
  std::vector<int> counts(kWeights);
  for (std::uint32_t update = 0; update < kDraws; ++update) {
    LayerCase layer = LayerCase::random(kWeights);
    layer.stream.update = update;
    const Chosen chosen = select_on(GetParam(), {{layer}, kChosen});
    ASSERT_EQ(num_chosen(chosen), kChosen);
    for (int i = 0; i < kWeights; ++i) counts[static_cast<std::size_t>(i)] += chosen[0][static_cast<std::size_t>(i)];
  }
  constexpr double kExpected = kDraws * kChosen / static_cast<double>(kWeights);
  constexpr double kVariance = kExpected * (1.0 - kChosen / static_cast<double>(kWeights));
  double chi_square = 0.0;
  for (const int count : counts) chi_square += (count - kExpected) * (count - kExpected) / kVariance;
  EXPECT_LT(chi_square, 181.0);  // 127 degrees of freedom, one in a thousand
}

TEST_P(RandomSelectionOf, SelectsAcrossLayers) {
  SelectionCase global;
  for (const std::int64_t n : {100, 0, 5'000, 40'000}) {
    global.layers.push_back(LayerCase::random(n, static_cast<std::uint32_t>(global.layers.size())));
  }
  for (const std::int64_t k : {1, 1'000, 30'000, 45'100}) {
    global.k = k;
    EXPECT_TRUE(same(select_on(GetParam(), global), sorted_reference(global)));
  }
}

INSTANTIATE_TEST_SUITE_P(EveryDevice, RandomSelectionOf, ::testing::ValuesIn(available_devices()), name_of_device);

}  // namespace
}  // namespace itop::testing
