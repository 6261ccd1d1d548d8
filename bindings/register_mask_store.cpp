#include "itop/mask_store.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>
#include <string>

#include "borrowed_tensor.hpp"
#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {
namespace {

/// Sums counts through a Python callable that takes an int64 array and changes it in place.
class PythonReduction final : public Reduction {
 public:
  explicit PythonReduction(py::object callable) : callable_(std::move(callable)) {}

  void sum(std::span<std::int64_t> counts) override {
    const py::gil_scoped_acquire acquire;
    py::array_t<std::int64_t> array(static_cast<py::ssize_t>(counts.size()));
    std::memcpy(array.mutable_data(), counts.data(), counts.size_bytes());
    callable_(array);
    std::memcpy(counts.data(), array.data(), counts.size_bytes());
  }
  bool is_local() const noexcept override { return false; }

 private:
  py::object callable_;
};

Device device_of(const std::string& type, int index) {
  if (type == "cpu") return {};
  if (type == "cuda") return {DeviceType::kCuda, index};
  throw std::invalid_argument("masks live on a cpu or cuda device, got " + type);
}

LayerLayout layout_of(const std::string& name, std::int64_t offset, const std::vector<std::int64_t>& sizes,
                      const std::vector<std::int64_t>& strides) {
  if (sizes.size() != IndexMap::kDims || strides.size() != IndexMap::kDims) {
    throw std::invalid_argument("an index map has four sizes and four strides");
  }
  LayerLayout layout;
  layout.name = name;
  layout.index_map.offset = offset;
  std::copy(sizes.begin(), sizes.end(), layout.index_map.sizes.begin());
  std::copy(strides.begin(), strides.end(), layout.index_map.strides.begin());
  layout.numel = layout.index_map.numel();
  return layout;
}

py::array_t<std::uint64_t> words_to_array(const std::vector<Word>& words) {
  py::array_t<std::uint64_t> array(static_cast<py::ssize_t>(words.size()));
  std::memcpy(array.mutable_data(), words.data(), words.size() * sizeof(Word));
  return array;
}

void check_bytes(const TensorView& bytes, const BitSets& sets, std::size_t layer) {
  const LayerLayout& layout = sets.layout()->layers().at(layer);
  if (bytes.numel != layout.numel || bytes.device != sets.layout()->device()) {
    throw std::invalid_argument("a mask of layer '" + layout.name + "' must have " + std::to_string(layout.numel) +
                                " values on " + to_string(sets.layout()->device()) + ", got " +
                                std::to_string(bytes.numel) + " on " + to_string(bytes.device));
  }
}

py::array_t<std::int64_t> counts_to_array(const std::vector<LayerCounts>& counts) {
  constexpr py::ssize_t fields = 6;
  py::array_t<std::int64_t> array({static_cast<py::ssize_t>(counts.size()), fields});
  auto view = array.mutable_unchecked<2>();
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const std::int64_t row[fields] = {counts[i].active,  counts[i].explored, counts[i].reliable,
                                      counts[i].dropped, counts[i].grown,    counts[i].regrown};
    for (py::ssize_t field = 0; field < fields; ++field) view(static_cast<py::ssize_t>(i), field) = row[field];
  }
  return array;
}

void register_bit_sets(py::module_& module) {
  using Release = py::call_guard<py::gil_scoped_release>;
  const auto combine = [](BitOperation operation) {
    return [operation](const BitSets& self, const BitSets& other, StreamHandle stream) {
      return self.combined(operation, other, stream);
    };
  };
  py::class_<BitSets>(module, "BitSets")
      .def("intersection", combine(BitOperation::kAnd), py::arg("other"), py::arg("stream"), Release())
      .def("complement", &BitSets::complement, py::arg("stream"), Release())
      .def("union", combine(BitOperation::kOr), py::arg("other"), py::arg("stream"), Release())
      .def("difference", combine(BitOperation::kAndNot), py::arg("other"), py::arg("stream"), Release())
      .def("symmetric_difference", combine(BitOperation::kXor), py::arg("other"), py::arg("stream"), Release())
      .def("copy", &BitSets::copy, py::arg("stream"), Release())
      .def("count", &BitSets::count, py::arg("stream"), Release())
      .def("num_bytes", &BitSets::num_bytes)
      .def(
          "words",
          [](const BitSets& self, std::size_t layer, StreamHandle stream) {
            return words_to_array(self.layer_to_host(layer, stream));
          },
          py::arg("layer"), py::arg("stream"))
      .def(
          "set_words",
          [](BitSets& self, std::size_t layer, const py::array_t<std::uint64_t, py::array::c_style>& words,
             StreamHandle stream) {
            self.layer_from_host(layer, {words.data(), static_cast<std::size_t>(words.size())}, stream);
          },
          py::arg("layer"), py::arg("words"), py::arg("stream"))
      .def(
          "unpack",
          [](const BitSets& self, std::size_t layer, py::handle target, StreamHandle stream) {
            const TensorView bytes = borrow_bytes(target);
            check_bytes(bytes, self, layer);
            const py::gil_scoped_release release;
            self.unpack(layer, static_cast<std::uint8_t*>(bytes.data), stream);
          },
          py::arg("layer"), py::arg("target"), py::arg("stream"))
      .def(
          "pack",
          [](BitSets& self, std::size_t layer, py::handle source, StreamHandle stream) {
            const TensorView bytes = borrow_bytes(source);
            check_bytes(bytes, self, layer);
            const py::gil_scoped_release release;
            self.layout()->backend().pack(static_cast<const std::uint8_t*>(bytes.data), self.words(layer), bytes.numel,
                                          stream);
          },
          py::arg("layer"), py::arg("source"), py::arg("stream"));
}

}  // namespace

void register_mask_store(py::module_& module) {
  register_bit_sets(module);
  py::class_<MaskStore>(module, "MaskStore")
      .def(py::init([](const std::vector<std::tuple<std::string, std::int64_t, std::vector<std::int64_t>,
                                                    std::vector<std::int64_t>>>& layers,
                       const std::string& device_type, int device_index, std::uint64_t seed, StreamHandle stream) {
             std::vector<LayerLayout> layouts;
             for (const auto& [name, offset, sizes, strides] : layers)
               layouts.push_back(layout_of(name, offset, sizes, strides));
             return std::make_unique<MaskStore>(std::move(layouts), device_of(device_type, device_index), seed, stream);
           }),
           py::arg("layers"), py::arg("device_type"), py::arg("device_index"), py::arg("seed"), py::arg("stream"))
      .def_property_readonly("seed", &MaskStore::seed)
      .def_property_readonly("active", &MaskStore::active, py::return_value_policy::reference_internal)
      .def_property_readonly("explored", &MaskStore::explored, py::return_value_policy::reference_internal)
      .def_property_readonly("reliable", &MaskStore::reliable, py::return_value_policy::reference_internal)
      .def("num_bytes", &MaskStore::num_bytes)
      .def("empty", &MaskStore::empty, py::arg("stream"))
      .def("full", &MaskStore::full, py::arg("stream"))
      .def(
          "select",
          [](const MaskStore& self, const BitSets& candidates, py::handle scores, bool magnitude, bool largest,
             std::vector<std::int64_t> k, bool across_layers, std::uint32_t update, std::uint32_t draw,
             py::object reduction, StreamHandle stream) {
            SelectRequest request;
            request.scores = borrow_optional(scores);
            request.transform = magnitude ? ScoreTransform::kMagnitude : ScoreTransform::kSigned;
            request.order = largest ? SelectionOrder::kLargest : SelectionOrder::kSmallest;
            request.k = std::move(k);
            request.across_layers = across_layers;
            request.update = update;
            request.draw = draw;
            if (reduction.is_none()) {
              const py::gil_scoped_release release;
              LocalReduction local;
              return self.select(candidates, request, local, stream);
            }
            PythonReduction merged(std::move(reduction));
            const py::gil_scoped_release release;
            return self.select(candidates, request, merged, stream);
          },
          py::arg("candidates"), py::arg("scores"), py::kw_only(), py::arg("magnitude"), py::arg("largest"),
          py::arg("k"), py::arg("across_layers"), py::arg("update"), py::arg("draw"), py::arg("reduction"),
          py::arg("stream"))
      .def(
          "commit",
          [](MaskStore& self, const BitSets& dropped, const BitSets& grown, py::handle tensors, bool zero_all_inactive,
             bool regrown_keeps_value, bool marks_reliable, StreamHandle stream) {
            const auto views = borrow_nested(tensors);
            std::vector<LayerCounts> counts;
            {
              const py::gil_scoped_release release;
              counts =
                  self.commit(dropped, grown, views, {zero_all_inactive, regrown_keeps_value, marks_reliable}, stream);
            }
            return counts_to_array(counts);
          },
          py::arg("dropped"), py::arg("grown"), py::arg("tensors"), py::kw_only(), py::arg("zero_all_inactive"),
          py::arg("regrown_keeps_value"), py::arg("marks_reliable"), py::arg("stream"))
      .def(
          "apply",
          [](const MaskStore& self, py::handle tensors, StreamHandle stream) {
            const auto views = borrow_nested(tensors);
            const py::gil_scoped_release release;
            self.apply(views, stream);
          },
          py::arg("tensors"), py::arg("stream"));
}

}  // namespace itop::bindings
