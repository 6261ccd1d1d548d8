#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "itop/tensor_view.hpp"
#include "support/devices.hpp"

namespace itop::testing {

inline std::string name_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
  }
  throw std::logic_error("unknown dtype");
}

inline std::string name_of_device_and_type(const ::testing::TestParamInfo<std::tuple<Device, DType>>& info) {
  return device_label(std::get<0>(info.param)) + "_" + name_of(std::get<1>(info.param));
}

inline constexpr DType kAllDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16};

/// The value of a half by its definition: sign, 5 bits of exponent, 10 bits of fraction.
inline double decode_float16(std::uint16_t bits) {
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  const int exponent = (bits >> 10) & 0x1F;
  const int fraction = bits & 0x3FF;
  if (exponent == 31) {
    return fraction == 0 ? sign * std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  }
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

/// The value of a bfloat16: the upper half of a float32.
inline double decode_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// A half of at most this magnitude; excess bits of the fraction are cut off.
inline std::uint16_t encode_float16(double value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  if (std::isnan(value)) return 0x7E00;
  if (std::isinf(value)) return static_cast<std::uint16_t>(sign | 0x7C00);
  const double magnitude = std::min(std::fabs(value), 65504.0);
  if (magnitude < std::ldexp(1.0, -14)) {
    return static_cast<std::uint16_t>(sign | static_cast<int>(std::ldexp(magnitude, 24)));
  }
  int exponent = 0;
  const double fraction = std::frexp(magnitude, &exponent);  // in [1/2, 1)
  return static_cast<std::uint16_t>(sign | ((exponent + 14) << 10) |
                                    (static_cast<int>(std::ldexp(fraction, 11)) & 0x3FF));
}

inline std::uint16_t encode_bfloat16(double value) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16);
}

/// The bytes of `values` in a type; what the type cannot hold is rounded.
inline std::vector<std::byte> encode(DType dtype, const std::vector<double>& values) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::byte* to = bytes.data() + i * size_of(dtype);
    const auto store = [to](auto value) { std::memcpy(to, &value, sizeof(value)); };
    switch (dtype) {
      case DType::kFloat32:
        store(static_cast<float>(values[i]));
        break;
      case DType::kFloat64:
        store(values[i]);
        break;
      case DType::kBFloat16:
        store(encode_bfloat16(values[i]));
        break;
      case DType::kFloat16:
        store(encode_float16(values[i]));
        break;
    }
  }
  return bytes;
}

/// Every supported type is a subset of float64: no comparison is lost in the decoded values.
inline std::vector<double> decode(DType dtype, const std::vector<std::byte>& bytes) {
  std::vector<double> values(bytes.size() / size_of(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::byte* from = bytes.data() + i * size_of(dtype);
    const auto load = [from](auto value) {
      std::memcpy(&value, from, sizeof(value));
      return value;
    };
    switch (dtype) {
      case DType::kFloat32:
        values[i] = load(float{});
        break;
      case DType::kFloat64:
        values[i] = load(double{});
        break;
      case DType::kBFloat16:
        values[i] = decode_bfloat16(load(std::uint16_t{}));
        break;
      case DType::kFloat16:
        values[i] = decode_float16(load(std::uint16_t{}));
        break;
    }
  }
  return values;
}

}  // namespace itop::testing
