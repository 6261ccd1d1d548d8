#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "itop/backend.hpp"
#include "itop/random.hpp"
#include "support/devices.hpp"
#include "support/values.hpp"

namespace itop::testing {

/// One layer of a selection, in host memory.
struct LayerCase {
  std::string name = "layer";
  DType dtype = DType::kFloat32;
  std::vector<std::byte> scores;  ///< empty: the layer is selected at random
  std::vector<bool> candidates;   ///< [numel], in storage order
  IndexMap index_map;
  KeyStream stream;

  std::int64_t numel() const { return static_cast<std::int64_t>(candidates.size()); }

  /// A layer in plain storage order whose every weight is a candidate.
  static LayerCase of(DType dtype, const std::vector<double>& values, std::uint32_t layer = 0) {
    LayerCase result = random(static_cast<std::int64_t>(values.size()), layer);
    result.dtype = dtype;
    result.scores = encode(dtype, values);
    return result;
  }

  static LayerCase random(std::int64_t numel, std::uint32_t layer = 0) {
    LayerCase result;
    result.name = "layer" + std::to_string(layer);
    result.candidates.assign(static_cast<std::size_t>(numel), true);
    result.index_map = IndexMap::contiguous(numel);
    result.stream = {0x0123456789ABCDEFULL, layer, 5, 2};
    return result;
  }
};

struct SelectionCase {
  std::vector<LayerCase> layers;
  std::int64_t k = 0;
  ScoreTransform transform = ScoreTransform::kMagnitude;
  SelectionOrder order = SelectionOrder::kLargest;
};

/// Chosen weights of each layer of a selection, in storage order.
using Chosen = std::vector<std::vector<bool>>;

/// What the contract of Backend::select asks for, by sorting everything.
inline Chosen sorted_reference(const SelectionCase& selection) {
  using Rank = std::tuple<double, std::uint64_t, std::size_t, std::int64_t>;  // smaller is better
  std::vector<std::pair<Rank, std::pair<std::size_t, std::size_t>>> ranked;
  Chosen chosen;
  for (std::size_t l = 0; l < selection.layers.size(); ++l) {
    const LayerCase& layer = selection.layers[l];
    chosen.emplace_back(layer.candidates.size(), false);
    const std::vector<double> scores =
        layer.scores.empty() ? std::vector<double>(layer.candidates.size()) : decode(layer.dtype, layer.scores);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (!layer.candidates[i]) continue;
      const double score = selection.transform == ScoreTransform::kMagnitude ? std::fabs(scores[i]) : scores[i];
      const std::int64_t index = layer.index_map(static_cast<std::int64_t>(i));
      ranked.push_back({{selection.order == SelectionOrder::kSmallest ? score : -score,
                         tie_key(layer.stream, static_cast<std::uint64_t>(index)), l, index},
                        {l, i}});
    }
  }
  std::sort(ranked.begin(), ranked.end());
  const auto k = std::min(static_cast<std::size_t>(std::max<std::int64_t>(selection.k, 0)), ranked.size());
  for (std::size_t r = 0; r < k; ++r) chosen[ranked[r].second.first][ranked[r].second.second] = true;
  return chosen;
}

/// Runs the selections in one call of the device's backend. Chosen bits start as garbage: they must be written whole.
inline std::vector<Chosen> select_on(const Device& device, const std::vector<SelectionCase>& cases,
                                     Reduction& reduction) {
  struct Buffers {
    DeviceBytes scores, candidates, chosen;
  };
  std::vector<std::vector<Buffers>> buffers;
  std::vector<Selection> selections;
  for (const SelectionCase& one : cases) {
    Selection& selection = selections.emplace_back();
    selection.k = one.k;
    selection.order = one.order;
    auto& of_layers = buffers.emplace_back();
    for (const LayerCase& layer : one.layers) {
      const std::vector<Word> candidates = pack_bits(layer.candidates);
      std::vector<Word> garbage(candidates.size() + 1, 0xDEADBEEFDEADBEEFULL);
      of_layers.push_back(
          {DeviceBytes(device, layer.scores), DeviceBytes::of(device, candidates), DeviceBytes::of(device, garbage)});
      SelectionSegment segment;
      segment.layer = layer.name;
      if (!layer.scores.empty()) segment.scores = {of_layers.back().scores.data(), layer.numel(), layer.dtype, device};
      segment.transform = one.transform;
      segment.candidates = of_layers.back().candidates.words();
      segment.chosen = of_layers.back().chosen.words();
      segment.numel = layer.numel();
      segment.index_map = layer.index_map;
      segment.stream = layer.stream;
      selection.segments.push_back(std::move(segment));
    }
  }
  if (const auto verdict = backend_for(device).select(selections, reduction, 0)) verdict->check();
  std::vector<Chosen> result;
  for (std::size_t c = 0; c < cases.size(); ++c) {
    Chosen& chosen = result.emplace_back();
    for (std::size_t l = 0; l < cases[c].layers.size(); ++l) {
      const std::vector<Word> words = buffers[c][l].chosen.read<Word>();
      const std::int64_t numel = cases[c].layers[l].numel();
      const auto num_words = static_cast<std::size_t>(words_for(numel));
      EXPECT_EQ(words[num_words], 0xDEADBEEFDEADBEEFULL) << "a word past the layer was written";
      if (num_words > 0) {
        EXPECT_EQ(words[num_words - 1] & ~valid_bits(words_for(numel) - 1, numel), Word{0})
            << "a bit past the layer is set";
      }
      chosen.push_back(unpack_bits(words, static_cast<std::size_t>(numel)));
    }
  }
  return result;
}

inline Chosen select_on(const Device& device, const SelectionCase& one) {
  LocalReduction local;
  return select_on(device, std::vector{one}, local).front();
}

inline std::int64_t num_chosen(const Chosen& chosen) {
  std::int64_t count = 0;
  for (const auto& layer : chosen) count += std::count(layer.begin(), layer.end(), true);
  return count;
}

/// Whether two selections agree; the message says where they part.
inline ::testing::AssertionResult same(const Chosen& actual, const Chosen& expected) {
  if (actual.size() != expected.size()) return ::testing::AssertionFailure() << "different numbers of layers";
  for (std::size_t l = 0; l < actual.size(); ++l) {
    if (actual[l].size() != expected[l].size())
      return ::testing::AssertionFailure() << "layer " << l << ": different sizes";
    for (std::size_t i = 0; i < actual[l].size(); ++i) {
      if (actual[l][i] == expected[l][i]) continue;
      return ::testing::AssertionFailure()
             << "layer " << l << ", weight " << i << (actual[l][i] ? " is" : " is not") << " chosen; "
             << num_chosen(actual) << " chosen, " << num_chosen(expected) << " expected";
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace itop::testing
