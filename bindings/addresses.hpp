#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <type_traits>
#include <utility>

namespace itop::bindings {

/// A tensor's `data_ptr()`. Truly sparse layers hand tensors over as addresses: their calls sit inside autograd, where
/// every one pays for the crossing. The Python side (itop.nn) checks types, shapes and contiguity once, and keeps the
/// tensors alive.
using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);  // NOLINT(performance-no-int-to-ptr)
}

/// Hands an array to NumPy without copying it.
template <class Array>
auto to_numpy(Array&& values) {
  using Owned = std::remove_cvref_t<Array>;
  using Value = std::remove_cvref_t<decltype(values[0])>;
  static_assert(std::is_rvalue_reference_v<Array&&>, "the array is handed over");
  auto* const owned = new Owned(std::move(values));
  const pybind11::capsule owner(owned, [](void* array) { delete static_cast<Owned*>(array); });
  return pybind11::array_t<Value>(static_cast<pybind11::ssize_t>(owned->size()), owned->data(), owner);
}

}  // namespace itop::bindings
