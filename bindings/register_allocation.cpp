#include "itop/allocation.hpp"

#include <pybind11/stl.h>

#include <vector>

#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {

void register_allocation(py::module_& module) {
  module.def(
      "allocate",
      [](const std::vector<std::int64_t>& numel, const std::vector<double>& relative_density, std::int64_t total) {
        return allocate(numel, relative_density, total);
      },
      py::arg("numel"), py::arg("relative_density"), py::arg("total"));
}

}  // namespace itop::bindings
