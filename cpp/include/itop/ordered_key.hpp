#pragma once

#include <cstdint>
#include <cstring>

#include "itop/host_device.hpp"
#include "itop/tensor_view.hpp"

namespace itop {

/// What of a value is compared.
enum class ScoreTransform : std::uint8_t {
  kMagnitude,  ///< its absolute value
  kSigned,     ///< the value itself; -0 equals +0
};

/// Which end of the order is chosen.
enum class SelectionOrder : std::uint8_t { kSmallest, kLargest };

/// Integer keys in the order of the scores: comparing keys as signed integers compares scores, exactly.
/// kLargest flips the keys, so that "choose the smallest key" is all a selection ever does.
struct OrderedKey32 {
  using Key = std::int32_t;
  static constexpr std::int32_t kExponent = 0x7F800000;

  ITOP_HOST_DEVICE static Key from_bits(std::uint32_t bits, ScoreTransform transform, SelectionOrder order) {
    const std::int32_t magnitude = static_cast<std::int32_t>(bits & 0x7FFFFFFFu);
    const std::int32_t key = transform == ScoreTransform::kMagnitude || (bits >> 31) == 0 ? magnitude : -magnitude;
    return order == SelectionOrder::kSmallest ? key : ~key;
  }
  ITOP_HOST_DEVICE static bool is_finite(std::uint32_t bits) {
    return static_cast<std::int32_t>(bits & 0x7FFFFFFFu) < kExponent;
  }
};

struct OrderedKey64 {
  using Key = std::int64_t;
  static constexpr std::int64_t kExponent = 0x7FF0000000000000LL;

  ITOP_HOST_DEVICE static Key from_bits(std::uint64_t bits, ScoreTransform transform, SelectionOrder order) {
    const std::int64_t magnitude = static_cast<std::int64_t>(bits & 0x7FFFFFFFFFFFFFFFULL);
    const std::int64_t key = transform == ScoreTransform::kMagnitude || (bits >> 63) == 0 ? magnitude : -magnitude;
    return order == SelectionOrder::kSmallest ? key : ~key;
  }
  ITOP_HOST_DEVICE static bool is_finite(std::uint64_t bits) {
    return static_cast<std::int64_t>(bits & 0x7FFFFFFFFFFFFFFFULL) < kExponent;
  }
};

/// The float32 bits of a 16-bit value: every bfloat16 and float16 is a float32, so the order is kept.
ITOP_HOST_DEVICE std::uint32_t float32_bits_of_bfloat16(std::uint16_t value) { return std::uint32_t{value} << 16; }

ITOP_HOST_DEVICE std::uint32_t float32_bits_of_float16(std::uint16_t value) {
  const std::uint32_t sign = (std::uint32_t{value} & 0x8000u) << 16;
  std::uint32_t exponent = (value >> 10) & 0x1Fu;
  std::uint32_t mantissa = value & 0x3FFu;
  if (exponent == 0x1F) return sign | 0x7F800000u | (mantissa << 13);
  if (exponent == 0) {
    if (mantissa == 0) return sign;
    exponent = 1;
    while ((mantissa & 0x400u) == 0) {  // a subnormal half is a normal float
      mantissa <<= 1;
      --exponent;
    }
    mantissa &= 0x3FFu;
  }
  return sign | ((exponent + 112u) << 23) | (mantissa << 13);
}

/// The float64 bits of a finite or non-finite float32 given by its bits.
ITOP_HOST_DEVICE std::uint64_t float64_bits_of_float32(std::uint32_t bits) {
  float narrow;
  std::memcpy(&narrow, &bits, sizeof(narrow));
  const double wide = static_cast<double>(narrow);
  std::uint64_t result;
  std::memcpy(&result, &wide, sizeof(result));
  return result;
}

}  // namespace itop
