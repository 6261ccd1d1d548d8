#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>

#include <cstdint>
#include <memory>

#include "addresses.hpp"
#include "itop/device_sparse_linear.hpp"
#include "itop/sparse_convolution.hpp"
#include "itop/sparse_linear.hpp"
#include "itop/sparse_matrix.hpp"
#include "itop/sparse_scratch.hpp"
#include "itop/thread_pool.hpp"
#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {
namespace {

using NoGil = py::call_guard<py::gil_scoped_release>;

SparsePattern make_pattern(std::int64_t num_rows, std::int64_t num_columns, std::int64_t block_width,
                           Address block_starts, Address columns, Address permutation) {
  return {num_rows,
          num_columns,
          block_width,
          at<const std::uint32_t>(block_starts),
          at<const std::int32_t>(columns),
          at<const std::uint32_t>(permutation)};
}

/// Bytes for a result, from memory that earlier results have left: fresh pages would cost more than the product.
py::array_t<std::uint8_t> lend_bytes(std::size_t num_bytes) {
  auto lease = std::make_unique<ScratchLease>(num_bytes, 1);
  auto* const data = lease->as<std::uint8_t>();
  const py::capsule owner(lease.get(), [](void* held) { delete static_cast<ScratchLease*>(held); });
  static_cast<void>(lease.release());
  return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(num_bytes), data, owner);
}

void register_patterns(py::module_& module) {
  module.def("lend_bytes", &lend_bytes, py::arg("num_bytes"));
  py::native_enum<ValueType>(module, "ValueType", "enum.Enum")
      .value("FLOAT32", ValueType::kFloat32)
      .value("FLOAT64", ValueType::kFloat64)
      .value("BFLOAT16", ValueType::kBFloat16)
      .finalize();
  py::class_<SparsePattern>(module, "SparsePattern")
      .def(py::init(&make_pattern), py::arg("num_rows"), py::arg("num_columns"), py::arg("block_width"),
           py::arg("block_starts"), py::arg("columns"), py::arg("permutation") = 0)
      .def_property_readonly("num_entries", &SparsePattern::num_entries);
  module.def(
      "sparse_check_pattern",
      [](std::int64_t num_rows, std::int64_t num_columns, std::int64_t num_entries, Address row_pointers,
         Address columns) {
        check_pattern(num_rows, num_columns, num_entries, at<const std::int64_t>(row_pointers),
                      at<const std::int32_t>(columns), ThreadPool::global());
      },
      py::arg("num_rows"), py::arg("num_columns"), py::arg("num_entries"), py::arg("row_pointers"), py::arg("columns"),
      NoGil());
  module.def(
      "sparse_block_starts",
      [](std::int64_t num_rows, std::int64_t num_columns, Address row_pointers, Address columns,
         std::int64_t block_width, Address block_starts) {
        fill_block_starts(num_rows, num_columns, at<const std::int64_t>(row_pointers), at<const std::int32_t>(columns),
                          block_width, at<std::uint32_t>(block_starts), ThreadPool::global());
      },
      py::arg("num_rows"), py::arg("num_columns"), py::arg("row_pointers"), py::arg("columns"), py::arg("block_width"),
      py::arg("block_starts"), NoGil());
  module.def(
      "sparse_transpose",
      [](std::int64_t num_rows, std::int64_t num_columns, Address row_pointers, Address columns,
         Address column_pointers, Address rows, Address permutation) {
        transpose_pattern(num_rows, num_columns, at<const std::int64_t>(row_pointers), at<const std::int32_t>(columns),
                          at<std::int64_t>(column_pointers), at<std::int32_t>(rows), at<std::uint32_t>(permutation),
                          ThreadPool::global());
      },
      py::arg("num_rows"), py::arg("num_columns"), py::arg("row_pointers"), py::arg("columns"),
      py::arg("column_pointers"), py::arg("rows"), py::arg("permutation"), NoGil());
}

void register_linear(py::module_& module) {
  module.def(
      "sparse_linear_forward",
      [](const SparsePattern& pattern, Address values, ValueType value_type, Address x, ValueType type,
         std::int64_t batch, Address bias, Address y) {
        sparse_linear_forward(pattern, at<const void>(values), value_type, {at<const void>(x), type, batch},
                              at<const void>(bias), at<void>(y), ThreadPool::global());
      },
      py::arg("pattern"), py::arg("values"), py::arg("value_type"), py::arg("x"), py::arg("type"), py::arg("batch"),
      py::arg("bias"), py::arg("y"), NoGil());
  module.def(
      "sparse_linear_backward",
      [](const SparsePattern& pattern, const SparsePattern* transposed, Address values, ValueType value_type, Address x,
         Address output_gradient, ValueType type, std::int64_t batch, Address input_gradient, Address value_gradient,
         Address bias_gradient) {
        sparse_linear_backward(pattern, transposed, at<const void>(values), value_type,
                               {at<const void>(x), type, batch}, {at<const void>(output_gradient), type, batch},
                               {at<void>(input_gradient), at<void>(value_gradient), at<void>(bias_gradient)},
                               ThreadPool::global());
      },
      py::arg("pattern"), py::arg("transposed").none(true), py::arg("values"), py::arg("value_type"), py::arg("x"),
      py::arg("output_gradient"), py::arg("type"), py::arg("batch"), py::arg("input_gradient"),
      py::arg("value_gradient"), py::arg("bias_gradient"), NoGil());
}

void register_device_linear(py::module_& module) {
  py::class_<DeviceSparseRows>(module, "DeviceSparseRows")
      .def(py::init([](std::int64_t num_rows, std::int64_t num_entries, Address row_pointers, Address columns,
                       Address permutation) {
             return DeviceSparseRows{num_rows, num_entries, at<const std::int64_t>(row_pointers),
                                     at<const std::int32_t>(columns), at<const std::uint32_t>(permutation)};
           }),
           py::arg("num_rows"), py::arg("num_entries"), py::arg("row_pointers"), py::arg("columns"),
           py::arg("permutation") = 0);
  module.def(
      "device_sparse_multiply",
      [](int device_index, const DeviceSparseRows& rows, Address values, ValueType value_type, Address features,
         ValueType type, std::int64_t batch, Address bias, Address out, StreamHandle stream) {
        device_sparse_multiply(device_index, rows, at<const void>(values), value_type,
                               {at<const void>(features), type, batch}, at<const void>(bias), at<void>(out), stream);
      },
      py::arg("device_index"), py::arg("rows"), py::arg("values"), py::arg("value_type"), py::arg("features"),
      py::arg("type"), py::arg("batch"), py::arg("bias"), py::arg("out"), py::arg("stream"), NoGil());
  module.def(
      "device_sparse_gradient",
      [](int device_index, const DeviceSparseRows& rows, Address features, ValueType type, std::int64_t batch,
         Address output_gradient, Address gradient, ValueType value_type, StreamHandle stream) {
        device_sparse_gradient(device_index, rows, {at<const void>(features), type, batch},
                               at<const void>(output_gradient), at<void>(gradient), value_type, stream);
      },
      py::arg("device_index"), py::arg("rows"), py::arg("features"), py::arg("type"), py::arg("batch"),
      py::arg("output_gradient"), py::arg("gradient"), py::arg("value_type"), py::arg("stream"), NoGil());
}

ConvolutionShape make_shape(std::int64_t in_channels, std::int64_t out_channels, std::int64_t groups,
                            std::int64_t in_height, std::int64_t in_width, std::int64_t kernel_height,
                            std::int64_t kernel_width, std::int64_t stride_height, std::int64_t stride_width,
                            std::int64_t padding_height, std::int64_t padding_width, std::int64_t dilation_height,
                            std::int64_t dilation_width) {
  return {in_channels,   out_channels, groups,         in_height,     in_width,        kernel_height, kernel_width,
          stride_height, stride_width, padding_height, padding_width, dilation_height, dilation_width};
}

void register_convolution(py::module_& module) {
  py::native_enum<PlaneLayout>(module, "PlaneLayout", "enum.Enum")
      .value("POSITIONS", PlaneLayout::kPositions)
      .value("INTERLEAVED", PlaneLayout::kInterleaved)
      .finalize();
  py::class_<ConvolutionShape>(module, "ConvolutionShape")
      .def(py::init(&make_shape), py::arg("in_channels"), py::arg("out_channels"), py::arg("groups"),
           py::arg("in_height"), py::arg("in_width"), py::arg("kernel_height"), py::arg("kernel_width"),
           py::arg("stride_height"), py::arg("stride_width"), py::arg("padding_height"), py::arg("padding_width"),
           py::arg("dilation_height"), py::arg("dilation_width"))
      .def_property_readonly("out_height", &ConvolutionShape::out_height)
      .def_property_readonly("out_width", &ConvolutionShape::out_width)
      .def_property_readonly("num_columns", &ConvolutionShape::num_columns)
      .def_property_readonly("num_planes", &num_convolution_planes);
  py::class_<ConvolutionPattern>(module, "ConvolutionPattern")
      .def(py::init(
               [](const ConvolutionShape& shape, PlaneLayout layout, const SparsePattern& forward,
                  const SparsePattern& transposed) { return ConvolutionPattern{shape, layout, forward, transposed}; }),
           py::arg("shape"), py::arg("layout"), py::arg("forward"), py::arg("transposed"));
  module.def(
      "sparse_convolution_shifts",
      [](const ConvolutionShape& shape, PlaneLayout layout, Address row_pointers, Address columns, Address shifts) {
        fill_convolution_shifts(shape, layout, at<const std::int64_t>(row_pointers), at<const std::int32_t>(columns),
                                at<std::int32_t>(shifts));
      },
      py::arg("shape"), py::arg("layout"), py::arg("row_pointers"), py::arg("columns"), py::arg("shifts"), NoGil());
  module.def(
      "sparse_convolution_transpose",
      [](const ConvolutionShape& shape, PlaneLayout layout, Address row_pointers, Address columns,
         Address plane_pointers, Address out_channels, Address permutation, Address shifts) {
        transpose_convolution(shape, layout, at<const std::int64_t>(row_pointers), at<const std::int32_t>(columns),
                              at<std::int64_t>(plane_pointers), at<std::int32_t>(out_channels),
                              at<std::uint32_t>(permutation), at<std::int32_t>(shifts));
      },
      py::arg("shape"), py::arg("layout"), py::arg("row_pointers"), py::arg("columns"), py::arg("plane_pointers"),
      py::arg("out_channels"), py::arg("permutation"), py::arg("shifts"), NoGil());
  module.def(
      "sparse_convolution_forward",
      [](const ConvolutionPattern& pattern, Address values, ValueType value_type, Address x, ValueType type,
         std::int64_t batch, Address bias, Address y) {
        sparse_convolution_forward(pattern, at<const void>(values), value_type, at<const void>(x), type, batch,
                                   at<const void>(bias), at<void>(y), ThreadPool::global());
      },
      py::arg("pattern"), py::arg("values"), py::arg("value_type"), py::arg("x"), py::arg("type"), py::arg("batch"),
      py::arg("bias"), py::arg("y"), NoGil());
  module.def(
      "sparse_convolution_backward",
      [](const ConvolutionPattern& pattern, Address values, ValueType value_type, Address x, Address output_gradient,
         ValueType type, std::int64_t batch, Address input_gradient, Address value_gradient, Address bias_gradient) {
        sparse_convolution_backward(
            pattern, at<const void>(values), value_type, at<const void>(x), at<const void>(output_gradient), type,
            batch, {at<void>(input_gradient), at<void>(value_gradient), at<void>(bias_gradient)}, ThreadPool::global());
      },
      py::arg("pattern"), py::arg("values"), py::arg("value_type"), py::arg("x"), py::arg("output_gradient"),
      py::arg("type"), py::arg("batch"), py::arg("input_gradient"), py::arg("value_gradient"), py::arg("bias_gradient"),
      NoGil());
}

}  // namespace

void register_sparse_kernels(py::module_& module) {
  register_patterns(module);
  register_linear(module);
  register_device_linear(module);
  register_convolution(module);
}

}  // namespace itop::bindings
