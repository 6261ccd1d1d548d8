#pragma once

#include <cstddef>
#include <cstdint>

#include "itop/device.hpp"

namespace itop {

enum class DType : std::uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 8;
    case DType::kFloat32:
      return 4;
    case DType::kBFloat16:
    case DType::kFloat16:
      return 2;
  }
  return 0;
}

/// A tensor borrowed for one call: `numel` values without gaps, in storage order. Owns nothing.
struct TensorView {
  void* data = nullptr;
  std::int64_t numel = 0;
  DType dtype = DType::kFloat32;
  Device device;
};

}  // namespace itop
