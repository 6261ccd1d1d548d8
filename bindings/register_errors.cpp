#include "itop/error.hpp"
#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {

void register_errors(py::module_& module) {
  py::register_exception<BackendUnavailableError>(module, "BackendUnavailableError", PyExc_RuntimeError);
  py::register_exception<CudaError>(module, "CudaError", PyExc_RuntimeError);
  py::register_exception<NonFiniteError>(module, "NonFiniteError", PyExc_ValueError);
}

}  // namespace itop::bindings
