// The GPU's commits, masks and words, run by the simulator, against the CPU's backend.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/cpu_backend.hpp"
#include "cuda/mask_kernels.hpp"
#include "cuda/word_kernels.hpp"
#include "support/simt_simulator.hpp"

namespace itop::cuda {
namespace {

using simt::Schedule;
using simt::simulate;

/// The mask operations as the GPU does them.
void commit_by_kernels(std::span<const CommitEntry> rows, const CommitOptions& options) {
  auto table = std::make_unique<CommitTable>();
  while (!rows.empty()) {
    rows = table->take(rows);
    simulate(table->num_chunks(), kStreamThreads, Schedule::kBackward,
             [&] { commit_chunk(*table, options, Refusals{}); });
  }
}

std::vector<LayerCounts> commit_by_kernels(std::span<const LayerCommit> layers, const CommitOptions& options) {
  std::vector<std::uint64_t> counts(layers.size() * kCountPlaces * kCountFields);
  const CommitPlan plan = commit_plan(layers, counts.data());
  commit_by_kernels(plan.zero_first, options);
  commit_by_kernels(plan.rows, options);
  return layer_counts(counts);
}

struct Model {
  struct Layer {
    std::int64_t numel = 0;
    std::vector<Word> active, explored, reliable, dropped, grown;
    std::vector<std::vector<std::byte>> tensors;
    std::vector<DType> dtypes;
  };
  std::vector<Layer> layers;

  friend bool operator==(const Layer& a, const Layer& b) {
    return a.active == b.active && a.explored == b.explored && a.reliable == b.reliable && a.tensors == b.tensors;
  }

  std::vector<LayerCommit> commits() {
    std::vector<LayerCommit> result;
    for (Layer& layer : layers) {
      LayerCommit& commit = result.emplace_back();
      commit.numel = layer.numel;
      commit.active = layer.active.data();
      commit.explored = layer.explored.data();
      commit.reliable = layer.reliable.data();
      commit.dropped = layer.dropped.data();
      commit.grown = layer.grown.data();
      commit.tensors = views(layer);
    }
    return result;
  }
  std::vector<LayerApply> applies() {
    std::vector<LayerApply> result;
    for (Layer& layer : layers) result.push_back({layer.numel, layer.active.data(), views(layer)});
    return result;
  }

 private:
  static std::vector<TensorView> views(Layer& layer) {
    std::vector<TensorView> result;
    for (std::size_t i = 0; i < layer.tensors.size(); ++i) {
      result.push_back({layer.tensors[i].data(), layer.numel, layer.dtypes[i], Device{}});
    }
    return result;
  }
};

/// Random bits and values; every layer's tensors have every element size. No byte is zero.
Model random_model(std::size_t most_tensors) {
  std::mt19937_64 random(21);
  Model model;
  for (const std::int64_t numel : {1, 64, 100, 2048, 2049, 20'000, 0}) {
    Model::Layer& layer = model.layers.emplace_back();
    layer.numel = numel;
    for (std::int64_t word = 0; word < words_for(numel); ++word) {
      const Word valid = valid_bits(word, numel);
      const Word active = random() & valid;
      const Word dropped = active & random() & random();
      layer.active.push_back(active);
      layer.explored.push_back((active | random()) & valid);
      layer.reliable.push_back(random() & layer.explored.back());
      layer.dropped.push_back(dropped);
      layer.grown.push_back(~(active & ~dropped) & random() & random() & valid);
    }
    constexpr DType dtypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat64, DType::kFloat16};
    for (std::size_t i = 0; i < most_tensors; ++i) {
      layer.dtypes.push_back(dtypes[i % 4]);
      auto& tensor = layer.tensors.emplace_back(static_cast<std::size_t>(numel) * size_of(dtypes[i % 4]));
      for (std::byte& byte : tensor) byte = static_cast<std::byte>(1 + random() % 255);
    }
  }
  return model;
}

std::vector<std::int64_t> flat(const std::vector<LayerCounts>& counts) {
  std::vector<std::int64_t> result;
  for (const LayerCounts& one : counts) {
    result.insert(result.end(), {one.active, one.explored, one.reliable, one.dropped, one.grown, one.regrown});
  }
  return result;
}

TEST(CudaCommit, ChangesWhatTheCpuChanges) {
  for (int options = 0; options < 8; ++options) {
    const CommitOptions rules{(options & 1) != 0, (options & 2) != 0, (options & 4) != 0};
    Model cpu = random_model(3);
    Model gpu = cpu;
    CpuBackend backend;
    const auto expected = backend.commit(cpu.commits(), rules, {}, 0);
    const auto counts = commit_by_kernels(gpu.commits(), rules);
    EXPECT_EQ(flat(counts), flat(expected)) << options;
    EXPECT_EQ(gpu.layers, cpu.layers) << options;
  }
}

TEST(CudaCommit, TensorsBeyondARowsRoomAreZeroedByTheMasksAsTheyWere) {
  const CommitOptions rules{true, true, true};
  Model cpu = random_model(10);
  Model gpu = cpu;
  CpuBackend backend;
  const auto expected = backend.commit(cpu.commits(), rules, {}, 0);
  EXPECT_EQ(flat(commit_by_kernels(gpu.commits(), rules)), flat(expected));
  EXPECT_EQ(gpu.layers, cpu.layers);
}

TEST(CudaApply, ZeroesWhatTheCpuZeroes) {
  Model cpu = random_model(4);
  Model gpu = cpu;
  CpuBackend().apply(cpu.applies(), 0);
  const std::vector<ApplyEntry> entries = apply_rows(gpu.applies());
  auto table = std::make_unique<ApplyTable>();
  EXPECT_TRUE(table->take(entries).empty());
  simulate(table->num_chunks(), kStreamThreads, Schedule::kForward, [&] { apply_chunk(*table); });
  EXPECT_EQ(gpu.layers, cpu.layers);
}

TEST(CudaComplement, SetsTheBitsOfAllOtherWeightsAndNoMore) {
  for (const std::int64_t numel : {1, 64, 65, 20'000}) {
    const std::size_t size = static_cast<std::size_t>(words_for(numel)) + 1;
    const std::vector<Word> odd(size, 0xAAAAAAAAAAAAAAAAULL);
    for (const Word* of : {static_cast<const Word*>(nullptr), odd.data()}) {
      std::vector<Word> words(size, 0);
      ComplementTable table;
      const std::vector<LayerComplement> rows{{of, words.data(), numel}};
      table.take(rows);
      simulate(table.num_chunks(), kStreamThreads, Schedule::kForward, [&] { complement_chunk(table); });
      for (std::int64_t word = 0; word <= words_for(numel); ++word) {
        const Word expected = valid_bits(word, numel) & (of == nullptr ? ~Word{0} : Word{0x5555555555555555ULL});
        EXPECT_EQ(words[static_cast<std::size_t>(word)], expected);
      }
    }
  }
}

TEST(CudaWords, CombineCountPackAndUnpackAsTheCpuDoes) {
  std::mt19937_64 random(22);
  const std::int64_t numel = 70'001;
  const std::int64_t num_words = words_for(numel);
  const auto size = static_cast<std::size_t>(num_words);
  std::vector<Word> a(size), b(size), target(size), expected(size);
  for (std::size_t i = 0; i < size; ++i) {
    a[i] = random() & valid_bits(static_cast<std::int64_t>(i), numel);
    b[i] = random() & valid_bits(static_cast<std::int64_t>(i), numel);
  }
  CpuBackend backend;
  for (const BitOperation operation :
       {BitOperation::kAnd, BitOperation::kOr, BitOperation::kAndNot, BitOperation::kXor}) {
    backend.combine(operation, a.data(), b.data(), expected.data(), num_words, 0);
    simulate(ceil_div(num_words, kStreamThreads), kStreamThreads, Schedule::kForward,
             [&] { combine_word(operation, a.data(), b.data(), target.data(), num_words); });
    EXPECT_EQ(target, expected);
  }

  // Bytes that begin at a 16-byte address, and views that do not; any byte but 0 is a set bit.
  for (const std::size_t begin : {0, 1, 8}) {
    for (const std::int64_t some : {numel, std::int64_t{1}, std::int64_t{16}, std::int64_t{4'111}}) {
      std::vector<std::uint8_t> bytes(static_cast<std::size_t>(numel) + 32, 7);
      std::vector<std::uint8_t> expected_bytes = bytes;
      backend.unpack(a.data(), expected_bytes.data() + begin, some, 0);
      const std::int64_t num_blocks = ceil_div(some, kBytesPerThread * kStreamThreads);
      simulate(num_blocks, kStreamThreads, Schedule::kForward,
               [&] { unpack_bits(a.data(), bytes.data() + begin, some); });
      EXPECT_EQ(bytes, expected_bytes);
      for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(byte == 0 ? 0 : 1 + random() % 255);
      std::vector<Word> packed(size, 0x5A5A5A5A5A5A5A5AULL), expected_words = packed;
      backend.pack(bytes.data() + begin, expected_words.data(), some, 0);
      simt::num_vector_loads = 0;
      simulate(num_blocks, kStreamThreads, Schedule::kForward,
               [&] { pack_bytes(bytes.data() + begin, packed.data(), some); });
      EXPECT_EQ(packed, expected_words);
      EXPECT_EQ(simt::num_vector_loads, begin == 0 ? some / kBytesPerThread : 0);
    }
  }

  const std::vector<std::int64_t> word_offsets{0, 0, 300, 301, num_words};
  std::vector<std::int64_t> chunk_offsets{0};
  for (std::size_t i = 0; i + 1 < word_offsets.size(); ++i) {
    chunk_offsets.push_back(chunk_offsets.back() + ceil_div(word_offsets[i + 1] - word_offsets[i], kChunkWords));
  }
  std::vector<std::uint64_t> counts(4);
  simulate(chunk_offsets.back(), kStreamThreads, Schedule::kForward,
           [&] { count_range(a.data(), word_offsets.data(), chunk_offsets.data(), 4, counts.data()); });
  const std::vector<std::int64_t> expected_counts = backend.count(a.data(), word_offsets, 0);
  for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(static_cast<std::int64_t>(counts[i]), expected_counts[i]);
}

}  // namespace
}  // namespace itop::cuda
