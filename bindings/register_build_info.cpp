#include "itop/build_info.hpp"

#include <pybind11/stl.h>

#include "itop/thread_pool.hpp"
#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {

void register_build_info(py::module_& module) {
  module.def("build_info", [] {
    const BuildInfo info = build_info();
    py::dict result;
    result["version"] = info.version;
    result["compiler"] = info.compiler;
    result["instruction_set"] = info.instruction_set;
    result["cuda_compiled"] = info.cuda_compiled;
    result["cuda_version"] = info.cuda_version;
    result["cuda_architectures"] = info.cuda_architectures;
    result["num_cuda_devices"] = info.num_cuda_devices;
    result["cuda_status"] = info.cuda_status;
    result["num_threads"] = info.num_threads;
    return result;
  });
  module.def("num_threads", [] { return ThreadPool::global().num_threads(); });
  module.def("set_num_threads", &ThreadPool::set_global_num_threads, py::arg("num_threads"));
}

}  // namespace itop::bindings
