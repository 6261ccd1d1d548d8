#pragma once

#include <pybind11/pybind11.h>

namespace itop::bindings {

void register_errors(pybind11::module_& module);
void register_build_info(pybind11::module_& module);
void register_allocation(pybind11::module_& module);
void register_pattern_selection(pybind11::module_& module);
void register_position_set(pybind11::module_& module);
void register_random(pybind11::module_& module);
void register_mask_store(pybind11::module_& module);
void register_optimizer_step(pybind11::module_& module);
void register_sparse_growth(pybind11::module_& module);
void register_sparse_kernels(pybind11::module_& module);

}  // namespace itop::bindings
