#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cuda/cuda_check.hpp"
#include "itop/backend.hpp"

namespace itop::cuda {

/// The layers of selections, a segment each.
std::vector<std::string> layers_of(std::span<const Selection> selections);

/// Flags of that many segments and the one over all of them, rounded up to whole words.
constexpr std::int64_t num_flags(std::size_t num_segments) {
  return (static_cast<std::int64_t>(num_segments) + 2) / 2 * 2;
}

/// @throws NonFiniteError naming the first layer whose flag is set
void refuse_not_finite(std::span<const std::string> layers, std::span<const std::uint32_t> not_finite);

/// A verdict that lies in device memory: read when somebody asks.
class DeviceVerdict final : public SelectionVerdict {
 public:
  /// @param flags as select_here leaves them, on `stream`
  DeviceVerdict(int device_index, std::vector<std::string> layers, std::unique_ptr<WordBuffer> flags,
                cudaStream_t stream);

  void check() override;

  bool is_known() const noexcept { return is_known_; }
  /// The host has learned by other ways that the scores were finite.
  void accept() noexcept { is_known_ = true; }
  /// The flag that is set where any score has no order.
  const std::uint32_t* refusal() const noexcept { return flags() + layers_.size(); }

 private:
  const std::uint32_t* flags() const noexcept { return reinterpret_cast<const std::uint32_t*>(flags_->data()); }

  int device_index_;
  std::vector<std::string> layers_;
  std::unique_ptr<WordBuffer> flags_;
  cudaStream_t stream_;
  bool is_known_ = false;
};

}  // namespace itop::cuda
