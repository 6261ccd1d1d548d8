// The GPU's selection, on an emulated machine, against the CPU's: the same bits in every case.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cpu/selection.hpp"
#include "cuda/bracket_kernels.hpp"
#include "emulated_cuda/machine.hpp"
#include "itop/backend.hpp"
#include "itop/error.hpp"
#include "itop/thread_pool.hpp"
#include "support/parts.hpp"
#include "support/selection_problem.hpp"

namespace itop::cuda {
namespace {

using testing::Chosen;
using testing::Layer;
using testing::layer_of;
using testing::make_layer;
using testing::Parts;
using testing::Problem;
using testing::selections_of;
using testing::Values;

/// One process that says it is one of several, so that counts go through the host.
class SingletonReduction final : public Reduction {
 public:
  void sum(std::span<std::int64_t>) override { ++num_sums; }
  bool is_local() const noexcept override { return false; }
  int num_sums = 0;
};

Chosen on_cpu(std::vector<Problem>& problems) {
  Chosen chosen;
  const std::vector<Selection> selections = selections_of(problems, chosen);
  LocalReduction local;
  cpu::select(selections, local, ThreadPool::global());
  return chosen;
}

using emulated_cuda::Calls;
using emulated_cuda::Machine;

/// The calls are counted from the beginning.
std::shared_ptr<SelectionVerdict> select_on_gpu(std::span<const Selection> selections, Reduction& reduction) {
  Machine::instance().finish();
  Machine::instance().calls = {};
  return backend_for({DeviceType::kCuda, 0}).select(selections, reduction, 0);
}

Chosen on_gpu(std::vector<Problem>& problems) {
  Chosen chosen;
  const std::vector<Selection> selections = selections_of(problems, chosen);
  LocalReduction local;
  const auto verdict = select_on_gpu(selections, local);
  EXPECT_EQ(Machine::instance().calls.waits, 0);
  verdict->check();
  return chosen;
}

/// A selection by scores, whatever they are, and one at random: nothing is uploaded but by launches, and nobody waits.
constexpr Calls kByScores{.launches = 7, .allocations = 2};
constexpr Calls kAtRandom{.launches = 5, .allocations = 2};

/// Sets the order of threads for a scope.
class Scheduled {
 public:
  explicit Scheduled(simt::Schedule schedule) { Machine::instance().schedule = schedule; }
  ~Scheduled() { Machine::instance().schedule = simt::Schedule::kForward; }
};

class EveryDType : public ::testing::TestWithParam<DType> {};

TEST_P(EveryDType, ChoosesTheBitsOfTheCpu) {
  std::mt19937_64 random(11 + static_cast<unsigned>(GetParam()));
  std::vector<Problem> problems;
  // Around a word, a warp's tile, the size up to which a sample is everything.
  const std::vector<std::pair<Values, std::vector<std::int64_t>>> shapes{
      {Values::kNormal, {1, 63, 2048, 16'389}},
      {Values::kFewDistinct, {64, 2049, 17'001}},
      {Values::kZeros, {65, 16'384}},
      {Values::kMostlyZero, {1000, 20'011}},
      {Values::kScaledRows, {5000}},
  };
  for (const auto& [values, sizes] : shapes) {
    for (const std::int64_t numel : sizes) {
      Problem problem;
      problem.layers.push_back(make_layer(numel, GetParam(), values, numel % 2 == 0 ? 1.0 : 0.3, random));
      problem.k = static_cast<std::int64_t>(random() % static_cast<unsigned>(numel + 2));
      problem.transform = random() % 2 ? ScoreTransform::kMagnitude : ScoreTransform::kSigned;
      problem.order = random() % 2 ? SelectionOrder::kLargest : SelectionOrder::kSmallest;
      problems.push_back(std::move(problem));
    }
  }
  EXPECT_EQ(on_gpu(problems), on_cpu(problems));
}

TEST_P(EveryDType, ViewsThatBeginAnywhereChooseTheSameBits) {
  const std::size_t element = size_of(GetParam());
  std::mt19937_64 random(30 + static_cast<unsigned>(GetParam()));
  for (const Values values : {Values::kNormal, Values::kMostlyZero}) {
    const Layer layer = make_layer(2 * 16'384 + 2'113, GetParam(), values, 0.7, random);
    for (std::size_t begin = 0; begin <= 16; begin += element) {
      std::vector<Problem> problems(1);
      problems[0].layers.push_back(layer);
      Layer& view = problems[0].layers.front();
      view.begin = begin;
      view.scores.insert(view.scores.begin(), begin, std::byte{0xFF});  // not finite, where somebody looks
      view.scores.resize(view.scores.size() + 64, std::byte{0xFF});
      problems[0].k = 3'000;
      const Chosen expected = on_cpu(problems);
      simt::num_vector_loads = 0;
      EXPECT_EQ(on_gpu(problems), expected) << begin;
      // The whole tiles of a layer are read in loads of 16 bytes once, or twice where ties are split again.
      const std::int64_t once = layer.numel / kTileWeights * kTileWeights * static_cast<std::int64_t>(element) / 16;
      EXPECT_TRUE(begin % 16 != 0 ? simt::num_vector_loads == 0
                                  : simt::num_vector_loads == once || simt::num_vector_loads == 2 * once)
          << simt::num_vector_loads;
      Chosen chosen;
      const std::vector<Selection> selections = selections_of(problems, chosen);
      SingletonReduction reduction;
      select_on_gpu(selections, reduction);
      Machine::instance().finish();
      EXPECT_EQ(chosen, expected) << begin;
      EXPECT_EQ(simt::num_vector_loads > 2 * once, begin % 16 == 0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(CudaSelection, EveryDType,
                         ::testing::Values(DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16));

TEST(CudaSelection, SamplesABracketInLargeLayersAndWaitsForNothing) {
  std::mt19937_64 random(5);
  std::vector<Problem> problems(2);
  problems[0].layers.push_back(make_layer(120'003, DType::kFloat32, Values::kNormal, 0.9, random));
  problems[0].k = 6000;
  problems[1].layers.push_back(make_layer(60'000, DType::kFloat32, Values::kNormal, 0.1, random));
  problems[1].k = 2000;
  problems[1].order = SelectionOrder::kSmallest;
  const Scheduled backward(simt::Schedule::kBackward);
  const Chosen expected = on_cpu(problems);
  Chosen chosen;
  const std::vector<Selection> selections = selections_of(problems, chosen);
  LocalReduction local;
  const auto verdict = select_on_gpu(selections, local);
  Calls calls = Machine::instance().calls;
  calls.stream_waits = 0;  // for streams that other tests have left
  EXPECT_EQ(calls, kByScores);
  verdict->check();
  EXPECT_EQ(chosen, expected);
}

TEST(CudaSelection, TiesOfALargeLayerAreBrokenWithoutListingThem) {
  std::mt19937_64 random(6);
  std::vector<Problem> problems(2);
  problems[0].layers.push_back(make_layer(40'000, DType::kFloat32, Values::kZeros, 0.9, random));
  problems[0].k = 20'000;
  problems[1].layers.push_back(make_layer(40'000, DType::kFloat32, Values::kMostlyZero, 1.0, random));
  problems[1].k = 20'000;
  EXPECT_EQ(on_gpu(problems), on_cpu(problems));
  EXPECT_EQ(Machine::instance().calls.launches, kByScores.launches) << "the second pass is in the refinement";
}

TEST(CudaSelection, ManyEqualScoresBesideTheThresholdAreCountedAndNotListed) {
  // Three values that many share, with distinct values between them: thresholds at each, beside each, and between.
  std::mt19937_64 random(17);
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16}) {
    std::vector<double> values(60'000);
    std::uniform_real_distribution<double> uniform(0.0, 3.0);
    for (double& value : values) {
      const double drawn = uniform(random);
      value = drawn < 0.9 ? 0.0 : drawn < 1.6 ? 1.0 : drawn < 2.0 ? 3.0 : drawn;
    }
    std::vector<Problem> problems;
    for (const std::int64_t k : {5, 3'000, 7'990, 8'010, 20'000, 27'900, 28'100, 35'000, 41'900, 42'100, 59'000}) {
      for (const SelectionOrder order : {SelectionOrder::kSmallest, SelectionOrder::kLargest}) {
        Problem problem;
        problem.layers.push_back(layer_of(values, dtype));
        problem.k = k;
        problem.order = order;
        problems.push_back(std::move(problem));
      }
    }
    EXPECT_EQ(on_gpu(problems), on_cpu(problems));
  }
}

TEST(CudaSelection, GrowsAtRandomInOnePass) {
  std::mt19937_64 random(7);
  std::vector<Problem> problems(3);
  for (Problem& problem : problems) problem.has_scores = false;
  problems[0].layers.push_back(make_layer(150'001, DType::kFloat32, Values::kZeros, 0.9, random));
  problems[0].k = 40'000;
  problems[1].layers.push_back(make_layer(500, DType::kFloat32, Values::kZeros, 0.5, random));
  problems[1].k = 20;
  problems[2].layers.push_back(make_layer(3 * 5 * 7 * 64, DType::kFloat32, Values::kZeros, 0.5, random));
  // Channels last: storage runs over the channels first.
  problems[2].layers[0].index_map.sizes = {64, 3, 5, 7};
  problems[2].layers[0].index_map.strides = {105, 5, 1, 15};
  problems[2].k = 1234;
  EXPECT_EQ(on_gpu(problems), on_cpu(problems));
  EXPECT_EQ(Machine::instance().calls.launches, kAtRandom.launches);
}

TEST(CudaSelection, ManyUndecidedTiesAreNarrowedBeforeTheyAreRanked) {
  std::mt19937_64 random(8);
  std::vector<Problem> problems(1);
  problems[0].has_scores = false;
  problems[0].layers.push_back(make_layer(400'000, DType::kFloat32, Values::kZeros, 1.0, random));
  problems[0].k = 200'000;  // about 2 * 5 * sqrt(100,000) candidates stay inside the window
  EXPECT_EQ(on_gpu(problems), on_cpu(problems));
  EXPECT_EQ(Machine::instance().calls.launches, kAtRandom.launches);
}

TEST(CudaSelection, AcrossLayersOfSeveralTypesAndOrders) {
  std::mt19937_64 random(9);
  for (const bool has_scores : {true, false}) {
    std::vector<Problem> problems(2);
    for (Problem& problem : problems) problem.has_scores = has_scores;
    problems[0].layers.push_back(make_layer(30'000, DType::kFloat32, Values::kNormal, 0.5, random));
    problems[0].layers.push_back(make_layer(0, DType::kFloat32, Values::kNormal, 0.5, random));
    problems[0].layers.push_back(make_layer(5'001, DType::kBFloat16, Values::kNormal, 0.5, random));
    problems[0].layers.push_back(make_layer(9'000, DType::kFloat64, Values::kFewDistinct, 0.5, random));
    problems[0].k = 7'777;
    problems[1].layers.push_back(make_layer(100, DType::kFloat16, Values::kNormal, 0.5, random));
    problems[1].layers.push_back(make_layer(50'000, DType::kFloat32, Values::kFewDistinct, 0.5, random));
    problems[1].k = 10'000;
    problems[1].order = SelectionOrder::kSmallest;
    EXPECT_EQ(on_gpu(problems), on_cpu(problems));
  }
}

TEST(CudaSelection, AMissedBracketIsMendedOnTheDevice) {
  // The sampled groups are the smallest, everything else is large: the sample misleads.
  std::mt19937_64 random(10);
  std::vector<Problem> problems(1);
  Layer layer = make_layer(65'536 * 2, DType::kFloat32, Values::kNormal, 1.0, random);
  ProblemEntry entry;
  entry.num_words = words_for(layer.numel);
  entry.num_sample_groups = 16384 / kSampleGroup;
  auto* scores = reinterpret_cast<float*>(layer.scores.data());
  for (std::int64_t i = 0; i < layer.numel; ++i) scores[i] = 10.0f + std::fabs(scores[i]);
  for (std::int64_t i = 0; i < entry.num_sample_groups; ++i) {
    for (int j = 0; j < kSampleGroup; ++j) scores[sampled_group(entry, i) * kSampleGroup + j] *= 1e-3f;
  }
  problems[0].layers.push_back(std::move(layer));
  problems[0].k = 40'000;
  for (const std::int64_t k : {1, 40'000, 120'000}) {
    problems[0].k = k;
    EXPECT_EQ(on_gpu(problems), on_cpu(problems)) << k;
    EXPECT_EQ(Machine::instance().calls.launches, kByScores.launches);
  }
}

TEST(CudaSelection, OverSeveralPartsTheHostSumsHistograms) {
  std::mt19937_64 random(12);
  std::vector<Problem> problems(4);
  problems[0].layers.push_back(make_layer(20'000, DType::kFloat32, Values::kNormal, 0.5, random));
  problems[0].k = 1'000;
  problems[1].layers.push_back(make_layer(5'000, DType::kFloat64, Values::kFewDistinct, 0.5, random));
  problems[1].k = 1'000;
  problems[2].layers.push_back(make_layer(7'000, DType::kBFloat16, Values::kZeros, 0.5, random));
  problems[2].k = 1'000;
  problems[3].layers.push_back(make_layer(7'000, DType::kFloat32, Values::kZeros, 0.5, random));
  problems[3].has_scores = false;
  problems[3].k = 100;
  Chosen chosen;
  const std::vector<Selection> selections = selections_of(problems, chosen);
  SingletonReduction reduction;
  EXPECT_EQ(select_on_gpu(selections, reduction), nullptr);
  Machine::instance().finish();
  EXPECT_EQ(chosen, on_cpu(problems));
  EXPECT_GT(reduction.num_sums, 4);
  EXPECT_LT(reduction.num_sums, 12) << "a search goes on although all of its last bin are wanted";
  EXPECT_EQ(Machine::instance().calls.waits, 1 + reduction.num_sums - 2) << "the types need none";
}

TEST(CudaSelection, PartsOfLayersChooseWhatOneProcessChooses) {
  // Each of three parts holds a third of two layers; of the second, the last part holds nothing.
  std::mt19937_64 random(16);
  for (const bool has_scores : {true, false}) {
    std::vector<Problem> whole(2);
    whole[0].layers.push_back(make_layer(9 * 1024, DType::kFloat32, Values::kFewDistinct, 0.5, random));
    whole[0].k = 2'000;
    whole[1].layers.push_back(make_layer(2 * 640, DType::kFloat64, Values::kNormal, 0.5, random));
    whole[1].k = 50;
    const std::int64_t lengths[2] = {3 * 1024, 640};
    for (Problem& problem : whole) problem.has_scores = has_scores;
    const Chosen expected = on_cpu(whole);

    std::vector<std::vector<Problem>> parts(3, std::vector<Problem>(2));
    std::vector<Chosen> chosen(3);
    for (std::size_t part = 0; part < 3; ++part) {
      for (std::size_t p = 0; p < 2; ++p) {
        const Layer& from = whole[p].layers[0];
        const auto begin = std::min(from.numel, static_cast<std::int64_t>(part) * lengths[p]);
        const auto end = std::min(from.numel, begin + lengths[p]);
        Layer cut;
        cut.dtype = from.dtype;
        cut.numel = end - begin;
        cut.index_map = IndexMap::contiguous(cut.numel, begin);
        const auto bytes = static_cast<std::ptrdiff_t>(size_of(from.dtype));
        cut.scores.assign(from.scores.begin() + begin * bytes, from.scores.begin() + end * bytes);
        cut.candidates.assign(from.candidates.begin() + begin / kWordBits, from.candidates.begin() + end / kWordBits);
        parts[part][p] = whole[p];
        parts[part][p].layers = {cut};
      }
    }
    Parts together(3);
    const auto errors = together.run([&](std::size_t part, Reduction& reduction) {
      const std::vector<Selection> selections = selections_of(parts[part], chosen[part]);
      EXPECT_EQ(backend_for({DeviceType::kCuda, 0}).select(selections, reduction, 0), nullptr);
    });
    Machine::instance().finish();
    for (const std::exception_ptr& error : errors) EXPECT_EQ(error, nullptr);
    for (std::size_t p = 0; p < 2; ++p) {
      std::vector<Word> joined;
      for (const Chosen& of_part : chosen) joined.insert(joined.end(), of_part[p].begin(), of_part[p].end());
      EXPECT_EQ(joined, expected[p]) << p;
    }
  }
}

TEST(CudaSelection, RefusesNaNAndInfinityEvenWhereNothingIsCompared) {
  std::mt19937_64 random(13);
  using Limits = std::numeric_limits<float>;
  for (const std::int64_t k : {0, 10, 1'000'000}) {
    const float bad = k == 10 ? Limits::quiet_NaN() : -Limits::infinity();
    std::vector<Problem> problems(2);
    for (Problem& problem : problems) {
      problem.layers.push_back(make_layer(1'000, DType::kFloat32, Values::kNormal, 0.5, random));
      problem.k = k;
    }
    std::memcpy(problems[1].layers[0].scores.data() + 4 * 999, &bad, 4);
    problems[1].layers[0].candidates.back() = 0;  // not even a candidate
    Chosen chosen;
    const std::vector<Selection> selections = selections_of(problems, chosen);
    for (const bool is_local : {true, false}) {
      LocalReduction local;
      SingletonReduction parts;
      try {
        const auto verdict = select_on_gpu(selections, is_local ? static_cast<Reduction&>(local) : parts);
        ASSERT_NE(verdict, nullptr);
        EXPECT_TRUE(is_local) << "over several parts it is known at once";
        verdict->check();
        FAIL() << "not refused";
      } catch (const NonFiniteError& error) {
        EXPECT_EQ(error.layer(), "layer1");
      }
    }
  }
}

TEST(CudaSelection, DoesNotDependOnTheOrderInWhichThreadsRun) {
  std::mt19937_64 random(14);
  std::vector<Problem> problems;
  for (int i = 0; i < 2; ++i) {
    Problem problem;
    problem.layers.push_back(
        make_layer(18'000 + 100 * i, DType::kFloat32, i % 2 ? Values::kNormal : Values::kFewDistinct, 0.5, random));
    problem.k = 4'000 * (i + 1);
    problems.push_back(std::move(problem));
  }
  const Chosen forward = on_gpu(problems);
  for (const simt::Schedule schedule : {simt::Schedule::kBackward, simt::Schedule::kShuffled}) {
    const Scheduled scheduled(schedule);
    EXPECT_EQ(on_gpu(problems), forward);
  }
}

TEST(CudaSelection, NothingToSelectFrom) {
  std::vector<Problem> none;
  EXPECT_TRUE(on_gpu(none).empty());
  std::mt19937_64 random(15);
  std::vector<Problem> problems(1);
  problems[0].layers.push_back(make_layer(0, DType::kFloat32, Values::kNormal, 0.5, random));
  problems[0].k = 5;
  EXPECT_EQ(on_gpu(problems), on_cpu(problems));
}

}  // namespace
}  // namespace itop::cuda
