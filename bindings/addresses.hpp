#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace itop::bindings {

/// A tensor's `data_ptr()`.
using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);  // NOLINT(performance-no-int-to-ptr)
}

/// Hands a vector to NumPy without copying it.
template <class T>
pybind11::array_t<T> to_numpy(std::vector<T>&& values) {
  auto* const owned = new std::vector<T>(std::move(values));
  const pybind11::capsule owner(owned, [](void* vector) { delete static_cast<std::vector<T>*>(vector); });
  return pybind11::array_t<T>(static_cast<pybind11::ssize_t>(owned->size()), owned->data(), owner);
}

}  // namespace itop::bindings
