#include "dlpack_exchange.hpp"

#include <cstdint>

namespace itop::bindings {
namespace {

namespace py = pybind11;

// The parts of DLPack 1.x (dmlc.github.io/dlpack) that are read here: its binary interface, stable within a major
// version.
struct DLTensor {
  void* data;
  std::int32_t device_type;
  std::int32_t device_id;
  std::int32_t num_dims;
  std::uint8_t type_code;
  std::uint8_t type_bits;
  std::uint16_t type_lanes;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct ExchangeFunctions {
  std::uint32_t version_major;
  std::uint32_t version_minor;
  ExchangeFunctions* older;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*tensor_from_object)(void* object, DLTensor* tensor);  ///< borrowed; null where it is not offered
  void* current_stream;
};
constexpr std::uint32_t kMajorVersion = 1;
constexpr std::int32_t kCpu = 1;
constexpr std::int32_t kCuda = 2;
constexpr std::uint8_t kFloat = 2;
constexpr std::uint8_t kBFloat = 4;

/// Torch's own tensor types and its exchange functions, looked up once. Leaked on purpose: the interpreter may be gone
/// when statics die.
struct Torch {
  py::object tensor, parameter;
  const ExchangeFunctions* functions = nullptr;

  Torch() {
    const py::module_ torch = py::module_::import("torch");
    tensor = torch.attr("Tensor");
    parameter = torch.attr("nn").attr("Parameter");
    const py::object capsule = py::getattr(tensor, "__dlpack_c_exchange_api__", py::none());
    constexpr const char* name = "dlpack_exchange_api";
    if (PyCapsule_IsValid(capsule.ptr(), name) == 0) return;
    const auto* found = static_cast<const ExchangeFunctions*>(PyCapsule_GetPointer(capsule.ptr(), name));
    while (found != nullptr && found->version_major != kMajorVersion) found = found->older;
    if (found != nullptr && found->tensor_from_object != nullptr) functions = found;
  }

  static const Torch& get() {
    static const Torch* torch = new Torch();
    return *torch;
  }
};

bool read_type(const DLTensor& tensor, DType& dtype) {
  if (tensor.type_lanes != 1) return false;
  if (tensor.type_code == kBFloat && tensor.type_bits == 16) {
    dtype = DType::kBFloat16;
    return true;
  }
  if (tensor.type_code != kFloat) return false;
  switch (tensor.type_bits) {
    case 16:
      dtype = DType::kFloat16;
      return true;
    case 32:
      dtype = DType::kFloat32;
      return true;
    case 64:
      dtype = DType::kFloat64;
      return true;
    default:
      return false;
  }
}

}  // namespace

bool borrow_by_exchange(py::handle tensor, TensorView& view) {
  const Torch& torch = Torch::get();
  const py::handle type = py::type::handle_of(tensor);
  if (torch.functions == nullptr || !(type.is(torch.tensor) || type.is(torch.parameter))) return false;
  DLTensor found{};
  if (torch.functions->tensor_from_object(tensor.ptr(), &found) != 0) {
    PyErr_Clear();
    return false;
  }
  if (found.device_type != kCpu && found.device_type != kCuda) return false;
  if (!read_type(found, view.dtype)) return false;
  view.data = static_cast<char*>(found.data) + found.byte_offset;
  view.numel = 1;
  for (std::int32_t dim = 0; dim < found.num_dims; ++dim) view.numel *= found.shape[dim];
  view.device = found.device_type == kCpu ? Device{} : Device{DeviceType::kCuda, found.device_id};
  return true;
}

}  // namespace itop::bindings
