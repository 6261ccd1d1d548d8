#pragma once

#include <cstddef>

namespace itop::emulated_cuda {

/// Memory of a device, in pages of its own. Only while it is open may anybody touch it: the host, which may not on a
/// real machine, is stopped by the processor, and so is whoever goes past the end (by more than fills up a multiple of
/// 16 bytes) or comes back when it is freed.
class DevicePages {
 public:
  /// @param content what every byte holds
  DevicePages(std::size_t size, unsigned char content);
  ~DevicePages();
  DevicePages(const DevicePages&) = delete;
  DevicePages& operator=(const DevicePages&) = delete;

  std::byte* begin() const noexcept { return begin_; }
  std::size_t size() const noexcept { return size_; }
  void open() const;
  void close() const;
  /// Whether the bytes around it are as they were.
  bool is_intact() const;

 private:
  std::size_t size_;
  std::size_t num_mapped_;
  std::byte* pages_;  ///< between one page before and one after that nobody may ever touch
  std::byte* begin_;
};

}  // namespace itop::emulated_cuda
