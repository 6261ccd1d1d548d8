// The parts that the GPU's kernels are made of, run by the simulator against plain references.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "cuda/block_search.hpp"
#include "cuda/bracket_kernels.hpp"
#include "cuda/index_walk.hpp"
#include "cuda/mask_tables.hpp"
#include "cuda/range_search.hpp"
#include "cuda/resolve_kernels.hpp"
#include "cuda/row_lookup.hpp"
#include "cuda/selection_plan.hpp"
#include "cuda/split_kernels.hpp"
#include "cuda/window.hpp"
#include "support/simt_simulator.hpp"

namespace itop::cuda {
namespace {

using simt::Schedule;
using simt::simulate;

TEST(SimtSimulator, ReportsABarrierThatNotAllThreadsReach) {
  EXPECT_THROW(simulate(1, 64, Schedule::kForward,
                        [] {
                          if (simt::thread() < 40) simt::sync_block();
                        }),
               std::logic_error);
}

TEST(SimtSimulator, ReportsALaneMissingFromABallot) {
  EXPECT_THROW(simulate(1, 32, Schedule::kForward,
                        [] {
                          if (simt::lane() != 7) simt::ballot(true);
                        }),
               std::logic_error);
}

TEST(SimtSimulator, ReportsLanesInDifferentOperations) {
  const auto body = [] {
    simt::lane() < 16 ? static_cast<void>(simt::ballot(true)) : static_cast<void>(simt::match(1));
  };
  EXPECT_THROW(simulate(1, 32, Schedule::kForward, body), std::logic_error);
}

TEST(RowLookup, FindsTheRowOfEveryItemAndSkipsEmptyRows) {
  const std::vector<std::int64_t> offsets{0, 0, 3, 3, 4, 9, 9};
  for (std::int64_t item = 0; item < 9; ++item) {
    const int row = row_of(offsets.data(), 6, item);
    EXPECT_LE(offsets[static_cast<std::size_t>(row)], item);
    EXPECT_GT(offsets[static_cast<std::size_t>(row) + 1], item);
  }
}

TEST(WarpOperations, SumsAndReservationsGiveEveryLaneItsOwnSlots) {
  std::vector<std::uint32_t> counts(32);
  for (std::size_t i = 0; i < 32; ++i) counts[i] = static_cast<std::uint32_t>(i * 7 % 5);
  std::uint64_t counter = 100;
  std::vector<std::uint64_t> slots(32);
  std::uint64_t total = 0;
  simulate(1, 32, Schedule::kBackward, [&] {
    const auto lane = static_cast<std::size_t>(simt::lane());
    slots[lane] = simt::reserve(&counter, counts[lane]);
    simt::add_warp_sum(&total, counts[lane]);
  });
  std::uint64_t expected = 100;
  for (std::size_t i = 0; i < 32; ++i) {
    EXPECT_EQ(slots[i], expected);
    expected += counts[i];
  }
  EXPECT_EQ(counter, expected);
  EXPECT_EQ(total, expected - 100);
}

TEST(BlockSearch, FindsTheBinOfEveryRank) {
  std::mt19937 random(3);
  std::vector<std::uint32_t> bins(kBins);
  for (int i = 0; i < 60; ++i) ++bins[random() % 5 ? random() % kBins : 2047];
  for (std::uint64_t rank = 1; rank <= 60; rank += 7) {
    BinOfRank expected{};
    while (expected.before + bins[expected.bin] < rank) expected.before += bins[expected.bin++];
    BinSearchShared shared;
    simulate(1, kSearchThreads, Schedule::kForward, [&] {
      const BinOfRank found = find_bin(bins.data(), rank, shared);
      EXPECT_EQ(found.bin, expected.bin);
      EXPECT_EQ(found.before, expected.before);
      EXPECT_EQ(found.count, bins[expected.bin]);
    });
  }
}

TEST(BlockSearch, CountsBeyond32BitsInHalves) {
  LongCount count{0xFFFFFFF0u, 2};
  add_to(count, 15);
  EXPECT_EQ(count.value(), 0x2FFFFFFFFu);
  add_to(count, 1);
  EXPECT_EQ(count.value(), 0x300000000u);
  add_to(count, 0xFFFFFFFFu);
  EXPECT_EQ(count.value(), 0x3FFFFFFFFu);
}

TEST(BlockSearch, RunsOfABinAreCountedTogether) {
  std::vector<std::uint32_t> bins(4);
  RunCounter counter(bins.data());
  for (const std::uint32_t bin : {2u, 2u, 2u, 0u, 2u}) counter.add(bin);
  EXPECT_EQ(bins, (std::vector<std::uint32_t>{1, 0, 3, 0})) << "the last run is still open";
  counter.flush();
  counter.flush();
  EXPECT_EQ(bins, (std::vector<std::uint32_t>{1, 0, 4, 0}));
}

TEST(RangeSearch, HistogramsOfAnyWidthEndAtTheRank) {
  std::mt19937_64 random(4);
  for (const std::uint64_t mask :
       {std::uint64_t{0}, std::uint64_t{0xFF}, std::uint64_t{0xFFFFFFFF}, ~std::uint64_t{0}}) {
    std::vector<std::uint64_t> values(500);
    for (std::uint64_t& value : values) value = random() & mask;
    values[0] = mask;
    std::sort(values.begin(), values.end());
    for (const std::size_t rank : {1u, 2u, 250u, 499u, 500u}) {
      RangeSearch range{0, mask, rank};
      int num_rounds = 0;
      while (!range.is_single()) {
        std::vector<std::uint64_t> bins(kBins);
        for (const std::uint64_t value : values) {
          if (range.contains(value)) ++bins.at(RangeSearch::bin(value, range.low, range.shift()));
        }
        BinOfRank found{};
        while (found.before + bins[found.bin] < range.rank) found.before += bins[found.bin++];
        range.enter(found);
        ASSERT_LE(++num_rounds, 6);
      }
      EXPECT_EQ(range.low, values[rank - 1]);
    }
  }
}

TEST(SearchSample, FindsTheKeysOfTwoRanks) {
  std::mt19937_64 random(5);
  for (const std::uint64_t highest : {std::uint64_t{0xFFFFFFFF}, ~std::uint64_t{0}}) {
    std::vector<std::uint64_t> sample(3001);
    for (std::uint64_t& key : sample) key = random() % 3 ? random() & highest : 77;
    std::vector<std::uint64_t> sorted = sample;
    std::sort(sorted.begin(), sorted.end());
    for (const auto& [first, second] : {std::pair<std::size_t, std::size_t>{1, 3001}, {900, 1100}, {5, 5}}) {
      BracketShared shared;
      std::vector<std::uint64_t> found(4);
      simulate(1, kSearchThreads, Schedule::kForward, [&] {
        RangeSearch ranges[2];
        ranges[0] = {0, highest, first};
        ranges[1] = {0, highest, second};
        std::uint64_t num_equal[2] = {};
        search_sample(sample.data(), static_cast<std::int64_t>(sample.size()), ranges, num_equal, shared);
        if (simt::thread() == 13) found = {ranges[0].low, ranges[1].low, num_equal[0], num_equal[1]};
      });
      EXPECT_EQ(found[0], sorted[first - 1]);
      EXPECT_EQ(found[1], sorted[second - 1]);
      for (const std::size_t which : {0u, 1u}) {
        EXPECT_EQ(found[2 + which], static_cast<std::uint64_t>(std::count(sample.begin(), sample.end(), found[which])));
      }
    }
  }
}

TEST(IndexWalk, VisitsTheIndicesOfTheMap) {
  IndexMap map;  // a shard of a channels-last convolution
  map.offset = 40;
  map.sizes = {6, 3, 5, 7};
  map.strides = {105, 5, 1, 15};
  for (const std::int64_t start : {0, 1, 64, 600}) {
    IndexWalk walk(map, start);
    for (std::int64_t position = start; position < map.numel(); ++position, walk.advance()) {
      ASSERT_EQ(walk.index(), map(position)) << position;
    }
  }
}

TEST(TieWindow, TakesAllWhereAllAreWanted) {
  const Window window = tie_window(5, 100, 100);
  EXPECT_EQ(window.tie_low, kNumCoarseKeys);
  EXPECT_LT(window.tie_high, window.tie_low);
}

TEST(TieWindow, EnclosesTheRankOfUniformKeys) {
  std::mt19937 random(6);
  for (const std::uint64_t num_equal : {2u, 10u, 1000u, 50'000u}) {
    for (const std::uint64_t wanted : {std::uint64_t{1}, num_equal / 2, num_equal - 1}) {
      std::vector<std::int32_t> keys(num_equal);
      for (std::int32_t& key : keys) key = static_cast<std::int32_t>(random() & 0xFFFF);
      std::sort(keys.begin(), keys.end());
      const Window window = tie_window(1, num_equal, wanted);
      EXPECT_GE(keys[wanted - 1], window.tie_low);
      EXPECT_LE(keys[wanted - 1], window.tie_high);
      const auto inside = std::count_if(
          keys.begin(), keys.end(), [&](std::int32_t key) { return key >= window.tie_low && key <= window.tie_high; });
      EXPECT_LE(inside, fine_list_capacity(static_cast<std::int64_t>(num_equal)));
    }
  }
}

TEST(SampleRanks, OfASampleOfEverythingAreTheRankItself) {
  const SampleRanks ranks = sample_ranks(100, 42, 100);
  EXPECT_EQ(ranks.low, 42);
  EXPECT_EQ(ranks.high, 42);
}

TEST(SampleRanks, LeaveFiveDeviationsOnEitherSide) {
  const SampleRanks ranks = sample_ranks(10'000, 50'000, 500'000);  // 1000 expected, deviation 30
  EXPECT_EQ(ranks.low, 848);
  EXPECT_EQ(ranks.high, 1153);
}

TEST(SampledGroups, AreDistinctAndSpreadOverTheProblem) {
  ProblemEntry problem;
  problem.num_words = 100'003;
  problem.num_sample_groups = 4096;
  std::int64_t before = -1;
  for (std::int64_t i = 0; i < problem.num_sample_groups; ++i) {
    const std::int64_t group = sampled_group(problem, i);
    ASSERT_GT(group, before);
    ASSERT_LT(group, problem.num_words * 8);
    before = group;
  }
  EXPECT_GT(before, problem.num_words * 8 * 99 / 100);
}

TEST(Places, HoldTensorsBeyondTheReachOf32Bits) {
  const std::int64_t position = (std::int64_t{1} << 40) + 12345;
  const std::uint64_t place = place_of(70'000, position);
  EXPECT_EQ(segment_of(place), 70'000);
  EXPECT_EQ(position_of(place), position);
}

TEST(ListInside, WritesUpToTheCapacityAndCountsOn) {
  SegmentEntry segment;
  std::vector<ListEntry> entries(20, ListEntry{99, 99});
  SelectionTables tables;
  tables.entries = entries.data();
  std::uint64_t length = 0;
  const ListSpan list{2, 10};
  simulate(1, 32, Schedule::kForward, [&] {
    const Word inside = simt::lane() % 4 == 1 ? Word{0x8000000000000011} : Word{0};  // 8 lanes, 3 bits each
    list_inside(tables, segment, 3, 64 + simt::lane(), inside, &length, list, nullptr, Window{kNoScore, kNoScore});
  });
  EXPECT_EQ(length, 24u);
  std::vector<std::uint64_t> expected;
  for (const int lane : {1, 5, 9, 13}) {
    for (const int bit : {0, 4, 63}) expected.push_back(place_of(3, (64 + lane) * 64 + bit));
  }
  for (std::size_t i = 0; i < entries.size(); ++i) {
    EXPECT_EQ(entries[i].place, i >= 2 && i < 12 ? expected[i - 2] : 99) << i;
  }
}

TEST(ListInside, CountsTheKeysOfTheListInBins) {
  std::vector<float> scores(64 * 32);
  std::iota(scores.begin(), scores.end(), 1.0f);
  SegmentEntry segment;
  segment.scores = scores.data();
  segment.format = {DType::kFloat32, ScoreTransform::kMagnitude, SelectionOrder::kSmallest, false};
  std::vector<ListEntry> entries(2048);
  std::vector<std::uint32_t> bins(kBins);
  SelectionTables tables;
  tables.entries = entries.data();
  Window window;
  window.low = ordered_key(scores.data(), segment.format, 0);
  window.high = ordered_key(scores.data(), segment.format, 2047);
  std::uint64_t length = 0;
  simulate(1, 32, Schedule::kBackward,
           [&] { list_inside(tables, segment, 0, simt::lane(), ~Word{0}, &length, {0, 2048}, bins.data(), window); });
  std::vector<std::uint32_t> expected(kBins);
  const int shift = RangeSearch{window.low, window.high, 1}.shift();
  for (std::int64_t i = 0; i < 2048; ++i) {
    ++expected[RangeSearch::bin(ordered_key(scores.data(), segment.format, i), window.low, shift)];
  }
  EXPECT_EQ(length, 2048u);
  EXPECT_EQ(bins, expected);
}

TEST(ChooseFromList, OrdersByKeyThenTieKeyThenIndex) {
  // More candidates than can be ranked at once, few distinct keys: keys are narrowed, then tie keys.
  std::mt19937 random(7);
  std::vector<Word> chosen(64);
  SegmentEntry segment;
  segment.chosen = chosen.data();
  segment.numel = 4096;
  segment.index_map = IndexMap::contiguous(4096);
  segment.stream = {1, 2, 3, 4};
  SelectionTables tables;
  tables.segments = &segment;
  std::vector<ListEntry> entries;
  for (std::int64_t position = 0; position < 4096; ++position) {
    if (random() % 4) entries.push_back({100 + random() % 2, place_of(0, position)});
  }
  std::shuffle(entries.begin(), entries.end(), random);
  std::vector<RankedCandidate> ranked;
  for (const ListEntry& entry : entries) ranked.push_back(ranked_candidate(tables, entry));
  std::sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.precedes(b); });
  for (const std::size_t wanted : {std::size_t{1}, std::size_t{700}, std::size_t{2000}, entries.size()}) {
    std::fill(chosen.begin(), chosen.end(), Word{0});
    RankShared shared;
    simulate(1, kSearchThreads, Schedule::kForward, [&] {
      Window window;
      window.low = 90;
      window.high = 110;
      EXPECT_TRUE(
          choose_from_list(tables, entries.data(), static_cast<std::int64_t>(entries.size()), window, wanted, shared));
    });
    std::vector<Word> expected(64);
    for (std::size_t i = 0; i < wanted; ++i) expected[ranked[i].index / 64] |= Word{1} << (ranked[i].index % 64);
    EXPECT_EQ(chosen, expected) << wanted;
  }
}

TEST(LayerTable, TakesRowsUntilItIsFullAndLeavesOutEmptyLayers) {
  std::vector<LayerComplement> rows;
  for (int i = 0; i < 400; ++i) rows.push_back({nullptr, nullptr, i % 2 == 0 ? 0 : kChunkWeights * 2 + 1});
  ComplementTable table;
  std::span<const LayerComplement> left = table.take(rows);
  EXPECT_EQ(table.num_rows, 120);
  EXPECT_EQ(table.num_chunks(), 360);
  EXPECT_EQ(left.size(), 400u - 240u);
  left = table.take(left);
  EXPECT_EQ(table.num_rows, 80);
  EXPECT_TRUE(left.empty());
}

}  // namespace
}  // namespace itop::cuda
