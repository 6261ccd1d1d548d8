#pragma once

#include <bit>
#include <cstdint>

#include "itop/host_device.hpp"

namespace itop {

ITOP_HOST_DEVICE float float_of_bits(std::uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

ITOP_HOST_DEVICE std::uint32_t bits_of_float(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  return std::bit_cast<std::uint32_t>(value);
#endif
}

ITOP_HOST_DEVICE float from_bfloat16(std::uint16_t bits) { return float_of_bits(std::uint32_t{bits} << 16); }

/// Rounded to nearest even; NaN stays NaN.
ITOP_HOST_DEVICE std::uint16_t to_bfloat16(float value) {
  const std::uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);  // a quiet NaN
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

}  // namespace itop
