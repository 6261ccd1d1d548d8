#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <vector>

#include "itop/tensor_view.hpp"

namespace itop::bindings {

/// Borrows a torch tensor for the current call, without copying or keeping a reference. This is the only code that sees
/// both torch's world and the core's; torch is looked up when first needed, and is no dependency of the build.
///
/// The tensor must have no gaps (its strides are a permutation of a contiguous tensor's); the engine sees to that once.
/// @throws py::type_error if the object is no floating-point torch tensor of a supported type
TensorView borrow(pybind11::handle tensor);

/// A bool or uint8 tensor, as bytes.
TensorView borrow_bytes(pybind11::handle tensor);

std::vector<std::vector<TensorView>> borrow_nested(pybind11::handle tensors_of_layers);
std::vector<std::optional<TensorView>> borrow_optional(pybind11::handle tensors);

}  // namespace itop::bindings
