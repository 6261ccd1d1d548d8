#include "itop/build_info.hpp"

#include <dlfcn.h>
#include <pybind11/stl.h>

#include <string>

#include "itop/thread_pool.hpp"
#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {
namespace {

/// Runs the core's jobs on the OpenMP threads that a loaded library depends on; false where there are none.
bool share_threads_with(const std::string& library) {
  void* const handle = dlopen(library.c_str(), RTLD_LAZY | RTLD_NOLOAD);
  if (handle == nullptr) return false;
  // Searches the library's dependencies as well: several OpenMP runtimes may be loaded, this is the one it uses.
  const auto team = reinterpret_cast<ThreadPool::HostTeam>(dlsym(handle, "GOMP_parallel"));
  dlclose(handle);
  if (team != nullptr) ThreadPool::set_host_team(team);
  return team != nullptr;
}

}  // namespace

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
  module.def("share_threads_with", &share_threads_with, py::arg("library"));
}

}  // namespace itop::bindings
