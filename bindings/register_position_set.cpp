#include <pybind11/native_enum.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "addresses.hpp"
#include "itop/compressed_set.hpp"
#include "itop/position_set.hpp"
#include "itop/thread_pool.hpp"
#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {
namespace {

py::tuple to_python(Positions&& positions) {
  return py::make_tuple(to_numpy(std::move(positions.row_pointers)), to_numpy(std::move(positions.columns)));
}

template <class Make>
py::tuple without_gil(Make&& make) {
  Positions positions;
  {
    const py::gil_scoped_release no_gil;
    positions = make();
  }
  return to_python(std::move(positions));
}

}  // namespace

void register_position_set(py::module_& module) {
  py::native_enum<SetOperation>(module, "SetOperation", "enum.Enum")
      .value("UNION", SetOperation::kUnion)
      .value("INTERSECTION", SetOperation::kIntersection)
      .value("DIFFERENCE", SetOperation::kDifference)
      .finalize();
  module.def(
      "combine_positions",
      [](const PositionList& a, const PositionList& b, SetOperation operation) {
        return without_gil([&] { return combine(a, b, operation, ThreadPool::global()); });
      },
      py::arg("a"), py::arg("b"), py::arg("operation"));
  module.def(
      "filter_positions",
      [](const PositionList& all, Address is_member) {
        return without_gil([&] { return filter(all, at<const std::uint8_t>(is_member), ThreadPool::global()); });
      },
      py::arg("all"), py::arg("is_member"));
  module.def(
      "find_members",
      [](const PositionList& all, const PositionList& set, Address is_member) {
        find_members(all, set, at<std::uint8_t>(is_member), ThreadPool::global());
      },
      py::arg("all"), py::arg("set"), py::arg("is_member"), py::call_guard<py::gil_scoped_release>());
  module.def(
      "positions_of",
      [](std::int64_t num_rows, std::int64_t num_columns, Address indices, std::int64_t count) {
        return without_gil([&] {
          return positions_of(num_rows, num_columns, at<const std::int64_t>(indices), count, ThreadPool::global());
        });
      },
      py::arg("num_rows"), py::arg("num_columns"), py::arg("indices"), py::arg("count"));
  py::class_<CompressedSet>(module, "CompressedSet")
      .def(py::init<std::int64_t>(), py::arg("numel"))
      .def_property_readonly("count", &CompressedSet::count)
      .def_property_readonly("num_bytes", &CompressedSet::num_bytes)
      .def(
          "insert",
          [](CompressedSet& set, const PositionList& positions) { return set.insert(positions, ThreadPool::global()); },
          py::arg("positions"), py::call_guard<py::gil_scoped_release>())
      .def("contains_all", &CompressedSet::contains_all, py::arg("positions"), py::call_guard<py::gil_scoped_release>())
      .def(
          "to_positions",
          [](const CompressedSet& set, std::int64_t num_columns) {
            return without_gil([&] { return set.to_positions(num_columns, ThreadPool::global()); });
          },
          py::arg("num_columns"))
      .def("to_bytes", [](const CompressedSet& set) { return to_numpy(set.to_bytes()); })
      .def_static(
          "from_bytes",
          [](std::int64_t numel, Address bytes, std::size_t num_bytes) {
            return CompressedSet::from_bytes(numel, at<const std::uint8_t>(bytes), num_bytes);
          },
          py::arg("numel"), py::arg("bytes"), py::arg("num_bytes"), py::call_guard<py::gil_scoped_release>());
}

}  // namespace itop::bindings
