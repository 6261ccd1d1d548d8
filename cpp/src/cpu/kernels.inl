// The per-weight loops, compiled once per instruction set: ITOP_KERNELS names the table, ITOP_LANES the namespace of
// the few operations that differ (lanes_portable.hpp, lanes_avx2.hpp, lanes_avx512.hpp).

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <limits>
#include <type_traits>

#include "cpu/kernels.hpp"

namespace itop::cpu {
namespace {

using namespace ITOP_LANES;

/// Branch-free parameters of OrderedKey32/64::from_bits.
template <class Integer>
struct KeyParameters {
  Integer sign_mask;  ///< all ones where the sign counts
  Integer flip;       ///< all ones where large scores are wanted

  explicit KeyParameters(const KeyFormat& format)
      : sign_mask(format.transform == ScoreTransform::kSigned ? Integer(-1) : Integer(0)),
        flip(format.order == SelectionOrder::kLargest ? Integer(-1) : Integer(0)) {}
};

/// Keeps the largest magnitudes seen, one a vector lane, so that finiteness is looked at once a pass and not once a
/// word.
template <class Key>
struct LargestMagnitudes {
  static constexpr int kLanes = 64 / sizeof(Key);
  alignas(64) Key lane[kLanes] = {};

  bool all_below(Key limit) const {
    return std::all_of(std::begin(lane), std::end(lane), [&](Key magnitude) { return magnitude < limit; });
  }
};

/// Keys of 64 bit patterns of float32 (32 bits) or float64 (64 bits).
template <class Bits, class Key = std::make_signed_t<Bits>>
inline void keys_from_bits(const Bits* bits, Key* keys, const KeyParameters<Key>& parameters,
                           LargestMagnitudes<Key>& largest) {
  constexpr int lanes = LargestMagnitudes<Key>::kLanes;
  for (int first = 0; first < kWordBits; first += lanes) {
    for (int i = 0; i < lanes; ++i) {
      const Key magnitude = static_cast<Key>(bits[first + i] & static_cast<Bits>(std::numeric_limits<Key>::max()));
      const Key sign = (static_cast<Key>(bits[first + i]) >> (sizeof(Key) * 8 - 1)) & parameters.sign_mask;
      keys[first + i] = ((magnitude ^ sign) - sign) ^ parameters.flip;
      largest.lane[i] = std::max(largest.lane[i], magnitude);
    }
  }
}

/// The float32 bits of 64 values of a type.
struct Float32Source {
  using Value = std::uint32_t;
  static void bits32(const Value* values, std::uint32_t* bits) { std::memcpy(bits, values, kWordBits * sizeof(Value)); }
};
struct BFloat16Source {
  using Value = std::uint16_t;
  static void bits32(const Value* values, std::uint32_t* bits) {
    for (int i = 0; i < kWordBits; ++i) bits[i] = float32_bits_of_bfloat16(values[i]);
  }
};
struct Float16Source {
  using Value = std::uint16_t;
  static void bits32(const Value* values, std::uint32_t* bits) { widen_float16(values, bits); }
};
struct Float64Source {
  using Value = std::uint64_t;
};

/// 64 keys of 32 bits, from any type but float64.
template <class Source>
struct NarrowKeys {
  using Value = typename Source::Value;
  using Key = std::int32_t;
  static constexpr Key kExponent = OrderedKey32::kExponent;
  [[gnu::always_inline]] static void load(const Value* values, Key* keys, const KeyParameters<Key>& parameters,
                                          LargestMagnitudes<Key>& largest) {
    alignas(64) std::uint32_t bits[kWordBits];
    Source::bits32(values, bits);
    keys_from_bits(bits, keys, parameters, largest);
  }
};

/// 64 keys of 64 bits, from any type.
template <class Source>
struct WideKeys {
  using Value = typename Source::Value;
  using Key = std::int64_t;
  static constexpr Key kExponent = OrderedKey64::kExponent;
  static void load(const Value* values, Key* keys, const KeyParameters<Key>& parameters,
                   LargestMagnitudes<Key>& largest) {
    alignas(64) std::uint64_t wide[kWordBits];
    if constexpr (std::is_same_v<Source, Float64Source>) {
      std::memcpy(wide, values, sizeof(wide));
    } else {
      alignas(64) std::uint32_t bits[kWordBits];
      Source::bits32(values, bits);
      for (int i = 0; i < kWordBits; ++i) wide[i] = float64_bits_of_float32(bits[i]);
    }
    keys_from_bits(wide, keys, parameters, largest);
  }
};

/// Calls `body` with the loader of the format.
template <class Body>
void with_loader(const KeyFormat& format, Body&& body) {
  switch (format.dtype) {
    case DType::kFloat32:
      return format.wide ? body(WideKeys<Float32Source>{}) : body(NarrowKeys<Float32Source>{});
    case DType::kBFloat16:
      return format.wide ? body(WideKeys<BFloat16Source>{}) : body(NarrowKeys<BFloat16Source>{});
    case DType::kFloat16:
      return format.wide ? body(WideKeys<Float16Source>{}) : body(NarrowKeys<Float16Source>{});
    case DType::kFloat64:
      return body(WideKeys<Float64Source>{});
  }
}

/// The keys of one word's weights; past the end of the segment, those of zeros.
template <class Loader>
[[gnu::always_inline]] inline void load_word(const typename Loader::Value* values, std::int64_t word,
                                             std::int64_t numel, typename Loader::Key* keys,
                                             const KeyParameters<typename Loader::Key>& parameters,
                                             LargestMagnitudes<typename Loader::Key>& largest) {
  const std::int64_t first = word * kWordBits;
  if (numel - first >= kWordBits) [[likely]] {
    Loader::load(values + first, keys, parameters, largest);
    return;
  }
  typename Loader::Value tail[kWordBits] = {};
  std::memcpy(tail, values + first, static_cast<std::size_t>(numel - first) * sizeof(tail[0]));
  Loader::load(tail, keys, parameters, largest);
}

/// Thresholds come as 64-bit keys; the narrow keys of finite values never reach the ends of their range.
template <class Key>
Key clamp_key(std::int64_t key) {
  return static_cast<Key>(
      std::clamp<std::int64_t>(key, std::numeric_limits<Key>::min(), std::numeric_limits<Key>::max()));
}

template <class Loader>
void score_pass_with(const ScorePass& pass, const WordRange& range, PassResult& result) {
  using Key = typename Loader::Key;
  const auto* values = static_cast<const typename Loader::Value*>(pass.scores);
  const KeyParameters<Key> parameters(pass.format);
  const Key low = clamp_key<Key>(pass.low);
  const Key high = clamp_key<Key>(pass.high);
  alignas(64) Key keys[kWordBits];
  LargestMagnitudes<Key> largest;
  std::int64_t num_below = 0;
  std::int64_t num_inside = 0;
  for (std::int64_t word = range.begin_word; word < range.end_word; ++word) {
    load_word<Loader>(values, word, range.numel, keys, parameters, largest);
    const Word candidates = pass.candidates[word];
    const Word below = less_mask(keys, low);
    Word inside = candidates & ~below & ~greater_mask(keys, high);
    if (pass.chosen != nullptr) pass.chosen[word] = candidates & below;
    num_below += std::popcount(candidates & below);
    if (inside == 0) continue;
    num_inside += std::popcount(inside);
    if (num_inside > pass.capacity) continue;
    for (; inside != 0; inside &= inside - 1) {
      const int bit = std::countr_zero(inside);
      result.inside.push_back({keys[bit], word * kWordBits + bit});
    }
  }
  result.num_below += num_below;
  result.num_inside += num_inside;
  result.all_finite &= largest.all_below(Loader::kExponent);
}

void score_pass(const ScorePass& pass, const WordRange& range, PassResult& result) {
  with_loader(pass.format, [&]<class Loader>(Loader) { score_pass_with<Loader>(pass, range, result); });
}

/// The coarse tie keys of one word's weights.
inline void coarse_keys_of_word(const TiePass& pass, const CoarseKeyLanes& lanes, bool consecutive, std::int64_t word,
                                std::int64_t numel, std::uint16_t* keys) {
  std::uint64_t counters[kCoarseKeysPerBlock];
  if (consecutive) {
    const auto first = static_cast<std::uint64_t>(pass.index_map.offset + word * kWordBits) / kCoarseKeysPerBlock;
    for (int i = 0; i < kCoarseKeysPerBlock; ++i) counters[i] = first + static_cast<std::uint64_t>(i);
    lanes.draw(counters, keys);
    return;
  }
  // Neighbours in storage are not neighbours in the layer: one block a weight, of which one key is taken.
  std::uint16_t drawn[kWordBits];
  const std::int64_t first = word * kWordBits;
  for (int eight = 0; eight < 8; ++eight) {
    std::uint64_t indices[kCoarseKeysPerBlock];
    for (int i = 0; i < kCoarseKeysPerBlock; ++i) {
      indices[i] = static_cast<std::uint64_t>(pass.index_map(std::min(first + eight * 8 + i, numel - 1)));
      counters[i] = indices[i] / kCoarseKeysPerBlock;
    }
    lanes.draw(counters, drawn);
    for (int i = 0; i < kCoarseKeysPerBlock; ++i) {
      keys[eight * 8 + i] = drawn[i * kCoarseKeysPerBlock + static_cast<int>(indices[i] % kCoarseKeysPerBlock)];
    }
  }
}

/// Below this many tied weights in a word, single draws are cheaper than a word's worth.
constexpr int kFewTies = 3;

template <class EqualBits>
void tie_pass_with(const TiePass& pass, const WordRange& range, PassResult& result, EqualBits&& equal_bits) {
  const bool consecutive = pass.index_map.is_contiguous() && pass.index_map.offset % kCoarseKeysPerBlock == 0;
  const CoarseKeyLanes lanes(pass.stream);
  alignas(64) std::uint16_t coarse[kWordBits];
  for (std::int64_t word = range.begin_word; word < range.end_word; ++word) {
    const Word equal = equal_bits(word);
    if (equal == 0) continue;
    Word below = 0;
    Word inside = 0;
    if (std::popcount(equal) <= kFewTies) {
      for (Word left = equal; left != 0; left &= left - 1) {
        const int bit = std::countr_zero(left);
        const auto index = static_cast<std::uint64_t>(pass.index_map(word * kWordBits + bit));
        const std::uint32_t key = coarse_key(pass.stream, index);
        below |= Word{key < pass.low} << bit;
        inside |= Word{key >= pass.low && key <= pass.high} << bit;
      }
    } else {
      coarse_keys_of_word(pass, lanes, consecutive, word, range.numel, coarse);
      below = equal & less_mask(coarse, pass.low);
      inside = equal & ~below & ~greater_mask(coarse, pass.high);
    }
    pass.chosen[word] |= below;
    result.num_below += std::popcount(below);
    result.num_inside += std::popcount(inside);
    for (; inside != 0; inside &= inside - 1) {
      result.inside.push_back({pass.key, word * kWordBits + std::countr_zero(inside)});
    }
  }
}

void tie_pass(const TiePass& pass, const WordRange& range, PassResult& result) {
  if (pass.scores == nullptr) {
    tie_pass_with(pass, range, result, [&](std::int64_t word) { return pass.candidates[word]; });
    return;
  }
  with_loader(pass.format, [&]<class Loader>(Loader) {
    using Key = typename Loader::Key;
    const auto* values = static_cast<const typename Loader::Value*>(pass.scores);
    const KeyParameters<Key> parameters(pass.format);
    const Key key = clamp_key<Key>(pass.key);
    alignas(64) Key keys[kWordBits];
    LargestMagnitudes<Key> largest;
    tie_pass_with(pass, range, result, [&](std::int64_t word) -> Word {
      if (pass.candidates[word] == 0) return 0;
      load_word<Loader>(values, word, range.numel, keys, parameters, largest);
      return pass.candidates[word] & ~less_mask(keys, key) & ~greater_mask(keys, key);
    });
  });
}

void histogram_pass(const HistogramPass& pass, const WordRange& range, std::int64_t* bins) {
  with_loader(pass.format, [&]<class Loader>(Loader) {
    using Key = typename Loader::Key;
    using Unsigned = std::make_unsigned_t<Key>;
    const auto* values = static_cast<const typename Loader::Value*>(pass.scores);
    const KeyParameters<Key> parameters(pass.format);
    const int key_bits = static_cast<int>(sizeof(Key) * 8);
    const int prefix_shift = pass.shift + pass.digit_bits;
    const std::uint64_t digit_mask = (std::uint64_t{1} << pass.digit_bits) - 1;
    alignas(64) Key keys[kWordBits];
    LargestMagnitudes<Key> largest;
    for (std::int64_t word = range.begin_word; word < range.end_word; ++word) {
      Word candidates = pass.candidates[word];
      if (candidates == 0) continue;
      load_word<Loader>(values, word, range.numel, keys, parameters, largest);
      for (; candidates != 0; candidates &= candidates - 1) {
        const auto ordered = static_cast<std::uint64_t>(static_cast<Unsigned>(keys[std::countr_zero(candidates)]) ^
                                                        (Unsigned{1} << (key_bits - 1)));
        if (prefix_shift < key_bits && (ordered >> prefix_shift) != pass.prefix) continue;
        ++bins[(ordered >> pass.shift) & digit_mask];
      }
    }
  });
}

std::int64_t count(const Word* words, std::int64_t num_words) {
  std::int64_t total = 0;
  for (std::int64_t word = 0; word < num_words; ++word) total += std::popcount(words[word]);
  return total;
}

void commit_bits(const LayerCommit& layer, const CommitOptions& options, const WordRange& range, Word* zeros,
                 LayerCounts& counts) {
  LayerCounts sum;
  const Word all = options.zero_all_inactive ? ~Word{0} : Word{0};
  const Word values_of_regrown = options.regrown_keeps_value ? ~Word{0} : Word{0};
  const Word reliable_if_kept = options.marks_reliable ? ~Word{0} : Word{0};
  for (std::int64_t word = range.begin_word; word < range.end_word; ++word) {
    const Word dropped = layer.dropped[word];
    const Word grown = layer.grown[word];
    const Word regrown = dropped & grown;
    const Word kept = layer.active[word] & ~dropped;
    const Word active = kept | grown;
    const Word explored = layer.explored[word] | active;
    const Word reliable = layer.reliable[word] | (kept & reliable_if_kept);
    const Word touched = dropped | grown | (all & valid_bits(word, range.numel));
    zeros[word - range.begin_word] = touched & ~(kept | (regrown & values_of_regrown));
    layer.active[word] = active;
    layer.explored[word] = explored;
    layer.reliable[word] = reliable;
    sum.active += std::popcount(active);
    sum.explored += std::popcount(explored);
    sum.reliable += std::popcount(reliable);
    sum.dropped += std::popcount(dropped);
    sum.grown += std::popcount(grown);
    sum.regrown += std::popcount(regrown);
  }
  counts = sum;
}

template <class Element>
void zero_where_of(Element* data, const Word* where, const WordRange& range) {
  for (std::int64_t word = range.begin_word; word < range.end_word; ++word) {
    Word zeros = where[word - range.begin_word];
    if (zeros == 0) continue;
    Element* first = data + word * kWordBits;
    const bool whole = range.numel - word * kWordBits >= kWordBits;
    if (whole && std::popcount(zeros) > 6) {
      zero_lanes(first, zeros);
      continue;
    }
    for (; zeros != 0; zeros &= zeros - 1) first[std::countr_zero(zeros)] = 0;
  }
}

void zero_where(void* data, std::size_t element_size, const Word* where, const WordRange& range) {
  switch (element_size) {
    case 2:
      return zero_where_of(static_cast<std::uint16_t*>(data), where, range);
    case 4:
      return zero_where_of(static_cast<std::uint32_t*>(data), where, range);
    default:
      return zero_where_of(static_cast<std::uint64_t*>(data), where, range);
  }
}

}  // namespace

const Kernels ITOP_KERNELS = {score_pass, tie_pass, histogram_pass, count, commit_bits, zero_where};

}  // namespace itop::cpu
