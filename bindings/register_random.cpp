#include "itop/random.hpp"

#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {

void register_random(py::module_& module) {
  module.def(
      "tie_key",
      [](std::uint64_t seed, std::uint32_t layer, std::uint32_t update, std::uint32_t draw, std::uint64_t index) {
        return tie_key(KeyStream{seed, layer, update, draw}, index);
      },
      py::arg("seed"), py::arg("layer"), py::arg("update"), py::arg("draw"), py::arg("index"));
}

}  // namespace itop::bindings
