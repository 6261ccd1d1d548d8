// The per-weight loops, compiled once per instruction set: ITOP_KERNELS names the table, ITOP_LANES the namespace of
// the few operations that differ (lanes_portable.hpp, lanes_avx2.hpp, lanes_avx512.hpp).

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "cpu/kernels.hpp"
#include "cpu/key_loaders.inl"

namespace itop::cpu {
namespace {

using namespace ITOP_LANES;

/// Words whose candidates inside a bracket are noted before they are listed: their scores are in the first-level cache
/// still, and whether a word has any is nothing a branch could foresee.
constexpr int kNotedWords = 64;

/// Bits that `list_bits` lists at once, whether they are there or not.
constexpr int kListedAtOnce = 2;

/// Lists the positions of the set bits of a word and returns the end of the list, behind which it may write up to
/// `kListedAtOnce` more. Most words have few bits or none, and how many is nothing a branch could foresee.
[[gnu::always_inline]] inline InsideCandidate* list_bits(Word bits, std::int64_t word, InsideCandidate* end) {
  const int num_bits = std::popcount(bits);
  const auto list_one = [&](int i) {
    end[i].position = word * kWordBits + std::countr_zero(bits);
    bits &= bits - 1;
  };
  for (int i = 0; i < kListedAtOnce; ++i) list_one(i);
  for (int i = kListedAtOnce; i < num_bits; ++i) list_one(i);
  return end + num_bits;
}

/// Places of a range that a pass goes through side by side. The hardware fetches ahead within each, so that several
/// keep memory busier than one.
constexpr int kReadStreams = 4;

/// Calls `body(word)` for the words of a range, `list()` after every `kNotedWords` at most; in the order of storage
/// where there is one stream.
template <int kStreams, class Body, class List>
[[gnu::always_inline]] inline void in_streams(std::int64_t begin, std::int64_t end, Body&& body, List&& list) {
  constexpr std::int64_t words_at_once = kNotedWords / kStreams;
  const std::int64_t length = (end - begin) / kStreams;
  for (std::int64_t first = 0; first < length; first += words_at_once) {
    for (std::int64_t i = first; i < std::min(first + words_at_once, length); ++i) {
#pragma GCC unroll 4
      for (int stream = 0; stream < kStreams; ++stream) body(begin + stream * length + i);
    }
    list();
  }
  for (std::int64_t word = begin + kStreams * length; word < end; ++word) body(word);
  list();
}

template <class Loader>
void score_pass_with(const ScorePass& pass, const WordRange& range, PassResult& result) {
  const auto* scores = static_cast<const typename Loader::Value*>(pass.scores);
  WordValues<typename Loader::Value> values(pass.scores, range.numel);
  typename Loader::Bracket bracket(pass.format, pass.low, pass.high);
  std::int64_t num_below = 0;
  std::int64_t num_inside = 0;
  std::int64_t noted[kNotedWords];
  Word noted_bits[kNotedWords];
  int num_noted = 0;
  const auto compare = [&](std::int64_t word) __attribute__((always_inline)) {
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
  };
  const auto list = [&] {
    if (num_noted > 0 && num_inside <= pass.capacity) {
      const std::size_t num_listed = result.inside.size();
      result.inside.resize(static_cast<std::size_t>(num_inside) + kListedAtOnce);
      InsideCandidate* const first = result.inside.data() + num_listed;
      InsideCandidate* end = first;
      for (int i = 0; i < num_noted; ++i) end = list_bits(noted_bits[i], noted[i], end);
      for (InsideCandidate* one = first; one != end; ++one) {
        one->key = Loader::one(scores[one->position], pass.format.order);
      }
      result.inside.resize(static_cast<std::size_t>(num_inside));
    }
    num_noted = 0;
  };
  if (pass.lists_in_order) {
    in_streams<1>(range.begin_word, range.end_word, compare, list);
  } else {
    in_streams<kReadStreams>(range.begin_word, range.end_word, compare, list);
  }
  result.num_below += num_below;
  result.num_inside += num_inside;
  result.all_finite &= bracket.all_finite();
}

void score_pass(const ScorePass& pass, const WordRange& range, PassResult& result) {
  with_loader(pass.format, [&]<class Loader>(Loader) { score_pass_with<Loader>(pass, range, result); });
}

/// Scattered places are cache misses: so many places ahead are asked for while these are compared.
constexpr std::size_t kPlacesAhead = 16;

template <class Loader>
void append_keys_with(const void* scores, const KeyFormat& format, const Word* candidates,
                      std::span<const PartOfWord> places, ScratchArray<std::int64_t>& keys) {
  using Value = typename Loader::Value;
  const auto* const values = static_cast<const Value*>(scores);
  constexpr int values_a_line = 64 / static_cast<int>(sizeof(Value));
  const auto ask_for = [&](const PartOfWord& place) __attribute__((always_inline)) {
    __builtin_prefetch(candidates + place.word);
    const Value* const first = values + place.word * kWordBits + std::countr_zero(place.bits);
    for (int i = 0; i < std::popcount(place.bits); i += values_a_line) __builtin_prefetch(first + i);
  };
  for (std::size_t i = 0; i < std::min(kPlacesAhead, places.size()); ++i) ask_for(places[i]);
  std::size_t num_keys = keys.size();
  for (std::size_t i = 0; i < places.size(); ++i) {
    if (i + kPlacesAhead < places.size()) ask_for(places[i + kPlacesAhead]);
    const auto [word, bits] = places[i];
    Word left = candidates[word] & bits;
    keys.resize(num_keys + static_cast<std::size_t>(std::popcount(left)));
    for (; left != 0; left &= left - 1) {
      keys[num_keys++] = Loader::one(values[word * kWordBits + std::countr_zero(left)], format.order);
    }
  }
}

void append_keys(const void* scores, const KeyFormat& format, const Word* candidates,
                 std::span<const PartOfWord> places, ScratchArray<std::int64_t>& keys) {
  with_loader(format,
              [&]<class Loader>(Loader) { append_keys_with<Loader>(scores, format, candidates, places, keys); });
}

/// Where the coarse tie keys of one word's weights lie beside [low, high], if neighbours in storage are none in the
/// layer: one block a weight, of which one key is taken.
inline void compare_scattered(const TiePass& pass, const CoarseKeyLanes& lanes, std::int64_t word, std::int64_t numel,
                              Word& below, Word& above) {
  alignas(64) std::uint16_t keys[kWordBits];
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
  below = less_mask(keys, pass.low);
  above = greater_mask(keys, pass.high);
}

/// Draws the keys of listed candidates, eight blocks at once.
inline void draw_listed(const TiePass& pass, const CoarseKeyLanes& lanes, InsideCandidate* begin,
                        InsideCandidate* end) {
  std::uint64_t counters[kCoarseKeysPerBlock] = {};
  int within[kCoarseKeysPerBlock];
  alignas(64) std::uint16_t drawn[kWordBits];
  for (InsideCandidate* first = begin; first < end; first += kCoarseKeysPerBlock) {
    const auto num = static_cast<int>(std::min<std::ptrdiff_t>(kCoarseKeysPerBlock, end - first));
    for (int i = 0; i < num; ++i) {
      const auto index = static_cast<std::uint64_t>(pass.index_map(first[i].position));
      counters[i] = index / kCoarseKeysPerBlock;
      within[i] = static_cast<int>(index % kCoarseKeysPerBlock);
    }
    lanes.draw(counters, drawn);
    for (int i = 0; i < num; ++i) first[i].key = drawn[i * kCoarseKeysPerBlock + within[i]];
  }
}

inline std::uint16_t coarse_key_at(const TiePass& pass, std::int64_t position) {
  return static_cast<std::uint16_t>(coarse_key(pass.stream, static_cast<std::uint64_t>(pass.index_map(position))));
}

/// Below this many tied weights in a word, single draws are cheaper than a word's worth.
constexpr int kFewTies = 3;

template <bool kKeepsChosen, class EqualBits>
void tie_pass_with(const TiePass& pass, const WordRange& range, PassResult& result, EqualBits&& equal_bits) {
  constexpr int words_at_once = CoarseKeyLanes::kKeyWords;
  const bool are_neighbours = pass.index_map.is_contiguous() && pass.index_map.offset % kCoarseKeysPerBlock == 0;
  const CoarseKeyLanes lanes(pass.stream);
  std::int64_t num_below = 0;
  std::int64_t num_inside = 0;
  std::int64_t noted[kNotedWords];
  Word noted_bits[kNotedWords];
  int num_noted = 0;
  const auto take = [&](std::int64_t word, Word equal, Word below, Word above) __attribute__((always_inline)) {
    const Word inside = equal & ~below & ~above;
    below &= equal;
    pass.chosen[word] = kKeepsChosen ? pass.chosen[word] | below : below;
    num_below += std::popcount(below);
    num_inside += std::popcount(inside);
    noted[num_noted] = word;
    noted_bits[num_noted] = inside;
    num_noted += inside != 0 ? 1 : 0;
  };
  const auto take_one_word = [&](std::int64_t word, Word equal) {
    Word below = 0;
    Word above = 0;
    if (std::popcount(equal) > kFewTies) {
      compare_scattered(pass, lanes, word, range.numel, below, above);
    } else {
      for (Word left = equal; left != 0; left &= left - 1) {
        const std::uint16_t key = coarse_key_at(pass, word * kWordBits + std::countr_zero(left));
        below |= key < pass.low ? left & -left : 0;
        above |= key > pass.high ? left & -left : 0;
      }
    }
    take(word, equal, below, above);
  };
  const auto list = [&] {
    if (num_noted == 0) return;
    const std::size_t num_listed = result.inside.size();
    result.inside.resize(static_cast<std::size_t>(num_inside) + kListedAtOnce);
    InsideCandidate* const first = result.inside.data() + num_listed;
    InsideCandidate* end = first;
    for (int i = 0; i < num_noted; ++i) end = list_bits(noted_bits[i], noted[i], end);
    draw_listed(pass, lanes, first, end);
    result.inside.resize(static_cast<std::size_t>(num_inside));
    num_noted = 0;
  };
  for (std::int64_t first = range.begin_word; first < range.end_word;) {
    const int num_words = static_cast<int>(std::min<std::int64_t>(words_at_once, range.end_word - first));
    Word equal[words_at_once] = {};
    int num_equal = 0;
    for (int i = 0; i < num_words; ++i) {
      equal[i] = equal_bits(first + i);
      num_equal += std::popcount(equal[i]);
    }
    if (are_neighbours && num_equal > kFewTies * num_words) {
      Word below[words_at_once];
      Word above[words_at_once];
      lanes.compare(static_cast<std::uint64_t>(pass.index_map.offset + first * kWordBits) / kCoarseKeysPerBlock,
                    pass.low, pass.high, below, above);
      for (int i = 0; i < num_words; ++i) take(first + i, equal[i], below[i], above[i]);
    } else {
      for (int i = 0; i < num_words; ++i) take_one_word(first + i, equal[i]);
    }
    first += num_words;
    if (num_noted > kNotedWords - words_at_once) list();
  }
  list();
  result.num_below += num_below;
  result.num_inside += num_inside;
}

void tie_pass(const TiePass& pass, const WordRange& range, PassResult& result) {
  if (pass.scores == nullptr) {
    tie_pass_with<false>(pass, range, result, [&](std::int64_t word) { return pass.candidates[word]; });
    return;
  }
  with_loader(pass.format, [&]<class Loader>(Loader) {
    WordValues<typename Loader::Value> values(pass.scores, range.numel);
    typename Loader::Bracket bracket(pass.format, pass.key, pass.key);
    tie_pass_with<true>(pass, range, result, [&](std::int64_t word) -> Word {
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

template <class Place>
void list_places(const Word* words, std::int64_t num_words, std::int64_t first, Place* out) {
  for (std::int64_t word = 0; word < num_words; ++word) {
    Word left = words[word];
    const std::int64_t start = first + word * kWordBits;
    const int num_bits = std::popcount(left);
    // Four at a time, wanted or not: how many a word has is nothing a branch could foresee. The last bit stands for
    // none, so that none needs no branch either.
    int listed = 0;
    do {
      for (int i = 0; i < kListedSlack; ++i) {
        out[listed + i] = static_cast<Place>(start + std::countr_zero(left | (Word{1} << (kWordBits - 1))));
        left &= left - 1;
      }
      listed += kListedSlack;
    } while (listed < num_bits);
    out += num_bits;
  }
}

void list_bits(const Word* words, std::int64_t num_words, std::int64_t first, std::int64_t* out) {
  list_places(words, num_words, first, out);
}

void list_offsets(const Word* words, std::int64_t num_words, std::uint16_t* out) {
  list_places(words, num_words, 0, out);
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
    const Word may_hold_values = dropped | (all & valid_bits(word, range.numel));
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
  const auto zero_word = [&](std::int64_t word) __attribute__((always_inline)) {
    Word zeros = where[word - range.begin_word];
    if (zeros == 0) return;
    Element* first = data + word * kWordBits;
    const bool whole = range.numel - word * kWordBits >= kWordBits;
    if (whole && std::popcount(zeros) > 6) {
      zero_lanes(first, zeros);
      return;
    }
    for (; zeros != 0; zeros &= zeros - 1) first[std::countr_zero(zeros)] = 0;
  };
  in_streams<kReadStreams>(range.begin_word, range.end_word, zero_word, [] {});
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

const Kernels ITOP_KERNELS = {score_pass, append_keys,  tie_pass,    histogram_pass, count,
                              list_bits,  list_offsets, commit_bits, zero_where};

}  // namespace itop::cpu
