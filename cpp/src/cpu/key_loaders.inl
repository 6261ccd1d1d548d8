// How the per-weight loops read values as ordered keys; compiled with them once per instruction set (kernels.inl).

#include <algorithm>
#include <cstring>
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

}  // namespace
}  // namespace itop::cpu
