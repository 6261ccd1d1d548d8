// The CUDA backend as a whole, on an emulated machine: the CPU's bits, and what the host asks of the machine for them.

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "emulated_cuda/machine.hpp"
#include "itop/device_sparse_linear.hpp"
#include "itop/error.hpp"
#include "itop/mask_store.hpp"
#include "support/devices.hpp"
#include "support/draws.hpp"
#include "support/model_on_a_device.hpp"
#include "support/values.hpp"

namespace itop {
namespace {

using emulated_cuda::Calls;
using emulated_cuda::Machine;
using emulated_cuda::Pace;
using testing::Draws;
using testing::flat;
using testing::LayerShape;
using testing::Model;
using testing::random_layers;

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
