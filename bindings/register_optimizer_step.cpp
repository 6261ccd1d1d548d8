#include "itop/optimizer_step.hpp"

#include <pybind11/stl.h>

#include <stdexcept>

#include "borrowed_tensor.hpp"
#include "itop/mask_store.hpp"
#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {
namespace {

float* float_data(py::handle tensor, std::int64_t numel) {
  if (tensor.is_none()) return nullptr;
  const TensorView view = borrow(tensor);
  if (view.dtype != DType::kFloat32 || view.device.type != DeviceType::kCpu || view.numel != numel) {
    throw std::invalid_argument("a fused step takes float32 tensors of one size on the CPU");
  }
  return static_cast<float*>(view.data);
}

/// Rows are (layer or -1, weight, gradient, first moment or None, second moment or None, is first step, step).
std::vector<StepTensor> step_tensors(MaskStore* store, py::handle rows) {
  std::vector<StepTensor> tensors;
  for (const py::handle row : py::cast<py::sequence>(rows)) {
    const auto fields = py::cast<py::tuple>(row);
    StepTensor tensor;
    const auto layer = fields[0].cast<std::int64_t>();
    tensor.numel = borrow(fields[1]).numel;
    tensor.weight = float_data(fields[1], tensor.numel);
    tensor.gradient = float_data(fields[2], tensor.numel);
    tensor.first_moment = float_data(fields[3], tensor.numel);
    tensor.second_moment = float_data(fields[4], tensor.numel);
    tensor.is_first_step = fields[5].cast<bool>();
    tensor.step = fields[6].cast<double>();
    if (layer >= 0) {
      const auto index = static_cast<std::size_t>(layer);
      if (store == nullptr || store->layout()->layers().at(index).numel != tensor.numel ||
          store->layout()->device() != Device{}) {
        throw std::invalid_argument("a tensor of a fused step does not fit its layer's masks");
      }
      tensor.active = store->active().words(index);
    }
    tensors.push_back(tensor);
  }
  return tensors;
}

}  // namespace

void register_optimizer_step(py::module_& module) {
  module.def(
      "sgd_step",
      [](MaskStore* store, py::handle rows, double learning_rate, double momentum, double dampening,
         double weight_decay, bool nesterov, bool maximize) {
        const auto tensors = step_tensors(store, rows);
        const py::gil_scoped_release release;
        sgd_step(tensors, {learning_rate, momentum, dampening, weight_decay, nesterov, maximize}, ThreadPool::global());
      },
      py::arg("store").none(true), py::arg("rows"), py::kw_only(), py::arg("learning_rate"), py::arg("momentum"),
      py::arg("dampening"), py::arg("weight_decay"), py::arg("nesterov"), py::arg("maximize"));
  module.def(
      "adam_step",
      [](MaskStore* store, py::handle rows, double learning_rate, double beta1, double beta2, double epsilon,
         double weight_decay, bool decoupled_weight_decay, bool maximize) {
        const auto tensors = step_tensors(store, rows);
        const py::gil_scoped_release release;
        adam_step(tensors, {learning_rate, beta1, beta2, epsilon, weight_decay, decoupled_weight_decay, maximize},
                  ThreadPool::global());
      },
      py::arg("store").none(true), py::arg("rows"), py::kw_only(), py::arg("learning_rate"), py::arg("beta1"),
      py::arg("beta2"), py::arg("epsilon"), py::arg("weight_decay"), py::arg("decoupled_weight_decay"),
      py::arg("maximize"));
}

}  // namespace itop::bindings
