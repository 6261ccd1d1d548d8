#pragma once

#include <stdexcept>
#include <string>

namespace itop {

/// The backend a tensor needs is not there: not compiled, no driver, or no such device. The message says which.
class BackendUnavailableError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A CUDA call failed.
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Scores hold NaN or infinity: no order is defined, so nothing was selected or changed.
class NonFiniteError : public std::domain_error {
 public:
  NonFiniteError(std::string layer, const std::string& what_is_wrong)
      : std::domain_error(what_is_wrong), layer_(std::move(layer)) {}

  const std::string& layer() const noexcept { return layer_; }

 private:
  std::string layer_;
};

}  // namespace itop
