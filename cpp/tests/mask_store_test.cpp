#include "itop/mask_store.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <stdexcept>

#include "itop/error.hpp"
#include "support/devices.hpp"
#include "support/draws.hpp"

namespace itop {
namespace {

LayerLayout layer_of(const std::string& name, std::int64_t numel) {
  return {name, numel, IndexMap::contiguous(numel), 0};
}

/// A store of three layers, one of them empty, with weights on the CPU.
class MaskStoreTest : public ::testing::Test {
 protected:
  MaskStore store_{{layer_of("conv", 100), layer_of("empty", 0), layer_of("fc", 70)}, Device{}, 9, 0};
  std::vector<float> conv_ = std::vector<float>(100, 1.0F);
  std::vector<float> fc_ = std::vector<float>(70, 1.0F);
  LocalReduction local_;

  static TensorView view(std::vector<float>& values) {
    return {values.data(), static_cast<std::int64_t>(values.size()), DType::kFloat32, Device{}};
  }
  std::vector<std::vector<TensorView>> tensors() { return {{view(conv_)}, {}, {view(fc_)}}; }
  SelectRequest random(std::vector<std::int64_t> k) {
    SelectRequest request;
    request.scores.resize(3);
    request.k = std::move(k);
    return request;
  }
  BitSets chosen(std::vector<std::int64_t> k) { return store_.select(store_.full(0), random(std::move(k)), local_, 0); }

  /// Expects an invalid_argument whose message holds `part`, and a store that is as it was.
  void expect_refused(const std::function<void()>& call, const std::string& part) {
    const auto active = store_.active().count(0);
    const auto conv = conv_;
    try {
      call();
      FAIL() << "accepted";
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
    EXPECT_EQ(store_.active().count(0), active);
    EXPECT_EQ(conv_, conv);
  }
};

using Counts = std::vector<std::int64_t>;

TEST_F(MaskStoreTest, BeginsWithNothingActive) {
  EXPECT_EQ(store_.active().count(0), (Counts{0, 0, 0}));
  EXPECT_EQ(store_.explored().count(0), (Counts{0, 0, 0}));
  EXPECT_EQ(store_.reliable().count(0), (Counts{0, 0, 0}));
  EXPECT_EQ(store_.seed(), 9U);
}

TEST_F(MaskStoreTest, TakesThreeBitsAWeightRoundedUpToWords) { EXPECT_EQ(store_.num_bytes(), 3 * (2 + 0 + 2) * 8); }

TEST_F(MaskStoreTest, FullHoldsEveryWeightAndNoMore) {
  EXPECT_EQ(store_.full(0).count(0), (Counts{100, 0, 70}));
  EXPECT_EQ(store_.full(0).layer_to_host(2, 0), (std::vector<Word>{~Word{0}, 0b111111}));
  EXPECT_EQ(store_.empty(0).count(0), (Counts{0, 0, 0}));
}

TEST_F(MaskStoreTest, SelectsEachLayersCount) {
  EXPECT_EQ(chosen({10, 0, 7}).count(0), (Counts{10, 0, 7}));
  EXPECT_EQ(chosen({1000, 5, 0}).count(0), (Counts{100, 0, 0}));  // no more than there are
}

TEST_F(MaskStoreTest, SelectsOneCountAcrossLayers) {
  SelectRequest request = random({50});
  request.across_layers = true;
  const Counts counts = store_.select(store_.full(0), request, local_, 0).count(0);
  EXPECT_EQ(counts[0] + counts[1] + counts[2], 50);
}

TEST_F(MaskStoreTest, SelectionIsAFunctionOfSeedUpdateAndDraw) {
  const auto words = [&](std::uint32_t update, std::uint32_t draw) {
    SelectRequest request = random({30, 0, 30});
    request.update = update;
    request.draw = draw;
    return store_.select(store_.full(0), request, local_, 0).layer_to_host(0, 0);
  };
  EXPECT_EQ(words(1, 0), words(1, 0));
  EXPECT_NE(words(1, 0), words(2, 0));
  EXPECT_NE(words(1, 0), words(1, 1));
  MaskStore other({layer_of("conv", 100), layer_of("empty", 0), layer_of("fc", 70)}, Device{}, 10, 0);
  EXPECT_NE(other.select(other.full(0), random({30, 0, 30}), local_, 0).layer_to_host(0, 0),
            store_.select(store_.full(0), random({30, 0, 30}), local_, 0).layer_to_host(0, 0));
}

TEST_F(MaskStoreTest, CommitsAndAppliesToEveryLayer) {
  const BitSets initial = chosen({10, 0, 7});
  auto counts = store_.commit(store_.empty(0), initial, tensors(), CommitOptions{}, 0);
  EXPECT_EQ(counts[0].active, 10);
  EXPECT_EQ(counts[2].active, 7);
  std::fill(conv_.begin(), conv_.end(), 2.0F);
  store_.apply(tensors(), 0);
  EXPECT_EQ(std::count(conv_.begin(), conv_.end(), 2.0F), 10);
  EXPECT_EQ(std::count(conv_.begin(), conv_.end(), 0.0F), 90);
  const auto words = store_.active().layer_to_host(0, 0);
  for (std::int64_t i = 0; i < 100; ++i)
    EXPECT_EQ(conv_[static_cast<std::size_t>(i)] != 0.0F, test_bit(words.data(), i));
}

TEST_F(MaskStoreTest, BitSetsCombineAndCopyWithoutSharing) {
  const BitSets some = chosen({40, 0, 20});
  EXPECT_EQ(store_.full(0).combined(BitOperation::kAndNot, some, 0).count(0), (Counts{60, 0, 50}));
  EXPECT_EQ(some.combined(BitOperation::kXor, some, 0).count(0), (Counts{0, 0, 0}));
  BitSets copy = some.copy(0);
  copy.layer_from_host(0, std::vector<Word>{0, 0}, 0);
  EXPECT_EQ(copy.count(0), (Counts{0, 0, 20}));
  EXPECT_EQ(some.count(0), (Counts{40, 0, 20}));
}

TEST_F(MaskStoreTest, WordsGoToTheHostAndBack) {
  const BitSets some = chosen({40, 0, 20});
  BitSets restored = store_.empty(0);
  for (std::size_t layer = 0; layer < 3; ++layer) restored.layer_from_host(layer, some.layer_to_host(layer, 0), 0);
  EXPECT_EQ(restored.combined(BitOperation::kXor, some, 0).count(0), (Counts{0, 0, 0}));
}

TEST_F(MaskStoreTest, RefusesWordsThatDoNotFitALayer) {
  BitSets bits = store_.empty(0);
  expect_refused([&] { bits.layer_from_host(0, std::vector<Word>{0}, 0); }, "layer 'conv' has 2 words");
  expect_refused([&] { bits.layer_from_host(2, std::vector<Word>{0, Word{1} << 6}, 0); }, "past the end of layer 'fc'");
}

TEST_F(MaskStoreTest, RefusesTensorsThatDoNotFitTheirLayerBeforeChangingAnything) {
  const BitSets some = chosen({10, 0, 7});
  auto swapped = tensors();
  std::swap(swapped[0], swapped[2]);
  expect_refused([&] { store_.commit(store_.empty(0), some, swapped, CommitOptions{}, 0); },
                 "layer 'conv' has 70 values");
  expect_refused([&] { store_.apply(swapped, 0); }, "layer 'conv' has 70 values");
  auto elsewhere = tensors();
  elsewhere[2][0].device = {DeviceType::kCuda, 1};
  expect_refused([&] { store_.commit(store_.empty(0), some, elsewhere, CommitOptions{}, 0); }, "is on cuda:1");
  auto missing = tensors();
  missing.pop_back();
  expect_refused([&] { store_.commit(store_.empty(0), some, missing, CommitOptions{}, 0); }, "every layer");
  expect_refused([&] { store_.apply(missing, 0); }, "every layer");
}

TEST_F(MaskStoreTest, RefusesRequestsThatDoNotFit) {
  expect_refused([&] { chosen({1, 2}); }, "one count a layer");
  SelectRequest request = random({1, 2, 3});
  request.across_layers = true;
  expect_refused([&] { store_.select(store_.full(0), request, local_, 0); }, "one count in all");
  request = random({1, 2, 3});
  request.scores.pop_back();
  expect_refused([&] { store_.select(store_.full(0), request, local_, 0); }, "scores");
  request = random({1, 2, 3});
  request.draw = 128;
  expect_refused([&] { store_.select(store_.full(0), request, local_, 0); }, "draw must be in [0, 128)");
  request = random({5});
  request.across_layers = true;
  request.scores[0] = view(conv_);
  expect_refused([&] { store_.select(store_.full(0), request, local_, 0); }, "for all layers or for none");
}

TEST_F(MaskStoreTest, RefusesBitSetsOfAnotherStore) {
  MaskStore other({layer_of("conv", 100), layer_of("empty", 0), layer_of("fc", 70)}, Device{}, 9, 0);
  expect_refused([&] { store_.select(other.full(0), random({1, 0, 1}), local_, 0); }, "different mask stores");
  expect_refused([&] { store_.commit(other.empty(0), store_.empty(0), tensors(), CommitOptions{}, 0); },
                 "different mask stores");
  expect_refused([&] { static_cast<void>(store_.full(0).combined(BitOperation::kAnd, other.full(0), 0)); },
                 "different mask stores");
}

TEST(MaskStore, RefusesLayersThatCannotBe) {
  EXPECT_THROW(MaskStore({layer_of("a", 1), layer_of("a", 2)}, Device{}, 0, 0), std::invalid_argument);
  LayerLayout uncovered = layer_of("a", 10);
  uncovered.numel = 11;
  EXPECT_THROW(MaskStore({uncovered}, Device{}, 0, 0), std::invalid_argument);
}

TEST(MaskStore, CountsStayExactOverThousandsOfUpdates) {
  // Drop and grow with ties (weights from few values, many exactly zero) on layers of awkward sizes.
  const std::vector<std::int64_t> sizes{1, 7, 64, 65, 500};
  std::vector<LayerLayout> layers;
  std::vector<std::vector<float>> weights;
  std::vector<std::int64_t> active, changed;
  for (const std::int64_t size : sizes) {
    layers.push_back(layer_of("layer" + std::to_string(size), size));
    weights.emplace_back(static_cast<std::size_t>(size));
    active.push_back((size + 3) / 4);
    changed.push_back(active.back() / 3);
  }
  MaskStore store(layers, Device{}, 3, 0);
  LocalReduction local;
  std::vector<std::vector<TensorView>> tensors;
  SelectRequest drop, grow;
  for (auto& weight : weights) {
    tensors.push_back({{weight.data(), static_cast<std::int64_t>(weight.size()), DType::kFloat32, Device{}}});
    drop.scores.emplace_back(tensors.back().front());
  }
  grow.scores.resize(sizes.size());
  grow.k = active;
  store.commit(store.empty(0), store.select(store.full(0), grow, local, 0), tensors, CommitOptions{}, 0);
  drop.order = SelectionOrder::kSmallest;
  drop.k = grow.k = changed;
  grow.draw = 1;
  testing::Draws draws(5);
  Counts explored(sizes.size());
  for (std::uint32_t update = 1; update <= 2'000; ++update) {
    for (auto& weight : weights) {
      for (float& value : weight) value = static_cast<float>(draws.below(3) - 1) * 0.5F;
    }
    store.apply(tensors, 0);
    drop.update = grow.update = update;
    const BitSets dropped = store.select(store.active(), drop, local, 0);
    const BitSets kept = store.active().combined(BitOperation::kAndNot, dropped, 0);
    const BitSets grown = store.select(store.full(0).combined(BitOperation::kAndNot, kept, 0), grow, local, 0);
    const auto counts = store.commit(dropped, grown, tensors, CommitOptions{}, 0);
    for (std::size_t l = 0; l < sizes.size(); ++l) {
      ASSERT_EQ(counts[l].active, active[l]) << "update " << update << ", layer " << l;
      ASSERT_EQ(counts[l].dropped, changed[l]);
      ASSERT_EQ(counts[l].grown, changed[l]);
      ASSERT_GE(counts[l].explored, explored[l]);
      explored[l] = counts[l].explored;
    }
  }
  EXPECT_EQ(explored[4], 500);  // by then every weight was active once
}

TEST(BackendFor, GivesTheSameObjectForTheCpu) { EXPECT_EQ(&backend_for(Device{}), &backend_for(Device{})); }

TEST(BackendFor, SaysWhatIsMissingWhereThereIsNoCudaDevice) {
  const BuildInfo info = build_info();
  if (info.num_cuda_devices > 0) GTEST_SKIP() << "there is a CUDA device";
  EXPECT_THROW(backend_for({DeviceType::kCuda, 0}), BackendUnavailableError);
}

TEST(BuildInfo, NamesVersionCompilerAndInstructionSet) {
  const BuildInfo info = build_info();
  EXPECT_FALSE(info.version.empty());
  EXPECT_FALSE(info.compiler.empty());
  EXPECT_TRUE(info.instruction_set == "portable" || info.instruction_set == "avx2" || info.instruction_set == "avx512");
  EXPECT_GE(info.num_threads, 1);
  EXPECT_EQ(info.cuda_architectures.empty(), !info.cuda_compiled);
}

}  // namespace
}  // namespace itop
