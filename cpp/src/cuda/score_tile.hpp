#pragma once

#include <cstdint>

#include "cuda/launch_shape.hpp"
#include "cuda/score_reader.hpp"
#include "cuda/simt.hpp"

/// Reads the scores of a tile of 32 mask words by one warp, and hands every lane the bits of its own word.
///
/// What is asked of each score is answered by a few bits, one a plane: `classify(bits)` returns Sides<kPlanes>. Where
/// the scores lie at a 16-byte address, a lane loads 16 bytes at once, so that 32 lanes read 512 neighbouring bytes. A
/// lane then has answers for all the tile's words and not for its own: as many bits as a word has, which five or fewer
/// exchanges between lanes set right, a transposition of the tile. Shards and views that begin elsewhere, and the last
/// words of a layer, are read a score a lane, a half word by each ballot.
namespace itop::cuda {

template <int kPlanes>
struct Sides {
  bool of[kPlanes];
};

/// Scores of a lane in one load of 16 bytes.
template <class Scores>
inline constexpr int kVectorWidth = static_cast<int>(sizeof(simt::Vector) / sizeof(typename Scores::Bits));

/// Every lane gives the bits of its loads, kWidth neighbouring weights each, the first load lowest; the loads of the
/// warp follow each other in memory. Every lane gets the 64 bits of the word it owns. The whole warp takes part.
template <int kWidth>
ITOP_DEVICE Word words_of_loads(Word bits) {
  constexpr int kLanes = kWordBits / kWidth;        // that share a word; as many as a lane has loads
  constexpr int kWordsOfLoad = kWarpSize / kLanes;  // whole words in one load of the warp
  const int lane = simt::lane();
  ITOP_UNROLL
  for (int distance = 1; distance < kLanes; distance *= 2) {
    const int shift = distance * kWidth;
    const Word even = ~Word{0} / ((Word{1} << shift) + 1);
    const Word others = simt::shuffle(bits, lane ^ distance);
    bits = (lane & distance) == 0 ? (bits & even) | ((others & even) << shift)
                                  : (bits & ~even) | ((others & ~even) >> shift);
  }
  return simt::shuffle(bits, lane % kWordsOfLoad * kLanes + lane / kWordsOfLoad);
}

template <int kPlanes, class Scores, class Classify>
ITOP_DEVICE void read_vectors(const Scores& scores, std::int64_t first, const Classify& classify,
                              Word (&planes)[kPlanes]) {
  using Bits = typename Scores::Bits;
  constexpr int kWidth = kVectorWidth<Scores>;
  constexpr int kLoads = kWordBits / kWidth;
  constexpr int kAtOnce = 4;  // 2 KB of a warp under way
  static_assert(kLoads % kAtOnce == 0 && kAtOnce * kWidth <= 32);
  const Bits* const mine = scores.address(first + simt::lane() * kWidth);
  for (int load = 0; load < kLoads; load += kAtOnce) {
    simt::Vector vectors[kAtOnce];
    ITOP_UNROLL
    for (int i = 0; i < kAtOnce; ++i) vectors[i] = simt::load_vector(mine + (load + i) * kWidth * kWarpSize);
    std::uint32_t found[kPlanes] = {};
    ITOP_UNROLL
    for (int i = 0; i < kAtOnce * kWidth; ++i) {
      const Sides<kPlanes> sides = classify(simt::element<Bits>(vectors[i / kWidth], i % kWidth));
      ITOP_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) found[plane] |= std::uint32_t{sides.of[plane]} << i;
    }
    ITOP_UNROLL
    for (int plane = 0; plane < kPlanes; ++plane) planes[plane] |= Word{found[plane]} << (load * kWidth);
  }
  ITOP_UNROLL
  for (int plane = 0; plane < kPlanes; ++plane) planes[plane] = words_of_loads<kWidth>(planes[plane]);
}

template <int kPlanes, class Scores, class Classify>
ITOP_DEVICE void read_singly(const Scores& scores, std::int64_t first, std::int64_t numel, const Classify& classify,
                             Word (&planes)[kPlanes]) {
  constexpr int kAtOnce = 8;
  const int lane = simt::lane();
  for (int batch = 0; batch < kWordBits; batch += kAtOnce) {
    typename Scores::Bits bits[kAtOnce];
    ITOP_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t position = first + (batch + i) * kWarpSize + lane;
      bits[i] = position < numel ? scores.load(position) : typename Scores::Bits{0};
    }
    ITOP_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const Sides<kPlanes> sides = classify(bits[i]);
      ITOP_UNROLL
      for (int plane = 0; plane < kPlanes; ++plane) {
        const std::uint32_t half = simt::ballot(sides.of[plane]);
        if (lane == (batch + i) / 2) planes[plane] |= Word{half} << (i % 2 * kWarpSize);
      }
    }
  }
}

/// Calls `body(position, bits)` for the scores at [first, last), by the whole block; `first` is a multiple of
/// kWordBits. Returns whether all that this thread has seen are finite.
template <class Scores, class Body>
ITOP_DEVICE bool for_each_score(const Scores& scores, std::int64_t first, std::int64_t last, const Body& body) {
  bool finite = true;
  const auto visit = [&](std::int64_t position, typename Scores::Bits bits) {
    finite = finite && scores.is_finite(bits);
    body(position, bits);
  };
  if constexpr (Scores::kIsStored) {
    if (simt::is_vector_address(scores.data)) {
      constexpr int kWidth = kVectorWidth<Scores>;
      constexpr int kAtOnce = 2;
      const std::int64_t step = std::int64_t{simt::num_threads()} * kWidth;
      const std::int64_t end = last - last % kWidth;  // of whole vectors
      for (std::int64_t begin = first + simt::thread() * kWidth; begin < end; begin += kAtOnce * step) {
        simt::Vector vectors[kAtOnce] = {};
        ITOP_UNROLL
        for (int i = 0; i < kAtOnce; ++i) {
          if (begin + i * step < end) vectors[i] = simt::load_vector(scores.address(begin + i * step));
        }
        for (int i = 0; i < kAtOnce; ++i) {
          if (begin + i * step >= end) break;
          ITOP_UNROLL
          for (int j = 0; j < kWidth; ++j) {
            visit(begin + i * step + j, simt::element<typename Scores::Bits>(vectors[i], j));
          }
        }
      }
      first = end;
    }
  }
  constexpr int kAtOnce = 4;
  const std::int64_t step = simt::num_threads();
  for (std::int64_t begin = first + simt::thread(); begin < last; begin += kAtOnce * step) {
    typename Scores::Bits bits[kAtOnce];
    ITOP_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      bits[i] = begin + i * step < last ? scores.load(begin + i * step) : typename Scores::Bits{0};
    }
    ITOP_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      if (begin + i * step < last) visit(begin + i * step, bits[i]);
    }
  }
  return finite;
}

/// Answers for the tile that begins at weight `first`, a multiple of kTileWeights; weights past `numel` count as zeros.
/// The whole warp takes part.
template <int kPlanes, class Scores, class Classify>
ITOP_DEVICE void read_tile(const Scores& scores, std::int64_t first, std::int64_t numel, const Classify& classify,
                           Word (&planes)[kPlanes]) {
  if constexpr (Scores::kIsStored) {
    if (numel - first >= kTileWeights && simt::is_vector_address(scores.data)) {
      return read_vectors(scores, first, classify, planes);
    }
  }
  read_singly(scores, first, numel, classify, planes);
}

}  // namespace itop::cuda
