#include "itop/patterns.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "borrowed_tensor.hpp"
#include "itop/error.hpp"
#include "itop/mask_store.hpp"
#include "registers.hpp"

namespace py = pybind11;

namespace itop::bindings {
namespace {

using Targets = py::array_t<std::int32_t, py::array::c_style>;

const LayerLayout& layout_of(const BitSets& sets, std::size_t layer) {
  if (sets.layout()->device() != Device{}) throw std::invalid_argument("patterns are native on the CPU only");
  return sets.layout()->layers().at(layer);
}

float* host_floats(py::handle tensor, std::int64_t numel) {
  const TensorView view = borrow(tensor);
  if (view.dtype != DType::kFloat32 || view.device != Device{} || view.numel != numel) {
    throw std::invalid_argument("patterns take float32 values on the CPU, one a weight");
  }
  return static_cast<float*>(view.data);
}

ScoreTransform transform_of(bool magnitude) { return magnitude ? ScoreTransform::kMagnitude : ScoreTransform::kSigned; }

BlockGrid grid_of(std::pair<std::int64_t, std::int64_t> shape, std::pair<std::int64_t, std::int64_t> block) {
  if (shape.first < 0 || shape.second < 1 || block.first < 1 || block.second < 1) {
    throw std::invalid_argument("blocks and the matrix they cut have at least one row and column");
  }
  return {shape.first, shape.second, block.first, block.second};
}

void check_bits(const BitSets& sets, std::size_t layer, std::int64_t numel) {
  if (layout_of(sets, layer).numel != numel) {
    throw std::invalid_argument("a set of layer '" + layout_of(sets, layer).name + "' does not fit the blocks");
  }
}

BitSets select_groups(const BitSets& candidates, py::handle scores, bool magnitude, bool largest,
                      const std::vector<std::int64_t>& num_rows, const std::vector<std::int64_t>& sizes,
                      const std::vector<Targets>& targets, const BitSets* present) {
  const std::size_t num_layers = candidates.layout()->num_layers();
  const auto tensors = py::cast<std::vector<py::object>>(scores);
  if (tensors.size() != num_layers || num_rows.size() != num_layers || sizes.size() != num_layers ||
      targets.size() != num_layers) {
    throw std::invalid_argument("groups need scores, rows, a size and targets for each layer");
  }
  BitSets chosen(candidates.layout(), Contents::kZero, 0);
  std::vector<GroupSelection> selections(num_layers);
  for (std::size_t i = 0; i < num_layers; ++i) {
    const LayerLayout& layer = layout_of(candidates, i);
    GroupSelection& selection = selections[i];
    selection.num_rows = num_rows[i];
    selection.num_columns = layer.numel / std::max<std::int64_t>(1, num_rows[i]);
    selection.group_size = sizes[i];
    if (sizes[i] < 1 || selection.num_rows * selection.num_columns != layer.numel ||
        targets[i].size() != selection.num_rows * selection.num_groups()) {
      throw std::invalid_argument("the groups of layer '" + layer.name + "' do not fit its weights");
    }
    selection.scores = host_floats(tensors[i], layer.numel);
    selection.candidates = candidates.words(i);
    selection.present = present == nullptr ? nullptr : present->words(i);
    selection.targets = targets[i].data();
    selection.chosen = chosen.words(i);
  }
  std::size_t bad = 0;
  {
    const py::gil_scoped_release release;
    bad = select_in_groups(selections, transform_of(magnitude),
                           largest ? SelectionOrder::kLargest : SelectionOrder::kSmallest, ThreadPool::global());
  }
  if (bad < num_layers) {
    const std::string& name = candidates.layout()->layers()[bad].name;
    throw NonFiniteError(name, "scores of layer '" + name + "' hold NaN or infinity");
  }
  return chosen;
}

}  // namespace

void register_pattern_selection(py::module_& module) {
  module.def("select_in_groups", &select_groups, py::arg("candidates"), py::arg("scores"), py::kw_only(),
             py::arg("magnitude"), py::arg("largest"), py::arg("num_rows"), py::arg("sizes"), py::arg("targets"),
             py::arg("present").none(true));
  module.def(
      "count_in_rows",
      [](const BitSets& set, std::size_t layer, std::int64_t num_rows) {
        const std::int64_t numel = layout_of(set, layer).numel;
        if (num_rows < 1 || numel % num_rows != 0) throw std::invalid_argument("the rows do not divide the layer");
        py::array_t<std::int64_t> counts(static_cast<py::ssize_t>(num_rows));
        std::int64_t* const target = counts.mutable_data();
        const py::gil_scoped_release release;
        count_in_rows(set.words(layer), num_rows, numel / num_rows, target, ThreadPool::global());
        return counts;
      },
      py::arg("set"), py::arg("layer"), py::arg("num_rows"));
  module.def(
      "block_sums",
      [](py::handle values, std::pair<std::int64_t, std::int64_t> shape, std::pair<std::int64_t, std::int64_t> block,
         bool magnitude, py::handle sums) {
        const BlockGrid grid = grid_of(shape, block);
        const float* source = host_floats(values, grid.num_rows * grid.num_columns);
        float* target = host_floats(sums, grid.num_blocks());
        const py::gil_scoped_release release;
        block_sums(grid, source, transform_of(magnitude), target, ThreadPool::global());
      },
      py::arg("values"), py::arg("shape"), py::arg("block"), py::kw_only(), py::arg("magnitude"), py::arg("sums"));
  module.def(
      "blocks_with_any",
      [](const BitSets& weights, BitSets& blocks, std::size_t layer, std::pair<std::int64_t, std::int64_t> shape,
         std::pair<std::int64_t, std::int64_t> block) {
        const BlockGrid grid = grid_of(shape, block);
        check_bits(weights, layer, grid.num_rows * grid.num_columns);
        check_bits(blocks, layer, grid.num_blocks());
        const py::gil_scoped_release release;
        blocks_with_any(grid, weights.words(layer), blocks.words(layer), ThreadPool::global());
      },
      py::arg("weights"), py::arg("blocks"), py::arg("layer"), py::arg("shape"), py::arg("block"));
  module.def(
      "weights_of_blocks",
      [](const BitSets& blocks, BitSets& weights, std::size_t layer, std::pair<std::int64_t, std::int64_t> shape,
         std::pair<std::int64_t, std::int64_t> block) {
        const BlockGrid grid = grid_of(shape, block);
        check_bits(weights, layer, grid.num_rows * grid.num_columns);
        check_bits(blocks, layer, grid.num_blocks());
        const py::gil_scoped_release release;
        weights_of_blocks(grid, blocks.words(layer), weights.words(layer), ThreadPool::global());
      },
      py::arg("blocks"), py::arg("weights"), py::arg("layer"), py::arg("shape"), py::arg("block"));
  module.def(
      "compare_with",
      [](py::handle values, BitSets& bits, std::size_t layer, bool magnitude, bool greater, float limit) {
        const std::int64_t numel = layout_of(bits, layer).numel;
        const float* source = host_floats(values, numel);
        const py::gil_scoped_release release;
        compare_with(source, numel, transform_of(magnitude), greater, limit, bits.words(layer), ThreadPool::global());
      },
      py::arg("values"), py::arg("bits"), py::arg("layer"), py::kw_only(), py::arg("magnitude"), py::arg("greater"),
      py::arg("limit"));
  module.def(
      "sum_magnitudes",
      [](const BitSets& set, std::size_t layer, py::handle values) {
        const std::int64_t numel = layout_of(set, layer).numel;
        const float* source = host_floats(values, numel);
        py::array_t<std::int64_t> sums(static_cast<py::ssize_t>(kNumExponents));
        std::int64_t* const target = sums.mutable_data();
        const py::gil_scoped_release release;
        sum_magnitudes(set.words(layer), source, numel, target, ThreadPool::global());
        return sums;
      },
      py::arg("set"), py::arg("layer"), py::arg("values"));
  module.def(
      "smallest_magnitude",
      [](const BitSets& set, std::size_t layer, py::handle values) {
        const std::int64_t numel = layout_of(set, layer).numel;
        const float* source = host_floats(values, numel);
        const py::gil_scoped_release release;
        return smallest_magnitude(set.words(layer), source, numel, ThreadPool::global());
      },
      py::arg("set"), py::arg("layer"), py::arg("values"));
  module.def(
      "exploration_scores",
      [](const BitSets& active, std::size_t layer, py::handle gradients, float bonus, float epsilon,
         py::array_t<std::int16_t, py::array::c_style>& counts, py::handle scores) {
        const std::int64_t numel = layout_of(active, layer).numel;
        const float* source = host_floats(gradients, numel);
        if (counts.size() != numel) throw std::invalid_argument("exploration needs a count for each weight");
        std::int16_t* const updates = counts.mutable_data();
        float* const target = host_floats(scores, numel);
        const py::gil_scoped_release release;
        exploration_scores(active.words(layer), source, numel, bonus, epsilon, updates, target, ThreadPool::global());
      },
      py::arg("active"), py::arg("layer"), py::arg("gradients"), py::kw_only(), py::arg("bonus"), py::arg("epsilon"),
      py::arg("counts"), py::arg("scores"));
}

}  // namespace itop::bindings
