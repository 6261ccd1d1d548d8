#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "itop/backend.hpp"
#include "itop/build_info.hpp"

namespace itop::testing {

/// Every device of this machine: contract suites are instantiated over them.
inline std::vector<Device> available_devices() {
  std::vector<Device> devices{Device{}};
  if (build_info().num_cuda_devices > 0) devices.push_back({DeviceType::kCuda, 0});
  return devices;
}

/// "cpu" or "cuda0", for names of tests.
inline std::string device_label(const Device& device) {
  return device.type == DeviceType::kCpu ? "cpu" : "cuda" + std::to_string(device.index);
}

inline std::string name_of_device(const ::testing::TestParamInfo<Device>& info) { return device_label(info.param); }

/// Bytes on a device, made and read back through nothing but the backend's own interface.
class DeviceBytes {
 public:
  DeviceBytes(const Device& device, std::span<const std::byte> host) : device_(device), num_bytes_(host.size()) {
    std::vector<Word> words((host.size() + sizeof(Word) - 1) / sizeof(Word) + 1);
    if (!host.empty()) std::memcpy(words.data(), host.data(), host.size());
    buffer_ = backend().allocate(static_cast<std::int64_t>(words.size()), Contents::kUnspecified, 0);
    backend().copy_from_host(words, buffer_->data(), 0);
  }

  template <class T>
  static DeviceBytes of(const Device& device, const std::vector<T>& host) {
    return DeviceBytes(device, std::as_bytes(std::span(host)));
  }

  void* data() const { return buffer_->data(); }
  Word* words() const { return buffer_->data(); }

  template <class T>
  std::vector<T> read() const {
    std::vector<Word> words(static_cast<std::size_t>(buffer_->size()));
    backend().copy_to_host(buffer_->data(), words, 0);
    std::vector<T> host(num_bytes_ / sizeof(T));
    if (!host.empty()) std::memcpy(host.data(), words.data(), num_bytes_);
    return host;
  }

 private:
  Backend& backend() const { return backend_for(device_); }

  Device device_;
  std::size_t num_bytes_;
  std::unique_ptr<WordBuffer> buffer_;
};

/// Bits, one `bool` a weight, to words and back.
inline std::vector<Word> pack_bits(const std::vector<bool>& bits) {
  std::vector<Word> words(static_cast<std::size_t>(words_for(static_cast<std::int64_t>(bits.size()))));
  for (std::size_t i = 0; i < bits.size(); ++i) words[i / kWordBits] |= Word{bits[i]} << (i % kWordBits);
  return words;
}

inline std::vector<bool> unpack_bits(const std::vector<Word>& words, std::size_t num_bits) {
  std::vector<bool> bits(num_bits);
  for (std::size_t i = 0; i < num_bits; ++i) bits[i] = test_bit(words.data(), static_cast<std::int64_t>(i));
  return bits;
}

}  // namespace itop::testing
