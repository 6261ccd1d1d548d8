#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "addresses.hpp"
#include "itop/sparse_growth.hpp"
#include "itop/thread_pool.hpp"
#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {
namespace {

DType floating_type(const std::string& name) {
  if (name == "float32") return DType::kFloat32;
  if (name == "float64") return DType::kFloat64;
  if (name == "bfloat16") return DType::kBFloat16;
  throw py::type_error("sparse layers compare float32, float64 or bfloat16, got " + name);
}

}  // namespace

void register_sparse_growth(py::module_& module) {
  py::class_<PositionList>(module, "PositionList")
      .def(py::init([](std::int64_t num_rows, std::int64_t num_columns, Address row_pointers, Address columns) {
             return PositionList{num_rows, num_columns, at<const std::int64_t>(row_pointers),
                                 at<const std::int32_t>(columns)};
           }),
           py::arg("num_rows"), py::arg("num_columns"), py::arg("row_pointers"), py::arg("columns"));
  py::class_<StreamedGrowth>(module, "StreamedGrowth")
      .def(py::init([](const PositionList& taken, std::int64_t k, std::uint64_t seed, std::uint32_t layer,
                       std::uint32_t update, std::uint32_t draw, double at_least) {
             return StreamedGrowth(taken, k, KeyStream{seed, layer, update, draw}, at_least);
           }),
           py::arg("taken"), py::arg("k"), py::arg("seed"), py::arg("layer"), py::arg("update"), py::arg("draw"),
           py::arg("at_least"))
      .def(
          "offer",
          [](StreamedGrowth& growth, std::int64_t first_row, std::int64_t num_rows, Address scores,
             const std::string& type) {
            const DType floating = floating_type(type);
            const py::gil_scoped_release no_gil;
            growth.offer(first_row, num_rows, at<const void>(scores), floating, ThreadPool::global());
          },
          py::arg("first_row"), py::arg("num_rows"), py::arg("scores"), py::arg("type"))
      .def(
          "offer_product",
          [](StreamedGrowth& growth, const std::vector<std::tuple<Address, Address, std::int64_t>>& passes,
             const std::string& type) {
            const DType floating = floating_type(type);
            std::vector<ProductFactor> factors;
            for (const auto& [x, gradient, depth] : passes) {
              factors.push_back({at<const void>(x), at<const void>(gradient), depth});
            }
            const py::gil_scoped_release no_gil;
            growth.offer_product(factors, floating, ThreadPool::global());
          },
          py::arg("passes"), py::arg("type"))
      .def("finish", [](StreamedGrowth& growth) {
        ScratchArray<std::int64_t> chosen;
        {
          const py::gil_scoped_release no_gil;
          chosen = growth.finish(ThreadPool::global());
        }
        return to_numpy(std::move(chosen));
      });
  module.def(
      "grow_uniformly",
      [](const PositionList& taken, std::int64_t k, std::uint64_t seed, std::uint32_t layer, std::uint32_t update,
         std::uint32_t draw, std::int64_t max_streamed) {
        ScratchArray<std::int64_t> chosen;
        {
          const py::gil_scoped_release no_gil;
          chosen = grow_uniformly(taken, k, KeyStream{seed, layer, update, draw}, max_streamed, ThreadPool::global());
        }
        return to_numpy(std::move(chosen));
      },
      py::arg("taken"), py::arg("k"), py::arg("seed"), py::arg("layer"), py::arg("update"), py::arg("draw"),
      py::arg("max_streamed"));
  module.def(
      "sparse_select_entries",
      [](const PositionList& pattern, Address values, const std::string& type, bool magnitude, bool largest,
         std::int64_t k, std::uint64_t seed, std::uint32_t layer, std::uint32_t update, std::uint32_t draw,
         Address is_chosen) {
        const EntryScores scores{at<const void>(values), floating_type(type),
                                 magnitude ? ScoreTransform::kMagnitude : ScoreTransform::kSigned,
                                 largest ? SelectionOrder::kLargest : SelectionOrder::kSmallest};
        const py::gil_scoped_release no_gil;
        select_entries(pattern, scores, k, KeyStream{seed, layer, update, draw}, at<std::uint8_t>(is_chosen),
                       ThreadPool::global());
      },
      py::arg("pattern"), py::arg("values"), py::arg("type"), py::arg("magnitude"), py::arg("largest"), py::arg("k"),
      py::arg("seed"), py::arg("layer"), py::arg("update"), py::arg("draw"), py::arg("is_chosen"));
  module.def(
      "sparse_carry_values",
      [](Address from, Address sources, std::int64_t count, std::size_t element_size, Address to) {
        carry_values(at<const void>(from), at<const std::int32_t>(sources), count, element_size, at<void>(to),
                     ThreadPool::global());
      },
      py::arg("source"), py::arg("sources"), py::arg("count"), py::arg("element_size"), py::arg("target"),
      py::call_guard<py::gil_scoped_release>());
  module.def(
      "sparse_update_pattern",
      [](const PositionList& pattern, Address keep, Address grown, std::int64_t num_grown, bool regrown_keeps_value) {
        UpdatedPattern updated;
        {
          const py::gil_scoped_release no_gil;
          updated = update_pattern(pattern, at<const std::uint8_t>(keep), at<const std::int64_t>(grown), num_grown,
                                   regrown_keeps_value, ThreadPool::global());
        }
        return py::make_tuple(to_numpy(std::move(updated.row_pointers)), to_numpy(std::move(updated.columns)),
                              to_numpy(std::move(updated.sources)), updated.num_regrown);
      },
      py::arg("pattern"), py::arg("keep"), py::arg("grown"), py::arg("num_grown"), py::arg("regrown_keeps_value"));
}

}  // namespace itop::bindings
