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

/// OrderedKey32/64::from_bits without branches: all ones where large scores are wanted.
template <class Integer>
Integer flip_of(const KeyFormat& format) {
  return format.order == SelectionOrder::kLargest ? Integer(-1) : Integer(0);
}

/// Keys of 64 bit patterns of float32 (32 bits) or float64 (64 bits).
template <ScoreTransform kTransform, class Bits, class Key = std::make_signed_t<Bits>>
void keys_from_bits(const Bits* bits, Key* keys, Key flip) {
  for (int i = 0; i < kWordBits; ++i) {
    const Key magnitude = static_cast<Key>(bits[i] & static_cast<Bits>(std::numeric_limits<Key>::max()));
    const Key sign =
        kTransform == ScoreTransform::kSigned ? static_cast<Key>(bits[i]) >> (sizeof(Key) * 8 - 1) : Key{0};
    keys[i] = ((magnitude ^ sign) - sign) ^ flip;
  }
}

/// The float32 bits of values of a type, of one and of 64 (in a buffer where they are not float32 themselves).
struct Float32Source {
  using Value = std::uint32_t;
  static std::uint32_t bits32(Value value) { return value; }
  static const std::uint32_t* bits32(const Value* values, std::uint32_t*) { return values; }
};
struct BFloat16Source {
  using Value = std::uint16_t;
  static std::uint32_t bits32(Value value) { return float32_bits_of_bfloat16(value); }
  static const std::uint32_t* bits32(const Value* values, std::uint32_t* buffer) {
    for (int i = 0; i < kWordBits; ++i) buffer[i] = bits32(values[i]);
    return buffer;
  }
};
struct Float16Source {
  using Value = std::uint16_t;
  static std::uint32_t bits32(Value value) { return float32_bits_of_float16(value); }
  static const std::uint32_t* bits32(const Value* values, std::uint32_t* buffer) {
    widen_float16(values, buffer);
    return buffer;
  }
};
struct Float64Source {
  using Value = std::uint64_t;
};

/// Thresholds come as 64-bit keys; the narrow keys of finite values never reach the ends of their range.
template <class Key>
Key clamp_key(std::int64_t key) {
  return static_cast<Key>(
      std::clamp<std::int64_t>(key, std::numeric_limits<Key>::min(), std::numeric_limits<Key>::max()));
}

/// Keys of 32 bits, from any type but float64.
template <class Source, ScoreTransform kTransform>
struct NarrowKeys {
  using Value = typename Source::Value;
  using Key = std::int32_t;

  static Key one(Value value, SelectionOrder order) {
    return OrderedKey32::from_bits(Source::bits32(value), kTransform, order);
  }
  static void load(const Value* values, Key* keys, Key flip) {
    alignas(64) std::uint32_t buffer[kWordBits];
    keys_from_bits<kTransform>(Source::bits32(values, buffer), keys, flip);
  }

  /// Where 64 values lie beside a bracket of keys.
  class Bracket {
   public:
    Bracket(const KeyFormat& format, std::int64_t low, std::int64_t high)
        : lanes_(flip_of<Key>(format), clamp_key<Key>(low), clamp_key<Key>(high)) {}

    [[gnu::always_inline]] void compare(const Value* values, Word& below, Word& above) {
      alignas(64) std::uint32_t buffer[kWordBits];
      lanes_.compare(Source::bits32(values, buffer), below, above);
    }
    bool all_finite() const { return lanes_.all_finite(); }

   private:
    KeyBracket<kTransform> lanes_;
  };
};

/// Keys of 64 bits, from any type.
template <class Source, ScoreTransform kTransform>
struct WideKeys {
  using Value = typename Source::Value;
  using Key = std::int64_t;

  static std::uint64_t bits64(Value value) {
    if constexpr (std::is_same_v<Source, Float64Source>) {
      return value;
    } else {
      return float64_bits_of_float32(Source::bits32(value));
    }
  }
  static Key one(Value value, SelectionOrder order) {
    return OrderedKey64::from_bits(bits64(value), kTransform, order);
  }
  static void load(const Value* values, Key* keys, Key flip) {
    alignas(64) std::uint64_t wide[kWordBits];
    for (int i = 0; i < kWordBits; ++i) wide[i] = bits64(values[i]);
    keys_from_bits<kTransform>(wide, keys, flip);
  }

  class Bracket {
   public:
    Bracket(const KeyFormat& format, std::int64_t low, std::int64_t high)
        : flip_(flip_of<Key>(format)), low_(low), high_(high) {}

    void compare(const Value* values, Word& below, Word& above) {
      alignas(64) std::uint64_t wide[kWordBits];
      alignas(64) Key keys[kWordBits];
      for (int i = 0; i < kWordBits; ++i) {
        wide[i] = bits64(values[i]);
        largest_ = std::max(largest_, static_cast<Key>(wide[i] & 0x7FFFFFFFFFFFFFFFULL));
      }
      keys_from_bits<kTransform>(wide, keys, flip_);
      below = less_mask(keys, low_);
      above = greater_mask(keys, high_);
    }
    bool all_finite() const { return largest_ < OrderedKey64::kExponent; }

   private:
    Key flip_;
    Key low_;
    Key high_;
    Key largest_ = 0;
  };
};

template <ScoreTransform kTransform, class Body>
void with_loader_of(const KeyFormat& format, Body&& body) {
  switch (format.dtype) {
    case DType::kFloat32:
      return format.wide ? body(WideKeys<Float32Source, kTransform>{}) : body(NarrowKeys<Float32Source, kTransform>{});
    case DType::kBFloat16:
      return format.wide ? body(WideKeys<BFloat16Source, kTransform>{})
                         : body(NarrowKeys<BFloat16Source, kTransform>{});
    case DType::kFloat16:
      return format.wide ? body(WideKeys<Float16Source, kTransform>{}) : body(NarrowKeys<Float16Source, kTransform>{});
    case DType::kFloat64:
      return body(WideKeys<Float64Source, kTransform>{});
  }
}

/// Calls `body` with the loader of the format.
template <class Body>
void with_loader(const KeyFormat& format, Body&& body) {
  if (format.transform == ScoreTransform::kSigned) {
    with_loader_of<ScoreTransform::kSigned>(format, body);
  } else {
    with_loader_of<ScoreTransform::kMagnitude>(format, body);
  }
}

/// The values of one word; past the end of the segment, zeros.
template <class Value>
class WordValues {
 public:
  WordValues(const void* values, std::int64_t numel) : values_(static_cast<const Value*>(values)), numel_(numel) {}

  [[gnu::always_inline]] const Value* operator()(std::int64_t word) {
    const std::int64_t first = word * kWordBits;
    if (numel_ - first >= kWordBits) [[likely]]
      return values_ + first;
    std::memcpy(tail_, values_ + first, static_cast<std::size_t>(numel_ - first) * sizeof(Value));
    return tail_;
  }

 private:
  const Value* values_;
  std::int64_t numel_;
  Value tail_[kWordBits] = {};
};

/// Words whose candidates inside a bracket are noted before they are listed: their scores are in the first-level cache
/// still, and whether a word has any is nothing a branch could foresee.
constexpr int kNotedWords = 64;

template <class Loader>
void score_pass_with(const ScorePass& pass, const WordRange& range, PassResult& result) {
  const auto* scores = static_cast<const typename Loader::Value*>(pass.scores);
  WordValues<typename Loader::Value> values(pass.scores, range.numel);
  typename Loader::Bracket bracket(pass.format, pass.low, pass.high);
  std::int64_t num_below = 0;
  std::int64_t num_inside = 0;
  std::int64_t noted[kNotedWords];
  Word noted_bits[kNotedWords];
  for (std::int64_t first = range.begin_word; first < range.end_word; first += kNotedWords) {
    const std::int64_t last = std::min(first + kNotedWords, range.end_word);
    int num_noted = 0;
    for (std::int64_t word = first; word < last; ++word) {
      Word below, above;
      bracket.compare(values(word), below, above);
      const Word candidates = pass.candidates[word];
      const Word inside = candidates & ~below & ~above;
      below &= candidates;
      if (pass.chosen != nullptr) pass.chosen[word] = below;
      num_below += std::popcount(below);
      num_inside += std::popcount(inside);
      noted[num_noted] = word;
      noted_bits[num_noted] = inside;
      num_noted += inside != 0 ? 1 : 0;
    }
    if (num_noted == 0 || num_inside > pass.capacity) continue;
    result.inside.resize(static_cast<std::size_t>(num_inside));
    InsideCandidate* end = result.inside.data() + num_inside;
    for (int i = num_noted - 1; i >= 0; --i) {
      for (Word inside = noted_bits[i]; inside != 0;) {
        const int bit = kWordBits - 1 - std::countl_zero(inside);
        inside ^= Word{1} << bit;
        const std::int64_t position = noted[i] * kWordBits + bit;
        *--end = {Loader::one(scores[position], pass.format.order), position};
      }
    }
  }
  result.num_below += num_below;
  result.num_inside += num_inside;
  result.all_finite &= bracket.all_finite();
}

void score_pass(const ScorePass& pass, const WordRange& range, PassResult& result) {
  with_loader(pass.format, [&]<class Loader>(Loader) { score_pass_with<Loader>(pass, range, result); });
}

/// The coarse tie keys of one word's weights, where neighbours in storage are neighbours in the layer.
[[gnu::always_inline]] inline void coarse_keys_of_neighbours(const TiePass& pass, const CoarseKeyLanes& lanes,
                                                             std::int64_t word, std::uint16_t* keys) {
  const auto first = static_cast<std::uint64_t>(pass.index_map.offset + word * kWordBits) / kCoarseKeysPerBlock;
  lanes.draw_consecutive(first, keys);
}

/// Where they are not: one block a weight, of which one key is taken.
inline void coarse_keys_of_scattered(const TiePass& pass, const CoarseKeyLanes& lanes, std::int64_t word,
                                     std::int64_t numel, std::uint16_t* keys) {
  const std::int64_t first = word * kWordBits;
  for (int eight = 0; eight < 8; ++eight) {
    std::uint64_t counters[kCoarseKeysPerBlock];
    std::uint64_t indices[kCoarseKeysPerBlock];
    std::uint16_t drawn[kWordBits];
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
  const bool are_neighbours = pass.index_map.is_contiguous() && pass.index_map.offset % kCoarseKeysPerBlock == 0;
  const CoarseKeyLanes lanes(pass.stream);
  const std::uint16_t low = pass.low;
  const std::uint16_t high = pass.high;
  std::int64_t num_below = 0;
  std::int64_t num_inside = 0;
  Word equal[kNotedWords];
  Word noted[kNotedWords];
  int noted_at[kNotedWords];
  alignas(64) std::uint16_t coarse[kNotedWords][kWordBits] = {};
  for (std::int64_t first = range.begin_word; first < range.end_word; first += kNotedWords) {
    const int num_words = static_cast<int>(std::min<std::int64_t>(kNotedWords, range.end_word - first));
    for (int i = 0; i < num_words; ++i) equal[i] = equal_bits(first + i);
    for (int i = 0; i < num_words; ++i) {
      if (std::popcount(equal[i]) <= kFewTies) {
        for (Word left = equal[i]; left != 0; left &= left - 1) {
          const int bit = std::countr_zero(left);
          const auto index = static_cast<std::uint64_t>(pass.index_map((first + i) * kWordBits + bit));
          coarse[i][bit] = static_cast<std::uint16_t>(coarse_key(pass.stream, index));
        }
      } else if (are_neighbours) {
        coarse_keys_of_neighbours(pass, lanes, first + i, coarse[i]);
      } else {
        coarse_keys_of_scattered(pass, lanes, first + i, range.numel, coarse[i]);
      }
    }
    int num_noted = 0;
    for (int i = 0; i < num_words; ++i) {
      const Word below = equal[i] & less_mask(coarse[i], low);
      const Word inside = equal[i] & ~below & ~greater_mask(coarse[i], high);
      pass.chosen[first + i] |= below;
      num_below += std::popcount(below);
      num_inside += std::popcount(inside);
      noted[num_noted] = inside;
      noted_at[num_noted] = i;
      num_noted += inside != 0 ? 1 : 0;
    }
    for (int j = 0; j < num_noted; ++j) {
      const int i = noted_at[j];
      for (Word inside = noted[j]; inside != 0; inside &= inside - 1) {
        const int bit = std::countr_zero(inside);
        result.inside.push_back({coarse[i][bit], (first + i) * kWordBits + bit});
      }
    }
  }
  result.num_below += num_below;
  result.num_inside += num_inside;
}

void tie_pass(const TiePass& pass, const WordRange& range, PassResult& result) {
  if (pass.scores == nullptr) {
    tie_pass_with(pass, range, result, [&](std::int64_t word) { return pass.candidates[word]; });
    return;
  }
  with_loader(pass.format, [&]<class Loader>(Loader) {
    WordValues<typename Loader::Value> values(pass.scores, range.numel);
    typename Loader::Bracket bracket(pass.format, pass.key, pass.key);
    tie_pass_with(pass, range, result, [&](std::int64_t word) -> Word {
      if (pass.candidates[word] == 0) return 0;
      Word below, above;
      bracket.compare(values(word), below, above);
      return pass.candidates[word] & ~below & ~above;
    });
  });
}

void histogram_pass(const HistogramPass& pass, const WordRange& range, std::int64_t* bins) {
  with_loader(pass.format, [&]<class Loader>(Loader) {
    using Key = typename Loader::Key;
    using Unsigned = std::make_unsigned_t<Key>;
    WordValues<typename Loader::Value> values(pass.scores, range.numel);
    const Key flip = flip_of<Key>(pass.format);
    const int key_bits = static_cast<int>(sizeof(Key) * 8);
    const int prefix_shift = pass.shift + pass.digit_bits;
    const std::uint64_t digit_mask = (std::uint64_t{1} << pass.digit_bits) - 1;
    alignas(64) Key keys[kWordBits];
    for (std::int64_t word = range.begin_word; word < range.end_word; ++word) {
      Word candidates = pass.candidates[word];
      if (candidates == 0) continue;
      Loader::load(values(word), keys, flip);
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
    const Word may_hold_values = dropped | grown | (all & valid_bits(word, range.numel));
    zeros[word - range.begin_word] = may_hold_values & ~(kept | (regrown & values_of_regrown));
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

template <class Body>
void with_element(std::size_t size, Body&& body) {
  switch (size) {
    case 2:
      return body(std::uint16_t{});
    case 4:
      return body(std::uint32_t{});
    default:
      return body(std::uint64_t{});
  }
}

void zero_where(void* data, std::size_t element_size, const Word* where, const WordRange& range) {
  with_element(element_size, [&]<class Element>(Element) { zero_where_of(static_cast<Element*>(data), where, range); });
}

}  // namespace

const Kernels ITOP_KERNELS = {score_pass, tie_pass, histogram_pass, count, commit_bits, zero_where};

}  // namespace itop::cpu
