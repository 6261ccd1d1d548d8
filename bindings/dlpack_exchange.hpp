#pragma once

#include <pybind11/pybind11.h>

#include "itop/tensor_view.hpp"

namespace itop::bindings {

/// Borrows a tensor through torch's DLPack exchange functions: one call in C where attributes would be four in Python.
/// @return whether it did: not where torch is older than these functions, nor for subclasses of tensors or for types
/// and
///         devices the core does not know, which are for the caller to refuse
bool borrow_by_exchange(pybind11::handle tensor, TensorView& view);

}  // namespace itop::bindings
