#pragma once

#include <cstdint>
#include <string>

namespace itop {

enum class DeviceType : std::uint8_t { kCpu, kCuda };

/// Where a tensor lives. The index counts GPUs and is 0 for the CPU.
struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

/// A stream of the caller, as an integer: `cudaStream_t` on CUDA, ignored on the CPU.
using StreamHandle = std::intptr_t;

/// "cpu" or "cuda:0".
inline std::string to_string(const Device& device) {
  return device.type == DeviceType::kCpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

}  // namespace itop
