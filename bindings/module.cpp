#include "registers.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The native core of itop: bit sets, exact selection, topology updates.";
  itop::bindings::register_errors(module);
  itop::bindings::register_build_info(module);
  itop::bindings::register_allocation(module);
  itop::bindings::register_random(module);
  itop::bindings::register_mask_store(module);
  itop::bindings::register_pattern_selection(module);
  itop::bindings::register_optimizer_step(module);
  itop::bindings::register_sparse_growth(module);
  itop::bindings::register_position_set(module);
  itop::bindings::register_sparse_kernels(module);
}
