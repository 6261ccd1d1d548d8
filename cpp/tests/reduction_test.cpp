// A selection over parts of tensors gives what one process gives: the contract of Reduction, on every device.

#include "itop/reduction.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "itop/error.hpp"
#include "support/draws.hpp"
#include "support/parts.hpp"
#include "support/selection_case.hpp"

namespace itop::testing {
namespace {

/// A way to cut a layer of [rows, columns]: which weights a part holds, in its storage order.
struct Shard {
  std::int64_t first_row, num_rows, first_column, num_columns;

  LayerCase of(const LayerCase& whole, std::int64_t columns) const {
    LayerCase part = whole;
    part.index_map = {first_row * columns + first_column, {1, 1, num_rows, num_columns}, {0, 0, columns, 1}};
    if (num_columns == columns) part.index_map = IndexMap::contiguous(num_rows * columns, first_row * columns);
    const auto numel = static_cast<std::size_t>(num_rows * num_columns);
    const std::size_t size = size_of(whole.dtype);
    part.candidates.resize(numel);
    part.scores.resize(whole.scores.empty() ? 0 : numel * size);
    for (std::size_t i = 0; i < numel; ++i) {
      const auto from = static_cast<std::size_t>(part.index_map(static_cast<std::int64_t>(i)));
      part.candidates[i] = whole.candidates[from];
      if (!whole.scores.empty()) {
        std::copy_n(whole.scores.begin() + static_cast<std::ptrdiff_t>(from * size), size,
                    part.scores.begin() + static_cast<std::ptrdiff_t>(i * size));
      }
    }
    return part;
  }
};

std::vector<Shard> row_shards(std::int64_t rows, std::int64_t columns, int num_parts) {
  std::vector<Shard> shards;
  const std::int64_t each = (rows + num_parts - 1) / num_parts;  // as FSDP cuts: the last parts may be short or empty
  for (int part = 0; part < num_parts; ++part) {
    const std::int64_t first = std::min(rows, part * each);
    shards.push_back({first, std::min(rows, first + each) - first, 0, columns});
  }
  return shards;
}

std::vector<Shard> column_shards(std::int64_t rows, std::int64_t columns, int num_parts) {
  std::vector<Shard> shards;
  for (Shard shard : row_shards(columns, rows, num_parts)) shards.push_back({0, rows, shard.first_row, shard.num_rows});
  return shards;
}

constexpr std::int64_t kColumns = 37;

class ReductionOn : public ::testing::TestWithParam<Device> {
 protected:
  /// Cuts every layer ([n / 37, 37]) of every selection into parts, and wants the whole's result back from their union.
  void expect_parts_agree(const std::vector<SelectionCase>& cases, int num_parts, bool by_rows) {
    LocalReduction local;
    const std::vector<Chosen> expected = select_on(GetParam(), cases, local);
    std::vector<std::vector<SelectionCase>> cut(static_cast<std::size_t>(num_parts), cases);
    for (std::size_t c = 0; c < cases.size(); ++c) {
      for (std::size_t l = 0; l < cases[c].layers.size(); ++l) {
        const LayerCase& whole = cases[c].layers[l];
        const std::int64_t rows = whole.numel() / kColumns;
        const auto shards = by_rows ? row_shards(rows, kColumns, num_parts) : column_shards(rows, kColumns, num_parts);
        for (std::size_t part = 0; part < shards.size(); ++part)
          cut[part][c].layers[l] = shards[part].of(whole, kColumns);
      }
    }
    Parts parts(num_parts);
    std::vector<std::vector<Chosen>> of_part(cut.size());
    const auto errors = parts.run(
        [&](std::size_t part, Reduction& reduction) { of_part[part] = select_on(GetParam(), cut[part], reduction); });
    for (const auto& error : errors) {
      if (error) std::rethrow_exception(error);
    }
    for (std::size_t c = 0; c < cases.size(); ++c) {
      Chosen merged;
      for (std::size_t l = 0; l < cases[c].layers.size(); ++l) {
        merged.emplace_back(cases[c].layers[l].candidates.size(), false);
        for (std::size_t part = 0; part < cut.size(); ++part) {
          const LayerCase& layer = cut[part][c].layers[l];
          for (std::size_t i = 0; i < layer.candidates.size(); ++i) {
            merged[l][static_cast<std::size_t>(layer.index_map(static_cast<std::int64_t>(i)))] = of_part[part][c][l][i];
          }
        }
      }
      EXPECT_TRUE(same(merged, expected[c])) << "selection " << c << " over " << num_parts << " parts";
    }
  }

  void expect_every_cut_agrees(const std::vector<SelectionCase>& cases) {
    for (const int num_parts : {1, 2, 3}) {
      expect_parts_agree(cases, num_parts, true);
      expect_parts_agree(cases, num_parts, false);
    }
  }
};

TEST_P(ReductionOn, MergesScoresOfSmallAndLargeLayers) {
  Draws draws(31);
  std::vector<SelectionCase> cases;
  for (const std::int64_t rows : {0, 1, 2, 50, 3'000}) {
    const std::int64_t n = rows * kColumns;
    for (const auto order : {SelectionOrder::kSmallest, SelectionOrder::kLargest}) {
      LayerCase layer = LayerCase::of(DType::kFloat32, draws.bell(n), static_cast<std::uint32_t>(cases.size()));
      layer.candidates = draws.bits(n, 0.6);
      cases.push_back({{layer}, n / 5, ScoreTransform::kMagnitude, order});
    }
  }
  expect_every_cut_agrees(cases);
}

TEST_P(ReductionOn, MergesTies) {
  Draws draws(32);
  std::vector<SelectionCase> cases;
  for (const std::int64_t rows : {3, 100, 2'000}) {
    const std::int64_t n = rows * kColumns;
    cases.push_back(
        {{LayerCase::of(DType::kFloat16, draws.heavy_ties(n), static_cast<std::uint32_t>(cases.size()))}, n / 3});
  }
  expect_every_cut_agrees(cases);
}

TEST_P(ReductionOn, MergesRandomSelections) {
  std::vector<SelectionCase> cases;
  for (const std::int64_t rows : {1, 20, 5'000}) {
    const std::int64_t n = rows * kColumns;
    for (const std::int64_t k : {std::int64_t{0}, std::int64_t{1}, n / 4, n}) {
      cases.push_back({{LayerCase::random(n, static_cast<std::uint32_t>(cases.size()))}, k});
    }
  }
  expect_every_cut_agrees(cases);
}

TEST_P(ReductionOn, MergesWhereTheSampleMisleads) {
  // One part holds all large scores: its sample and the other parts' disagree about everything.
  Draws draws(33);
  std::vector<double> values = draws.rows_of_their_own_scale(4'000 * kColumns);
  for (std::size_t i = 0; i < values.size() / 3; ++i) values[i] *= 1e4;
  std::vector<SelectionCase> cases;
  for (const std::int64_t k : {100, 30'000, 100'000}) cases.push_back({{LayerCase::of(DType::kFloat32, values)}, k});
  expect_every_cut_agrees(cases);
}

TEST_P(ReductionOn, MergesSelectionsAcrossLayers) {
  Draws draws(34);
  SelectionCase global;
  global.layers.push_back(LayerCase::of(DType::kFloat32, draws.bell(100 * kColumns), 0));
  global.layers.push_back(LayerCase::of(DType::kFloat64, draws.bell(1'000 * kColumns), 1));
  global.layers.push_back(LayerCase::of(DType::kBFloat16, draws.heavy_ties(10 * kColumns), 2));
  global.k = 10'000;
  expect_every_cut_agrees({global});
}

TEST_P(ReductionOn, RefusesNanOnEveryPartWhereverItLies) {
  for (const std::size_t bad_part : {0, 1, 2}) {
    Parts parts(3);
    const auto errors = parts.run([&](std::size_t part, Reduction& reduction) {
      std::vector<double> values(1'000, 1.0);
      if (part == bad_part) values[999] = NAN;
      select_on(GetParam(), {SelectionCase{{LayerCase::of(DType::kFloat32, values, 4)}, 10}}, reduction);
    });
    for (const auto& error : errors) {
      ASSERT_TRUE(error);
      try {
        std::rethrow_exception(error);
      } catch (const NonFiniteError& refused) {
        EXPECT_EQ(refused.layer(), "layer4");
      }
    }
  }
}

TEST_P(ReductionOn, SumsAFewTimesOnlyWhateverTheSize) {
  Draws draws(35);
  Parts parts(2);
  const LayerCase whole = LayerCase::of(DType::kFloat32, draws.bell(10'000 * kColumns));
  const auto shards = row_shards(10'000, kColumns, 2);
  parts.run([&](std::size_t part, Reduction& reduction) {
    select_on(GetParam(), {SelectionCase{{shards[part].of(whole, kColumns)}, 30'000}}, reduction);
  });
  EXPECT_LE(parts.num_sums(), 40);
}

INSTANTIATE_TEST_SUITE_P(EveryDevice, ReductionOn, ::testing::ValuesIn(available_devices()), name_of_device);

}  // namespace
}  // namespace itop::testing
