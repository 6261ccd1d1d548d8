#include "borrowed_tensor.hpp"

#include <string>

#include "dlpack_exchange.hpp"

namespace itop::bindings {
namespace {

namespace py = pybind11;

/// Names and type objects of torch, looked up once. Leaked on purpose: the interpreter may be gone when statics die.
struct TorchNames {
  py::object float32, float64, bfloat16, float16, boolean, uint8;
  py::str data_ptr{"data_ptr"}, numel{"numel"}, dtype{"dtype"}, is_cpu{"is_cpu"}, is_cuda{"is_cuda"},
      get_device{"get_device"};

  TorchNames() {
    const py::module_ torch = py::module_::import("torch");
    float32 = torch.attr("float32");
    float64 = torch.attr("float64");
    bfloat16 = torch.attr("bfloat16");
    float16 = torch.attr("float16");
    boolean = torch.attr("bool");
    uint8 = torch.attr("uint8");
  }

  static const TorchNames& get() {
    static const TorchNames* names = new TorchNames();
    return *names;
  }
};

py::object call(py::handle object, const py::str& method) {
  PyObject* result = PyObject_CallMethodNoArgs(object.ptr(), method.ptr());
  if (result == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(result);
}

bool is_true(py::handle object, const py::str& attribute) { return object.attr(attribute).ptr() == Py_True; }

TensorView borrow_untyped(py::handle tensor) {
  const TorchNames& names = TorchNames::get();
  TensorView view;
  view.data = reinterpret_cast<void*>(PyLong_AsSize_t(call(tensor, names.data_ptr).ptr()));
  view.numel = PyLong_AsLongLong(call(tensor, names.numel).ptr());
  if (!is_true(tensor, names.is_cpu)) {
    if (!is_true(tensor, names.is_cuda)) {
      throw py::type_error("tensors must be on the CPU or a CUDA device, got one on " +
                           py::str(tensor.attr("device")).cast<std::string>());
    }
    view.device = {DeviceType::kCuda, static_cast<int>(PyLong_AsLong(call(tensor, names.get_device).ptr()))};
  }
  return view;
}

}  // namespace

TensorView borrow(py::handle tensor) {
  if (TensorView view; borrow_by_exchange(tensor, view)) return view;
  const TorchNames& names = TorchNames::get();
  TensorView view = borrow_untyped(tensor);
  const py::object dtype = tensor.attr(names.dtype);
  if (dtype.is(names.float32)) {
    view.dtype = DType::kFloat32;
  } else if (dtype.is(names.bfloat16)) {
    view.dtype = DType::kBFloat16;
  } else if (dtype.is(names.float16)) {
    view.dtype = DType::kFloat16;
  } else if (dtype.is(names.float64)) {
    view.dtype = DType::kFloat64;
  } else {
    throw py::type_error("tensors must be float32, float64, bfloat16 or float16, got " +
                         py::str(dtype).cast<std::string>());
  }
  return view;
}

TensorView borrow_bytes(py::handle tensor) {
  const TorchNames& names = TorchNames::get();
  const py::object dtype = tensor.attr(names.dtype);
  if (!dtype.is(names.boolean) && !dtype.is(names.uint8)) {
    throw py::type_error("a mask tensor must be bool, got " + py::str(dtype).cast<std::string>());
  }
  return borrow_untyped(tensor);
}

std::vector<std::vector<TensorView>> borrow_nested(py::handle tensors_of_layers) {
  std::vector<std::vector<TensorView>> views;
  for (const py::handle tensors : py::cast<py::sequence>(tensors_of_layers)) {
    auto& of_layer = views.emplace_back();
    for (const py::handle tensor : py::cast<py::sequence>(tensors)) of_layer.push_back(borrow(tensor));
  }
  return views;
}

std::vector<std::optional<TensorView>> borrow_optional(py::handle tensors) {
  std::vector<std::optional<TensorView>> views;
  for (const py::handle tensor : py::cast<py::sequence>(tensors)) {
    views.push_back(tensor.is_none() ? std::nullopt : std::optional(borrow(tensor)));
  }
  return views;
}

}  // namespace itop::bindings
