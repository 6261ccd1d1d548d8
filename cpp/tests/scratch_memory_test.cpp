#include "itop/scratch_memory.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace itop {
namespace {

TEST(ScratchMemory, ABlockIsTakenUpAgain) {
  void* first;
  {
    const ScratchMemory memory(777'777);
    first = memory.data();
    std::memset(memory.data(), 0xAB, 777'777);
  }
  const ScratchMemory again(777'000);
  EXPECT_EQ(again.data(), first);
  EXPECT_FALSE(again.is_zero());
}

TEST(ScratchMemory, FreshBlocksAreZero) {
  for (const std::size_t num_bytes : {std::size_t{1}, std::size_t{5'000}, (std::size_t{1} << 21) + 12'345}) {
    std::vector<ScratchMemory> held;
    while (held.empty() || !held.back().is_zero()) held.emplace_back(num_bytes);
    const auto* bytes = static_cast<const unsigned char*>(held.back().data());
    EXPECT_EQ(std::accumulate(bytes, bytes + num_bytes, 0), 0);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(bytes) % 64, 0u);
  }
}

TEST(ScratchMemory, NoMoreIsKeptThanItsBound) {
  constexpr std::size_t block = ScratchMemory::kMaxKeptBytes / 4;
  {
    std::vector<ScratchMemory> held;
    for (int i = 0; i < 8; ++i) held.emplace_back(block);
  }
  std::vector<ScratchMemory> held;
  int num_kept = 0;
  for (int i = 0; i < 8; ++i) {
    held.emplace_back(block);
    num_kept += held.back().is_zero() ? 0 : 1;
  }
  EXPECT_LE(num_kept, 4);
}

TEST(ScratchMemory, OfEqualBlocksTheLastGivenBackIsTakenFirst) {
  ScratchMemory::release_kept();
  void* last;
  {
    const ScratchMemory first(300'000);
    const ScratchMemory second(300'000);
    last = first.data();  // destroyed after the second
  }
  EXPECT_EQ(ScratchMemory(300'000).data(), last);
}

TEST(ScratchMemory, WhatNobodyTookForLongestMakesRoom) {
  ScratchMemory::release_kept();
  {
    std::vector<ScratchMemory> held;
    for (int i = 0; i < 4; ++i) held.emplace_back(ScratchMemory::kMaxKeptBytes / 4);
  }
  {
    const ScratchMemory other(300'000);
  }
  EXPECT_FALSE(ScratchMemory(300'000).is_zero());
}

TEST(ScratchMemory, ABlockLargerThanTheBoundPushesNothingOut) {
  ScratchMemory::release_kept();
  {
    const ScratchMemory small(300'000);
  }
  {
    const ScratchMemory huge(ScratchMemory::kMaxKeptBytes + 1);
  }
  EXPECT_FALSE(ScratchMemory(300'000).is_zero());
}

TEST(ScratchMemory, WhatIsHeldForLongFitsClosely) {
  ScratchMemory::release_kept();
  {
    const ScratchMemory larger(900'000);
  }
  const ScratchMemory close(600'000, 1);
  EXPECT_TRUE(close.is_zero());
  const ScratchMemory loose(600'000);
  EXPECT_FALSE(loose.is_zero());
}

TEST(ScratchMemory, ReleasedBlocksAreGone) {
  {
    const ScratchMemory memory(777'777);
  }
  ScratchMemory::release_kept();
  EXPECT_TRUE(ScratchMemory(777'777).is_zero());
}

TEST(ScratchMemory, NothingIsNothing) {
  const ScratchMemory nothing(0);
  EXPECT_EQ(nothing.data(), nullptr);
}

TEST(ScratchArray, GrowsAndKeepsItsValues) {
  ScratchArray<std::int32_t> array;
  EXPECT_TRUE(array.empty());
  for (std::int32_t i = 0; i < 100'000; ++i) array.push_back(i);
  ASSERT_EQ(array.size(), 100'000u);
  std::int32_t expected = 0;
  for (const std::int32_t value : array) ASSERT_EQ(value, expected++);
  array.resize(10);
  EXPECT_EQ(array.end() - array.begin(), 10);
  EXPECT_EQ(array[9], 9);
}

}  // namespace
}  // namespace itop
