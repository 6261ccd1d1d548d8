#pragma once

#include <cstdint>

#include "cuda/selection_tables.hpp"
#include "cuda/simt.hpp"
#include "itop/ordered_key.hpp"
#include "itop/tensor_view.hpp"

namespace itop::cuda {

/// Keys as unsigned integers in their order. Keys of finite scores are never the least nor the greatest of their type,
/// so these two serve as "nothing" and "everything".
template <class Key>
struct Ordered;
template <>
struct Ordered<std::int32_t> {
  using Type = std::uint32_t;
  ITOP_HOST_DEVICE static Type of(std::int32_t key) { return static_cast<std::uint32_t>(key) ^ 0x80000000u; }
};
template <>
struct Ordered<std::int64_t> {
  using Type = std::uint64_t;
  ITOP_HOST_DEVICE static Type of(std::int64_t key) {
    return static_cast<std::uint64_t>(key) ^ (std::uint64_t{1} << 63);
  }
};

struct Float32Bits {
  using Stored = std::uint32_t;
  ITOP_HOST_DEVICE static std::uint32_t widen(Stored stored) { return stored; }
};
struct BFloat16Bits {
  using Stored = std::uint16_t;
  ITOP_HOST_DEVICE static std::uint32_t widen(Stored stored) { return float32_bits_of_bfloat16(stored); }
};
struct Float16Bits {
  using Stored = std::uint16_t;
  ITOP_HOST_DEVICE static std::uint32_t widen(Stored stored) { return float32_bits_of_float16(stored); }
};

struct Float64Bits {
  using Stored = std::uint64_t;
  ITOP_HOST_DEVICE static std::uint64_t widen(Stored stored) { return stored; }
};

/// Scores of one type as keys of 32 bits (OrderedKey32) or 64.
template <class Source, class KeyOf>
struct StoredScores {
  using Bits = typename Source::Stored;
  using OrderedKey = typename Ordered<typename KeyOf::Key>::Type;
  static constexpr bool kIsStored = true;  ///< Bits are what lies in memory

  const void* data;
  ScoreFormat format;

  ITOP_HOST_DEVICE const Bits* address(std::int64_t position) const {
    return static_cast<const Bits*>(data) + position;
  }
  ITOP_HOST_DEVICE Bits load(std::int64_t position) const { return *address(position); }
  ITOP_HOST_DEVICE OrderedKey key(Bits bits) const {
    return Ordered<typename KeyOf::Key>::of(KeyOf::from_bits(Source::widen(bits), format.transform, format.order));
  }
  ITOP_HOST_DEVICE static bool is_finite(Bits bits) { return KeyOf::is_finite(Source::widen(bits)); }
};

/// Scores of 16 or 32 bits as keys of 64, beside float64 layers in one selection. That is rare: the type is looked at
/// for every value.
struct WidenedScores {
  using Bits = std::uint64_t;
  using OrderedKey = Ordered<std::int64_t>::Type;
  static constexpr bool kIsStored = false;

  const void* data;
  ScoreFormat format;

  ITOP_HOST_DEVICE Bits load(std::int64_t position) const {
    const auto read = [&]<class Source>(Source) {
      return float64_bits_of_float32(Source::widen(static_cast<const typename Source::Stored*>(data)[position]));
    };
    return format.dtype == DType::kFloat32    ? read(Float32Bits{})
           : format.dtype == DType::kBFloat16 ? read(BFloat16Bits{})
                                              : read(Float16Bits{});
  }
  ITOP_HOST_DEVICE OrderedKey key(Bits bits) const {
    return Ordered<std::int64_t>::of(OrderedKey64::from_bits(bits, format.transform, format.order));
  }
  ITOP_HOST_DEVICE static bool is_finite(Bits bits) { return OrderedKey64::is_finite(bits); }
};

/// Calls `body` with the reader of the format: a branch that all threads of a block take alike.
template <class Body>
ITOP_DEVICE void with_scores(const void* data, const ScoreFormat& format, Body&& body) {
  if (format.dtype == DType::kFloat64) return body(StoredScores<Float64Bits, OrderedKey64>{data, format});
  if (format.wide) return body(WidenedScores{data, format});
  switch (format.dtype) {
    case DType::kBFloat16:
      return body(StoredScores<BFloat16Bits, OrderedKey32>{data, format});
    case DType::kFloat16:
      return body(StoredScores<Float16Bits, OrderedKey32>{data, format});
    default:
      return body(StoredScores<Float32Bits, OrderedKey32>{data, format});
  }
}

/// One score's key, for the places that read few.
ITOP_DEVICE std::uint64_t ordered_key(const void* data, const ScoreFormat& format, std::int64_t position) {
  std::uint64_t key = 0;
  with_scores(data, format, [&](const auto& scores) { key = scores.key(scores.load(position)); });
  return key;
}

}  // namespace itop::cuda
