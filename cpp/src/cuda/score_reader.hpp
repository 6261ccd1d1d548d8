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

/// Scores of one 16- or 32-bit type as keys of 32 bits.
template <class Source>
struct NarrowScores {
  using Bits = typename Source::Stored;
  using OrderedKey = Ordered<std::int32_t>::Type;

  const void* data;
  ScoreFormat format;

  ITOP_HOST_DEVICE Bits load(std::int64_t position) const { return static_cast<const Bits*>(data)[position]; }
  ITOP_HOST_DEVICE OrderedKey key(Bits bits) const {
    return Ordered<std::int32_t>::of(OrderedKey32::from_bits(Source::widen(bits), format.transform, format.order));
  }
  ITOP_HOST_DEVICE static bool is_finite(Bits bits) { return OrderedKey32::is_finite(Source::widen(bits)); }
};

/// Scores of any type as keys of 64 bits. The type is looked at for every value: float64 is rare on GPUs.
struct WideScores {
  using Bits = std::uint64_t;
  using OrderedKey = Ordered<std::int64_t>::Type;

  const void* data;
  ScoreFormat format;

  ITOP_HOST_DEVICE Bits load(std::int64_t position) const {
    switch (format.dtype) {
      case DType::kFloat64:
        return static_cast<const std::uint64_t*>(data)[position];
      case DType::kFloat32:
        return float64_bits_of_float32(static_cast<const std::uint32_t*>(data)[position]);
      case DType::kBFloat16:
        return float64_bits_of_float32(float32_bits_of_bfloat16(static_cast<const std::uint16_t*>(data)[position]));
      case DType::kFloat16:
        return float64_bits_of_float32(float32_bits_of_float16(static_cast<const std::uint16_t*>(data)[position]));
    }
    return 0;
  }
  ITOP_HOST_DEVICE OrderedKey key(Bits bits) const {
    return Ordered<std::int64_t>::of(OrderedKey64::from_bits(bits, format.transform, format.order));
  }
  ITOP_HOST_DEVICE static bool is_finite(Bits bits) { return OrderedKey64::is_finite(bits); }
};

/// Calls `body` with the reader of the format: a branch that all threads of a block take alike.
template <class Body>
ITOP_DEVICE void with_scores(const void* data, const ScoreFormat& format, Body&& body) {
  if (format.wide) {
    body(WideScores{data, format});
    return;
  }
  switch (format.dtype) {
    case DType::kFloat32:
      return body(NarrowScores<Float32Bits>{data, format});
    case DType::kBFloat16:
      return body(NarrowScores<BFloat16Bits>{data, format});
    case DType::kFloat16:
      return body(NarrowScores<Float16Bits>{data, format});
    case DType::kFloat64:
      return;  // always wide
  }
}

/// One score's key, for the places that read few.
ITOP_DEVICE std::uint64_t ordered_key(const void* data, const ScoreFormat& format, std::int64_t position) {
  std::uint64_t key = 0;
  with_scores(data, format, [&](const auto& scores) { key = scores.key(scores.load(position)); });
  return key;
}

}  // namespace itop::cuda
