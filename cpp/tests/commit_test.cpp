// The contract of Backend::commit, apply and the bit set operations, on every device: first by hand, then against a
// loop.

#include "itop/backend.hpp"

#include <gtest/gtest.h>

#include <array>
#include <tuple>

#include "itop/thread_pool.hpp"
#include "support/devices.hpp"
#include "support/draws.hpp"
#include "support/values.hpp"

namespace itop::testing {
namespace {

using Bits = std::vector<bool>;

Bits bits_of(std::initializer_list<int> values) { return Bits(values.begin(), values.end()); }

/// One layer in host memory, before or after a change.
struct LayerState {
  Bits active, explored, reliable;
  std::vector<std::vector<double>> tensors;
};

struct Change {
  Bits dropped, grown;
  CommitOptions options;
};

/// The rules of a topology change, weight by weight.
LayerCounts commit_reference(LayerState& layer, const Change& change) {
  LayerCounts counts;
  for (std::size_t i = 0; i < layer.active.size(); ++i) {
    const bool dropped = change.dropped[i];
    const bool grown = change.grown[i];
    const bool kept = layer.active[i] && !dropped;
    const bool keeps_value = kept || (change.options.regrown_keeps_value && dropped && grown);
    const bool may_hold_values = dropped || change.options.zero_all_inactive;
    for (auto& tensor : layer.tensors) {
      if (may_hold_values && !keeps_value) tensor[i] = 0.0;
    }
    layer.active[i] = kept || grown;
    if (layer.active[i]) layer.explored[i] = true;
    if (kept && change.options.marks_reliable) layer.reliable[i] = true;
    counts.active += layer.active[i];
    counts.explored += layer.explored[i];
    counts.reliable += layer.reliable[i];
    counts.dropped += dropped;
    counts.grown += grown;
    counts.regrown += dropped && grown;
  }
  return counts;
}

class CommitOn : public ::testing::TestWithParam<std::tuple<Device, DType>> {
 protected:
  Device device() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  Backend& backend() const { return backend_for(device()); }

  /// Commits changes to layers in one call and brings everything back.
  std::vector<LayerCounts> commit(std::vector<LayerState>& layers, const std::vector<Change>& changes,
                                  const CommitOptions& options) {
    struct Buffers {
      DeviceBytes active, explored, reliable, dropped, grown;
      std::vector<DeviceBytes> tensors;
    };
    std::vector<Buffers> buffers;
    std::vector<LayerCommit> commits;
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const auto bits = [&](const Bits& host) { return DeviceBytes::of(device(), pack_bits(host)); };
      buffers.push_back({bits(layers[l].active),
                         bits(layers[l].explored),
                         bits(layers[l].reliable),
                         bits(changes[l].dropped),
                         bits(changes[l].grown),
                         {}});
      Buffers& on_device = buffers.back();
      LayerCommit one{static_cast<std::int64_t>(layers[l].active.size()),
                      on_device.active.words(),
                      on_device.explored.words(),
                      on_device.reliable.words(),
                      on_device.dropped.words(),
                      on_device.grown.words(),
                      {}};
      for (const auto& tensor : layers[l].tensors) {
        on_device.tensors.emplace_back(device(), encode(dtype(), tensor));
        one.tensors.push_back({on_device.tensors.back().data(), one.numel, dtype(), device()});
      }
      commits.push_back(std::move(one));
    }
    const std::vector<LayerCounts> counts = backend().commit(commits, options, {}, 0);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      const std::size_t numel = layers[l].active.size();
      layers[l].active = unpack_bits(buffers[l].active.read<Word>(), numel);
      layers[l].explored = unpack_bits(buffers[l].explored.read<Word>(), numel);
      layers[l].reliable = unpack_bits(buffers[l].reliable.read<Word>(), numel);
      for (std::size_t t = 0; t < layers[l].tensors.size(); ++t) {
        layers[l].tensors[t] = decode(dtype(), buffers[l].tensors[t].read<std::byte>());
      }
    }
    return counts;
  }

  /// Six weights: kept, dropped, regrown, grown, explored before and left alone, never explored. Inactive ones hold
  /// values here, so that one sees what a commit touches.
  static LayerState six_weights() {
    return {bits_of({1, 1, 1, 0, 0, 0}),
            bits_of({1, 1, 1, 0, 1, 0}),
            bits_of({0, 0, 0, 0, 1, 0}),
            {{1.0, 2.0, 3.0, 4.0, 5.0, 6.0}, {-1.0, -2.0, -3.0, -4.0, -5.0, -6.0}}};
  }
  static Change six_changes() { return {bits_of({0, 1, 1, 0, 0, 0}), bits_of({0, 0, 1, 1, 0, 0}), {}}; }
};

TEST_P(CommitOn, ZeroesWhatWasDroppedAndLeavesTheRest) {
  std::vector<LayerState> layers{six_weights()};
  const auto counts = commit(layers, {six_changes()}, CommitOptions{});
  EXPECT_EQ(layers[0].active, bits_of({1, 0, 1, 1, 0, 0}));
  EXPECT_EQ(layers[0].explored, bits_of({1, 1, 1, 1, 1, 0}));
  EXPECT_EQ(layers[0].reliable, bits_of({1, 0, 0, 0, 1, 0}));  // the one that survived; what was reliable stays
  EXPECT_EQ(layers[0].tensors[0], (std::vector<double>{1.0, 0.0, 0.0, 4.0, 5.0, 6.0}));
  EXPECT_EQ(layers[0].tensors[1], (std::vector<double>{-1.0, 0.0, 0.0, -4.0, -5.0, -6.0}));
  EXPECT_EQ(counts[0].active, 3);
  EXPECT_EQ(counts[0].explored, 5);
  EXPECT_EQ(counts[0].reliable, 2);
  EXPECT_EQ(counts[0].dropped, 2);
  EXPECT_EQ(counts[0].grown, 2);
  EXPECT_EQ(counts[0].regrown, 1);
}

TEST_P(CommitOn, LetsARegrownWeightKeepItsValueWhereTheMethodSaysSo) {
  std::vector<LayerState> layers{six_weights()};
  commit(layers, {six_changes()}, {.regrown_keeps_value = true});
  EXPECT_EQ(layers[0].tensors[0], (std::vector<double>{1.0, 0.0, 3.0, 4.0, 5.0, 6.0}));
  EXPECT_EQ(layers[0].tensors[1], (std::vector<double>{-1.0, 0.0, -3.0, -4.0, -5.0, -6.0}));
  EXPECT_EQ(layers[0].reliable, bits_of({1, 0, 0, 0, 1, 0}));  // dropped is dropped: no survivor
}

TEST_P(CommitOn, ZeroesEverythingInactiveAfterAnUnmaskedStep) {
  std::vector<LayerState> layers{six_weights()};
  commit(layers, {six_changes()}, {.zero_all_inactive = true});
  EXPECT_EQ(layers[0].tensors[0], (std::vector<double>{1.0, 0.0, 0.0, 0.0, 0.0, 0.0}));
  layers = {six_weights()};
  commit(layers, {six_changes()}, {.zero_all_inactive = true, .regrown_keeps_value = true});
  EXPECT_EQ(layers[0].tensors[0], (std::vector<double>{1.0, 0.0, 3.0, 0.0, 0.0, 0.0}));
}

TEST_P(CommitOn, MarksNothingReliableWhereDroppingWasNoPruningRound) {
  std::vector<LayerState> layers{six_weights()};
  commit(layers, {six_changes()}, {.marks_reliable = false});
  EXPECT_EQ(layers[0].reliable, bits_of({0, 0, 0, 0, 1, 0}));
}

TEST_P(CommitOn, FollowsTheRulesOnLayersOfEverySize) {
  Draws draws(41);
  for (const bool zero_all : {false, true}) {
    for (const bool keeps : {false, true}) {
      for (const bool marks : {false, true}) {
        const CommitOptions options{zero_all, keeps, marks};
        std::vector<LayerState> layers;
        std::vector<Change> changes;
        for (const std::int64_t n : {0, 1, 63, 64, 65, 1'000, 150'000}) {
          LayerState layer{draws.bits(n, 0.3), {}, draws.bits(n, 0.1), {draws.bell(n), draws.bell(n), draws.bell(n)}};
          layer.explored = layer.active;
          Change change{draws.bits(n, 0.3), draws.bits(n, 0.2), options};
          for (std::size_t i = 0; i < change.dropped.size(); ++i) {
            change.dropped[i] = change.dropped[i] && layer.active[i];
            change.grown[i] = change.grown[i] && (!layer.active[i] || change.dropped[i]);
          }
          for (auto& tensor : layer.tensors) tensor = decode(dtype(), encode(dtype(), tensor));
          layers.push_back(std::move(layer));
          changes.push_back(std::move(change));
        }
        std::vector<LayerState> expected = layers;
        const auto counts = commit(layers, changes, options);
        for (std::size_t l = 0; l < layers.size(); ++l) {
          const LayerCounts wanted = commit_reference(expected[l], changes[l]);
          SCOPED_TRACE(layers[l].active.size());
          EXPECT_EQ(layers[l].active, expected[l].active);
          EXPECT_EQ(layers[l].explored, expected[l].explored);
          EXPECT_EQ(layers[l].reliable, expected[l].reliable);
          EXPECT_EQ(layers[l].tensors, expected[l].tensors);
          EXPECT_EQ(counts[l].active, wanted.active);
          EXPECT_EQ(counts[l].explored, wanted.explored);
          EXPECT_EQ(counts[l].reliable, wanted.reliable);
          EXPECT_EQ(counts[l].dropped, wanted.dropped);
          EXPECT_EQ(counts[l].grown, wanted.grown);
          EXPECT_EQ(counts[l].regrown, wanted.regrown);
        }
      }
    }
  }
}

TEST_P(CommitOn, ApplyZeroesExactlyTheInactiveWeights) {
  Draws draws(42);
  for (const double density : {0.0, 0.02, 0.1, 0.5, 0.97, 1.0}) {
    for (const std::int64_t n : {0, 1, 63, 64, 65, 1'000, 150'000}) {
      const Bits active = draws.bits(n, density);
      std::vector<double> values = decode(dtype(), encode(dtype(), draws.bell(n)));
      // A word past the end must survive: it belongs to somebody else.
      std::vector<double> padded = values;
      padded.resize(values.size() + 64, 1.5);
      const DeviceBytes on_device(device(), encode(dtype(), padded));
      const DeviceBytes mask = DeviceBytes::of(device(), pack_bits(active));
      const std::vector<LayerApply> layers{{n, mask.words(), {{on_device.data(), n, dtype(), device()}}}};
      backend().apply(layers, 0);
      for (std::size_t i = 0; i < values.size(); ++i) padded[i] = active[i] ? values[i] : 0.0;
      EXPECT_EQ(decode(dtype(), on_device.read<std::byte>()), padded) << "n " << n << ", density " << density;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(EveryDeviceAndType, CommitOn,
                         ::testing::Combine(::testing::ValuesIn(available_devices()), ::testing::ValuesIn(kAllDTypes)),
                         name_of_device_and_type);

class BitOperationsOn : public ::testing::TestWithParam<Device> {
 protected:
  Backend& backend() const { return backend_for(GetParam()); }
};

TEST_P(BitOperationsOn, NewWordsAreZero) {
  auto buffer = backend().allocate(5, Contents::kZero, 0);
  std::vector<Word> host(5, 1);
  backend().copy_to_host(buffer->data(), host, 0);
  EXPECT_EQ(host, std::vector<Word>(5, 0));
  EXPECT_EQ(buffer->size(), 5);
  EXPECT_EQ(backend().allocate(0, Contents::kZero, 0)->size(), 0);
}

TEST_P(BitOperationsOn, CombineWordByWordAlsoInPlace) {
  const std::vector<Word> a{0b1100, ~Word{0}, 0}, b{0b1010, 0b1, ~Word{0}};
  const std::array<std::pair<BitOperation, std::vector<Word>>, 4> expected{{
      {BitOperation::kAnd, {0b1000, 0b1, 0}},
      {BitOperation::kOr, {0b1110, ~Word{0}, ~Word{0}}},
      {BitOperation::kAndNot, {0b0100, ~Word{1}, 0}},
      {BitOperation::kXor, {0b0110, ~Word{1}, ~Word{0}}},
  }};
  for (const auto& [operation, result] : expected) {
    const DeviceBytes left = DeviceBytes::of(GetParam(), a);
    const DeviceBytes right = DeviceBytes::of(GetParam(), b);
    const DeviceBytes target = DeviceBytes::of(GetParam(), std::vector<Word>(3, 77));
    backend().combine(operation, left.words(), right.words(), target.words(), 3, 0);
    EXPECT_EQ(target.read<Word>(), result);
    backend().combine(operation, left.words(), right.words(), left.words(), 3, 0);
    EXPECT_EQ(left.read<Word>(), result);
  }
}

TEST_P(BitOperationsOn, CountsEachRangeOfWords) {
  Draws draws(43);
  std::vector<Word> words(5'000);
  for (auto& word : words)
    word =
        static_cast<Word>(draws.below(std::int64_t{1} << 62)) & static_cast<Word>(draws.below(std::int64_t{1} << 62));
  const std::vector<std::int64_t> offsets{0, 0, 1, 3, 3, 4'000, 5'000};
  const DeviceBytes on_device = DeviceBytes::of(GetParam(), words);
  const auto counts = backend().count(on_device.words(), offsets, 0);
  ASSERT_EQ(counts.size(), 6U);
  for (std::size_t range = 0; range + 1 < offsets.size(); ++range) {
    std::int64_t expected = 0;
    for (auto word = offsets[range]; word < offsets[range + 1]; ++word)
      expected += std::popcount(words[static_cast<std::size_t>(word)]);
    EXPECT_EQ(counts[range], expected);
  }
  EXPECT_TRUE(backend().count(on_device.words(), std::vector<std::int64_t>{}, 0).empty());
  EXPECT_TRUE(backend().count(on_device.words(), std::vector<std::int64_t>{0}, 0).empty());
}

TEST_P(BitOperationsOn, UnpackAndPackAreInverse) {
  Draws draws(44);
  for (const std::int64_t n : {0, 1, 63, 64, 65, 1'000, 3'000'001}) {
    const Bits bits = draws.bits(n, 0.4);
    const DeviceBytes packed = DeviceBytes::of(GetParam(), pack_bits(bits));
    const DeviceBytes bytes =
        DeviceBytes::of(GetParam(), std::vector<std::uint8_t>(static_cast<std::size_t>(n) + 1, 9));
    backend().unpack(packed.words(), static_cast<std::uint8_t*>(bytes.data()), n, 0);
    std::vector<std::uint8_t> host = bytes.read<std::uint8_t>();
    EXPECT_EQ(host.back(), 9);  // nothing is written past the end
    host.pop_back();
    EXPECT_TRUE(std::equal(host.begin(), host.end(), bits.begin(), bits.end()));
    for (auto& byte : host) byte = byte != 0 ? 255 : 0;  // any byte but zero is a set bit
    const DeviceBytes source = DeviceBytes::of(GetParam(), host);
    const DeviceBytes again = DeviceBytes::of(GetParam(), std::vector<Word>(pack_bits(bits).size(), ~Word{0}));
    backend().pack(static_cast<const std::uint8_t*>(source.data()), again.words(), n, 0);
    EXPECT_EQ(again.read<Word>(), pack_bits(bits));
  }
}

INSTANTIATE_TEST_SUITE_P(EveryDevice, BitOperationsOn, ::testing::ValuesIn(available_devices()), name_of_device);

}  // namespace
}  // namespace itop::testing
