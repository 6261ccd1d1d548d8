#include "cuda/verdict.hpp"

#include <utility>

#include "itop/error.hpp"

namespace itop::cuda {

std::vector<std::string> layers_of(std::span<const Selection> selections) {
  std::vector<std::string> layers;
  for (const Selection& selection : selections) {
    for (const SelectionSegment& segment : selection.segments) layers.push_back(segment.layer);
  }
  return layers;
}

void refuse_not_finite(std::span<const std::string> layers, std::span<const std::uint32_t> not_finite) {
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (not_finite[i] == 0) continue;
    throw NonFiniteError(layers[i], "the scores of layer '" + layers[i] + "' hold NaN or infinity");
  }
}

DeviceVerdict::DeviceVerdict(int device_index, std::vector<std::string> layers, std::unique_ptr<WordBuffer> flags,
                             cudaStream_t stream)
    : device_index_(device_index), layers_(std::move(layers)), flags_(std::move(flags)), stream_(stream) {}

void DeviceVerdict::check() {
  if (is_known_) return;
  const DeviceGuard guard(device_index_);
  std::vector<std::uint32_t> not_finite(layers_.size() + 1);
  itop::cuda::check(cudaMemcpyAsync(not_finite.data(), flags(), not_finite.size() * sizeof(std::uint32_t),
                                    cudaMemcpyDeviceToHost, stream_),
                    "cudaMemcpyAsync");
  itop::cuda::check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  refuse_not_finite(layers_, not_finite);
  is_known_ = true;
}

}  // namespace itop::cuda
