// The CUDA backend as a whole, on an emulated machine: the CPU's bits, and what the host asks of the machine for them.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "emulated_cuda/machine.hpp"
#include "itop/device_sparse_linear.hpp"
#include "itop/error.hpp"
#include "itop/mask_store.hpp"
#include "support/devices.hpp"
#include "support/draws.hpp"
#include "support/values.hpp"

namespace itop {
namespace {

using emulated_cuda::Calls;
using emulated_cuda::Machine;
using emulated_cuda::Pace;
using testing::DeviceBytes;
using testing::Draws;

constexpr Device kGpu{DeviceType::kCuda, 0};

StreamHandle handle_of(cudaStream_t stream) { return reinterpret_cast<StreamHandle>(stream); }

/// Leaves the machine as it found it, with all work done and nothing written where it must not be.
class OnAMachine : public ::testing::Test {
 protected:
  void TearDown() override {
    machine_.finish();
    machine_.pace = Pace::kLate;
    machine_.schedule = cuda::simt::Schedule::kForward;
    machine_.num_devices = 1;
    machine_.driver = cudaSuccess;
  }

  /// What `body` asks of the machine.
  template <class Body>
  Calls calls_of(Body&& body) {
    machine_.finish();
    machine_.calls = {};
    body();
    return machine_.calls;
  }

  Machine& machine_ = Machine::instance();
};

struct LayerShape {
  IndexMap index_map;
  DType dtype = DType::kFloat32;
  std::int64_t numel() const { return index_map.numel(); }
};

/// Sizes around a word, a warp's tile and a block's chunk, any size up to `largest`; some stored channels last, some
/// shards.
std::vector<LayerShape> random_layers(int count, std::int64_t largest, Draws& draws) {
  constexpr std::int64_t edges[] = {1, 63, 64, 65, 2047, 2048, 2049, 16'384, 16'385, 0};
  std::vector<LayerShape> layers;
  for (int i = 0; i < count; ++i) {
    LayerShape layer;
    layer.dtype = testing::kAllDTypes[i % 4];
    if (i % 5 == 3) {
      const std::int64_t out = 1 + draws.below(11), in = 1 + draws.below(11);
      const std::int64_t height = 1 + draws.below(5), width = 1 + draws.below(5);
      layer.index_map = {0, {out, height, width, in}, {in * height * width, width, 1, height * width}};
    } else {
      const std::int64_t numel = i % 3 == 0 ? std::min(edges[(i / 3) % 10], largest) : 1 + draws.below(largest);
      layer.index_map = IndexMap::contiguous(numel, i % 7 == 2 ? draws.below(1000) : 0);
    }
    layers.push_back(layer);
  }
  return layers;
}

/// Values with no ties, a few ties, mostly zeros, or signed zeros only.
std::vector<double> random_values(std::int64_t numel, Draws& draws) {
  std::vector<double> values = draws.bell(numel);
  const std::int64_t kind = draws.below(8);
  for (double& value : values) {
    if (kind == 1 || kind == 2) value = std::round(4 * value) / 4;
    if (kind == 3 || kind == 4) value = draws.uniform() < 0.1 ? value : 0.0;
    if (kind == 5) value = draws.uniform() < 0.5 ? 0.0 : -0.0;
  }
  return values;
}

/// One model's topology on one device, with weights, a state of another type and gradients for each layer.
class Model {
 public:
  Model(const std::vector<LayerShape>& layers, const Device& device, StreamHandle stream = 0)
      : layers_(layers), device_(device), stream_(stream), store_(layouts(layers), device, 77, stream) {
    for (const LayerShape& layer : layers) {
      const std::vector<double> zeros(static_cast<std::size_t>(layer.numel()));
      weights_.emplace_back(device, testing::encode(layer.dtype, zeros));
      states_.emplace_back(device, testing::encode(DType::kFloat32, zeros));
      gradients_.emplace_back(device, testing::encode(layer.dtype, zeros));
    }
  }

  MaskStore& store() { return store_; }

  /// What training does between updates: new values everywhere, then masks.
  void train(Draws& draws) {
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      const LayerShape& layer = layers_[i];
      write(weights_[i], testing::encode(layer.dtype, random_values(layer.numel(), draws)));
      write(states_[i], testing::encode(DType::kFloat32, random_values(layer.numel(), draws)));
      write(gradients_[i], testing::encode(layer.dtype, random_values(layer.numel(), draws)));
    }
    apply();
  }

  void apply() { store_.apply(tensors(), stream_); }

  /// A topology update; what it does depends on `number` only.
  std::vector<LayerCounts> update(std::uint32_t number) {
    if (number == 0) {
      std::vector<std::int64_t> thirds;
      for (const LayerShape& layer : layers_) thirds.push_back(layer.numel() / 3);
      return commit(store_.empty(stream_), select(store_.full(stream_), {}, thirds, number, 0), number);
    }
    const std::vector<std::int64_t> num_active = store_.active().count(stream_);
    std::vector<std::int64_t> k;
    std::int64_t sum = 0;
    for (const std::int64_t active : num_active) sum += k.emplace_back(active / 3);
    if (number % 4 == 2) k = {sum};
    const BitSets dropped = select(store_.active(), weights_, k, number, 0, SelectionOrder::kSmallest);
    const std::vector<std::int64_t> num_dropped = dropped.count(stream_);
    return grow_and_commit(dropped, num_dropped, number, number % 3 != 0);
  }

  /// The update of a method that knows its counts: select, complement, select, commit.
  std::vector<LayerCounts> plain_update(const std::vector<std::int64_t>& k, std::uint32_t number, bool by_gradient) {
    return grow_and_commit(select(store_.active(), weights_, k, number, 0, SelectionOrder::kSmallest), k, number,
                           by_gradient);
  }

  BitSets select(const BitSets& candidates, const std::vector<DeviceBytes>& scores, const std::vector<std::int64_t>& k,
                 std::uint32_t number, std::uint32_t draw, SelectionOrder order = SelectionOrder::kLargest) {
    SelectRequest request;
    request.scores.resize(layers_.size());
    for (std::size_t i = 0; i < scores.size(); ++i)
      request.scores[i] = TensorView{scores[i].data(), layers_[i].numel(), layers_[i].dtype, device_};
    request.transform = number % 2 == 0 ? ScoreTransform::kMagnitude : ScoreTransform::kSigned;
    request.order = order;
    request.k = k;
    request.across_layers = k.size() == 1 && layers_.size() > 1;
    request.update = number;
    request.draw = draw;
    LocalReduction local;
    return store_.select(candidates, request, local, stream_);
  }

  std::vector<LayerCounts> commit(const BitSets& dropped, const BitSets& grown, std::uint32_t number) {
    return store_.commit(dropped, grown, tensors(), {number % 5 == 0, number % 2 == 1, number > 0}, stream_);
  }

  /// Every bit there is, layer by layer: sets, then weights and state as bytes.
  std::vector<std::vector<std::byte>> snapshot() {
    std::vector<std::vector<std::byte>> bytes;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      for (const BitSets* sets : {&store_.active(), &store_.explored(), &store_.reliable()}) {
        const std::vector<Word> words = sets->layer_to_host(i, stream_);
        const auto view = std::as_bytes(std::span(words));
        bytes.emplace_back(view.begin(), view.end());
      }
      bytes.push_back(weights_[i].read<std::byte>());
      bytes.push_back(states_[i].read<std::byte>());
    }
    return bytes;
  }

  const std::vector<DeviceBytes>& weights() const { return weights_; }

  /// Makes the last weight of a layer infinite.
  void spoil(std::size_t layer) {
    std::vector<double> values = testing::decode(layers_[layer].dtype, weights_[layer].read<std::byte>());
    values.back() = std::numeric_limits<double>::infinity();
    write(weights_[layer], testing::encode(layers_[layer].dtype, values));
  }

 private:
  static std::vector<LayerLayout> layouts(const std::vector<LayerShape>& layers) {
    std::vector<LayerLayout> result;
    for (const LayerShape& layer : layers) {
      result.push_back({"layer" + std::to_string(result.size()), layer.numel(), layer.index_map, 0});
    }
    return result;
  }

  std::vector<LayerCounts> grow_and_commit(const BitSets& dropped, const std::vector<std::int64_t>& k,
                                           std::uint32_t number, bool by_gradient) {
    const BitSets kept = store_.active().combined(BitOperation::kAndNot, dropped, stream_);
    const BitSets free = kept.complement(stream_);
    const BitSets grown = by_gradient ? select(free, gradients_, k, number, 1) : select(free, {}, k, number, 1);
    return commit(dropped, grown, number);
  }

  std::vector<std::vector<TensorView>> tensors() const {
    std::vector<std::vector<TensorView>> result;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
      result.push_back({{weights_[i].data(), layers_[i].numel(), layers_[i].dtype, device_},
                        {states_[i].data(), layers_[i].numel(), DType::kFloat32, device_}});
    }
    return result;
  }

  void write(DeviceBytes& target, const std::vector<std::byte>& bytes) { target = DeviceBytes(device_, bytes); }

  std::vector<LayerShape> layers_;
  Device device_;
  StreamHandle stream_;
  MaskStore store_;
  std::vector<DeviceBytes> weights_, states_, gradients_;
};

std::vector<std::int64_t> flat(const std::vector<LayerCounts>& counts) {
  std::vector<std::int64_t> result;
  for (const LayerCounts& one : counts) {
    result.insert(result.end(), {one.active, one.explored, one.reliable, one.dropped, one.grown, one.regrown});
  }
  return result;
}

using PaceAndSchedule = std::tuple<Pace, cuda::simt::Schedule>;

class CudaBackendParity : public OnAMachine, public ::testing::WithParamInterface<PaceAndSchedule> {
 protected:
  void expect_same_bits(const std::vector<LayerShape>& layers, std::uint32_t num_updates, std::uint64_t seed) {
    std::tie(machine_.pace, machine_.schedule) = GetParam();
    Model cpu(layers, Device{});
    Model gpu(layers, kGpu);
    Draws for_cpu(seed), for_gpu(seed);
    for (std::uint32_t number = 0; number <= num_updates; ++number) {
      cpu.train(for_cpu);
      gpu.train(for_gpu);
      ASSERT_EQ(flat(gpu.update(number)), flat(cpu.update(number))) << "counts of update " << number;
      const auto expected = cpu.snapshot();
      const auto actual = gpu.snapshot();
      for (std::size_t i = 0; i < expected.size(); ++i) {
        ASSERT_EQ(actual[i], expected[i]) << "update " << number << ", layer " << i / 5 << " of "
                                          << layers[i / 5].numel() << " weights, array " << i % 5;
      }
    }
  }
};

TEST_P(CudaBackendParity, ManyUpdatesOfRandomLayersLeaveTheCpusBits) {
  Draws draws(51);
  expect_same_bits(random_layers(25, 4'000, draws), 25, 52);
}

TEST_P(CudaBackendParity, LayersLargerThanASampleLeaveTheCpusBits) {
  std::vector<LayerShape> layers;
  for (const std::int64_t numel : {70'001, 40'003, 17'000, 65'536}) {
    layers.push_back({IndexMap::contiguous(numel), testing::kAllDTypes[layers.size()]});
  }
  expect_same_bits(layers, 6, 53);
}

INSTANTIATE_TEST_SUITE_P(EveryPace, CudaBackendParity,
                         ::testing::Values(PaceAndSchedule{Pace::kLate, cuda::simt::Schedule::kForward},
                                           PaceAndSchedule{Pace::kEager, cuda::simt::Schedule::kBackward},
                                           PaceAndSchedule{Pace::kLate, cuda::simt::Schedule::kShuffled}));

class CudaBackendCalls : public OnAMachine {
 protected:
  static std::vector<LayerShape> some_layers(int count) {
    std::vector<LayerShape> layers;
    for (int i = 0; i < count; ++i) layers.push_back({IndexMap::contiguous(500 + 10 * i), DType::kFloat32});
    return layers;
  }

  /// The calls of the third update.
  Calls calls_of_an_update(int num_layers, bool by_gradient) {
    Model model(some_layers(num_layers), kGpu);
    Draws draws(61);
    const std::vector<std::int64_t> k(static_cast<std::size_t>(num_layers), 30);
    Calls calls;
    for (std::uint32_t number = 0; number < 3; ++number) {
      model.train(draws);
      calls = calls_of([&] { number == 0 ? model.update(0) : model.plain_update(k, number, by_gradient); });
    }
    return calls;
  }
};

TEST_F(CudaBackendCalls, AnUpdateTakesAsManyForOneLayerAsForMany) {
  for (const bool by_gradient : {false, true}) {
    const Calls of_one = calls_of_an_update(1, by_gradient);
    EXPECT_EQ(calls_of_an_update(54, by_gradient), of_one);
    EXPECT_EQ(of_one, (Calls{.launches = by_gradient ? 18 : 16, .waits = 1, .downloads = 1, .allocations = 9}));
  }
}

TEST_F(CudaBackendCalls, ApplyIsOneLaunchAndNothingElse) {
  for (const int num_layers : {1, 54, 400}) {
    Model model(some_layers(num_layers), kGpu);
    EXPECT_EQ(calls_of([&] { model.apply(); }), (Calls{.launches = 1})) << num_layers;
  }
  Model large(some_layers(1000), kGpu);
  EXPECT_EQ(calls_of([&] { large.apply(); }), (Calls{.launches = 3})) << "800 tensors a launch";
}

TEST_F(CudaBackendCalls, WhatReturnsNothingWaitsForNothing) {
  Model model(some_layers(5), kGpu);
  MaskStore& store = model.store();
  EXPECT_EQ(calls_of([&] { store.full(0).complement(0); }).waits, 0);
  EXPECT_EQ(calls_of([&] { store.empty(0).combined(BitOperation::kXor, store.active(), 0); }).waits, 0);
  EXPECT_EQ(calls_of([&] { store.active().count(0); }).waits, 1);
}

class CudaBackendStreams : public OnAMachine {};

TEST_F(CudaBackendStreams, ApplyIsCapturedInAGraphAndAnUpdateIsRefused) {
  const cudaStream_t stream = machine_.make_stream();
  Draws draws(71);
  const auto layers = random_layers(120, 300, draws);
  Model model(layers, kGpu, handle_of(stream));
  model.train(draws);
  model.update(0);
  machine_.finish();
  const auto before = model.snapshot();
  machine_.begin_capture(stream);
  const Calls calls = [&] {
    machine_.calls = {};
    model.apply();
    return machine_.calls;
  }();
  EXPECT_THROW(model.store().active().count(handle_of(stream)), CudaError);
  try {
    model.store().empty(handle_of(stream));
    ADD_FAILURE() << "memory of a graph was taken for a bit set";
  } catch (const CudaError& error) {
    EXPECT_NE(std::string(error.what()).find("cannot be made while"), std::string::npos) << error.what();
  }
  EXPECT_THROW(model.plain_update(std::vector<std::int64_t>(layers.size(), 1), 1, true), CudaError);
  const auto graph = machine_.end_capture();
  EXPECT_EQ(calls, (Calls{.launches = 1}));
  EXPECT_EQ(graph.size(), 1U);
  EXPECT_EQ(model.snapshot(), before) << "a capture does nothing yet";
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::vector<Word> ones(
        static_cast<std::size_t>(layers[i].numel()) * size_of(layers[i].dtype) / sizeof(Word) + 1, 0x0101010101010101);
    backend_for(kGpu).copy_from_host(ones, model.weights()[i].words(), handle_of(stream));
  }
  for (const auto& node : graph) node();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::vector<Word> active = model.store().active().layer_to_host(i, handle_of(stream));
    const std::vector<double> values = testing::decode(layers[i].dtype, model.weights()[i].read<std::byte>());
    for (std::size_t at = 0; at < values.size(); ++at)
      ASSERT_EQ(values[at] != 0.0, test_bit(active.data(), static_cast<std::int64_t>(at)));
  }
}

TEST_F(CudaBackendStreams, ASetMayBeDroppedWhileAnotherStreamStillReadsIt) {
  const cudaStream_t other = machine_.make_stream();
  Model model({{IndexMap::contiguous(10'000), DType::kFloat32}}, kGpu);
  for (int i = 0; i < 3; ++i) {
    auto temporary = std::make_unique<BitSets>(model.store().full(0));
    machine_.finish();
    const BitSets copy = temporary->copy(handle_of(other));
    temporary.reset();  // freed on the null stream, which waits for the other one
    EXPECT_EQ(model.store().empty(0).count(0), (std::vector<std::int64_t>{0}));
    EXPECT_EQ(copy.count(handle_of(other)), (std::vector<std::int64_t>{10'000}));
  }
}

TEST_F(CudaBackendStreams, NoNumberOfStreamsIsTooManyToWaitForAndFewAreRemembered) {
  std::vector<cudaStream_t> streams;
  for (int i = 0; i < 60; ++i) streams.push_back(machine_.make_stream());
  Model model({{IndexMap::contiguous(10'000), DType::kFloat32}}, kGpu);
  auto temporary = std::make_unique<BitSets>(model.store().full(0));
  machine_.finish();
  std::vector<BitSets> copies;
  for (const cudaStream_t stream : streams) copies.push_back(temporary->copy(handle_of(stream)));
  // Every stream still has its copy to make; the null stream frees what they read, and uses it again.
  machine_.calls = {};
  temporary.reset();
  const Calls calls = machine_.calls;
  EXPECT_GT(calls.stream_waits, 1);
  EXPECT_LT(calls.stream_waits, 12);
  EXPECT_EQ(model.store().empty(0).count(0), (std::vector<std::int64_t>{0}));
  for (std::size_t i = 0; i < streams.size(); ++i) {
    EXPECT_EQ(copies[i].count(handle_of(streams[i])), (std::vector<std::int64_t>{10'000})) << i;
  }
}

TEST_F(CudaBackendStreams, TheDeviceComesFromTheStoreAndTheCurrentOneStays) {
  machine_.num_devices = 3;
  Draws draws(72);
  const auto layers = random_layers(6, 500, draws);
  Model model(layers, {DeviceType::kCuda, 2});
  model.train(draws);
  model.update(0);
  EXPECT_EQ(machine_.current_device, 0);
}

class CudaBackendErrors : public OnAMachine {
 protected:
  static std::string refusal(int device_index) {
    try {
      backend_for({DeviceType::kCuda, device_index});
    } catch (const BackendUnavailableError& error) {
      return error.what();
    }
    return "";
  }
};

TEST_F(CudaBackendErrors, ARefusalSaysWhatIsMissing) {
  machine_.driver = cudaErrorInsufficientDriver;
  EXPECT_EQ(refusal(40),
            "a tensor is on a CUDA device, but there is no usable driver: CUDA driver version is insufficient for CUDA "
            "runtime version (cudaErrorInsufficientDriver)");
  EXPECT_EQ(testing::available_devices().size(), 1U);
  machine_.driver = cudaSuccess;
  machine_.num_devices = 0;
  EXPECT_EQ(refusal(40),
            "a tensor is on a CUDA device, but there is no device: no CUDA-capable device is detected "
            "(cudaErrorNoDevice)");
  machine_.num_devices = 2;
  EXPECT_EQ(refusal(40), "a tensor is on cuda:40, but this machine has 2 CUDA devices");
  machine_.num_devices = 1;
  EXPECT_EQ(refusal(40), "a tensor is on cuda:40, but this machine has 1 CUDA device");
  EXPECT_EQ(refusal(0), "");
  EXPECT_EQ(machine_.last_error(), cudaSuccess) << "an error that was reported is found by the next caller";
}

TEST_F(CudaBackendErrors, ADeviceThatTheBuildHasNoCodeForIsRefusedUntilItHas) {
  machine_.num_devices = 8;
  for (const cudaError_t error : {cudaErrorNoKernelImageForDevice, cudaErrorInvalidDeviceFunction}) {
    machine_.fail("cudaFuncGetAttributes", error, 1);
    EXPECT_EQ(
        refusal(7),
        "a tensor is on cuda:7, for which this build of itop has no code: it is compiled for emulated; install it on "
        "that machine, or set CUDAARCHS");
    EXPECT_EQ(machine_.last_error(), cudaSuccess);
  }
  EXPECT_EQ(refusal(7), "");
  EXPECT_EQ(machine_.current_device, 0);
}

using CudaBackendDeathTest = CudaBackendErrors;

TEST_F(CudaBackendDeathTest, TheHostAndWhoeverGoesPastTheEndAreStopped) {
  const auto words = backend_for(kGpu).allocate(100, Contents::kZero, 0);
  machine_.finish();
  volatile Word* const data = words->data();
  EXPECT_EXIT(static_cast<void>(data[0]), ::testing::KilledBySignal(SIGSEGV), "touched by the host");
  EXPECT_EXIT(machine_.as_device([&] { static_cast<void>(data[100]); }), ::testing::KilledBySignal(SIGSEGV),
              "past its end");
  machine_.as_device([&] { EXPECT_EQ(data[99], 0U); });
}

TEST_F(CudaBackendErrors, AnUpdateThatRunsOutOfMemoryChangesNothingAndLeaksNothing) {
  Draws draws(81);
  const auto layers = random_layers(8, 600, draws);
  Model model(layers, kGpu);
  model.train(draws);
  model.update(0);
  model.train(draws);
  const auto before = model.snapshot();
  machine_.finish();
  const int num_allocations = machine_.num_allocations();
  const std::vector<std::int64_t> k(layers.size(), 1);
  for (int skipped = 0; skipped < 9; ++skipped) {
    machine_.fail("cudaMallocFromPoolAsync", cudaErrorMemoryAllocation, skipped);
    try {
      model.plain_update(k, 1, true);
      ADD_FAILURE() << "allocation " << skipped;
    } catch (const CudaError& error) {
      EXPECT_STREQ(error.what(), "cudaMallocFromPoolAsync failed: out of memory (cudaErrorMemoryAllocation)");
    }
    machine_.finish();
    EXPECT_EQ(machine_.num_allocations(), num_allocations);
    EXPECT_EQ(model.snapshot(), before);
  }
}

TEST_F(CudaBackendErrors, AnUpdateByScoresWithoutAnOrderChangesNothing) {
  Draws draws(82);
  for (const std::size_t bad : {0, 3, 5}) {
    const auto layers = random_layers(6, 600, draws);
    Model model(layers, kGpu);
    model.train(draws);
    model.update(0);
    model.train(draws);
    model.spoil(bad);
    const auto before = model.snapshot();
    for (const bool by_gradient : {false, true}) {
      try {
        model.plain_update(std::vector<std::int64_t>(layers.size(), 1), 1, by_gradient);
        ADD_FAILURE() << "not refused";
      } catch (const NonFiniteError& error) {
        EXPECT_EQ(error.layer(), "layer" + std::to_string(bad));
      }
      EXPECT_EQ(model.snapshot(), before);
    }
  }
}

TEST_F(CudaBackendErrors, ASetWhoseScoresHadNoOrderIsNotShown) {
  Model model({{IndexMap::contiguous(100), DType::kFloat32}, {IndexMap::contiguous(70), DType::kFloat32}}, kGpu);
  model.spoil(1);
  const BitSets chosen = model.select(model.store().full(0), model.weights(), {10, 10}, 0, 0);
  const BitSets others = chosen.complement(0);
  EXPECT_THROW(chosen.count(0), NonFiniteError);
  EXPECT_THROW(others.count(0), NonFiniteError);
  EXPECT_THROW(model.store().full(0).combined(BitOperation::kAnd, others, 0).layer_to_host(0, 0), NonFiniteError);
  EXPECT_EQ(model.store().active().count(0), (std::vector<std::int64_t>{0, 0}));
  const BitSets fine = model.select(model.store().full(0), {}, {10, 10}, 0, 0);
  EXPECT_EQ(fine.count(0), (std::vector<std::int64_t>{10, 10}));
}

TEST_F(CudaBackendErrors, ACommitMayWaitForMoreVerdictsThanALaunchTakes) {
  for (const bool is_bad : {false, true}) {
    Model model({{IndexMap::contiguous(1000), DType::kFloat32}}, kGpu);
    BitSets grown = model.select(model.store().full(0), model.weights(), {10}, 0, 0);
    for (std::uint32_t draw = 1; draw < 7; ++draw) {
      if (is_bad && draw == 5) model.spoil(0);
      grown = grown.combined(BitOperation::kOr, model.select(model.store().full(0), model.weights(), {10}, 0, draw), 0);
    }
    if (is_bad) {
      EXPECT_THROW(model.commit(model.store().empty(0), grown, 1), NonFiniteError);
      EXPECT_EQ(model.store().active().count(0), (std::vector<std::int64_t>{0}));
    } else {
      EXPECT_EQ(model.commit(model.store().empty(0), grown, 1)[0].active, grown.count(0)[0]);
    }
  }
}

TEST_F(CudaBackendErrors, ALaunchOfTooManyBlocksIsRefused) {
  const std::vector<std::int64_t> pointers{0, 0};
  DeviceSparseRows rows{std::int64_t{1} << 40, 0, pointers.data(), nullptr, nullptr};
  EXPECT_THROW(device_sparse_multiply(0, rows, nullptr, ValueType::kFloat32, {nullptr, ValueType::kFloat32, 1}, nullptr,
                                      nullptr, 0),
               CudaError);
}

}  // namespace
}  // namespace itop
