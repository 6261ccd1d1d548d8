#pragma once

#include <cstdint>

#include "itop/bitset.hpp"

/// How work is cut into blocks and threads; what the host counts by and the kernels index by.
namespace itop::cuda {

inline constexpr int kWarpSize = 32;
/// Threads of a block that streams over weights, words or list entries.
inline constexpr int kStreamThreads = 256;
/// Threads of a block that has a whole problem to itself.
inline constexpr int kSearchThreads = 1024;

/// Mask words, hence weights, of one streaming block: a word a thread, a tile of 32 words a warp.
inline constexpr std::int64_t kChunkWords = kStreamThreads;
inline constexpr std::int64_t kChunkWeights = kChunkWords * kWordBits;
inline constexpr std::int64_t kTileWords = kWarpSize;
inline constexpr std::int64_t kTileWeights = kTileWords * kWordBits;

/// Neighbouring weights that are sampled together: a sector of float32 memory.
inline constexpr int kSampleGroup = 8;
inline constexpr int kSampleGroupsPerBlock = kStreamThreads / kSampleGroup;

/// List entries of one block, a step each for all its threads.
inline constexpr int kListSteps = 16;
inline constexpr std::int64_t kListChunk = std::int64_t{kListSteps} * kStreamThreads;

/// Blocks of a refinement that go over all weights again, where a problem needs it.
inline constexpr std::int64_t kRefiningBlocks = 1024;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t chunks_for(std::int64_t numel) { return ceil_div(words_for(numel), kChunkWords); }

}  // namespace itop::cuda
