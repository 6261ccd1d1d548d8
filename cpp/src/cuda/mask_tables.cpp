#include "cuda/mask_tables.hpp"

namespace itop::cuda {
namespace {

constexpr std::size_t kTensors = CommitEntry::kTensors;

CommitEntry entry_of(const LayerCommit& layer, std::span<const TensorView> tensors) {
  CommitEntry entry;
  entry.active = layer.active;
  entry.explored = layer.explored;
  entry.reliable = layer.reliable;
  entry.dropped = layer.dropped;
  entry.grown = layer.grown;
  entry.numel = layer.numel;
  for (const TensorView& tensor : tensors) {
    entry.data[entry.num_tensors] = tensor.data;
    entry.element_size[entry.num_tensors] = static_cast<std::uint8_t>(size_of(tensor.dtype));
    ++entry.num_tensors;
  }
  return entry;
}

}  // namespace

CommitPlan commit_plan(std::span<const LayerCommit> layers, std::uint64_t* counts) {
  CommitPlan plan;
  for (const LayerCommit& layer : layers) {
    std::span<const TensorView> tensors = layer.tensors;
    while (tensors.size() > kTensors) {
      plan.zero_first.push_back(entry_of(layer, tensors.first(kTensors)));
      tensors = tensors.subspan(kTensors);
    }
    CommitEntry entry = entry_of(layer, tensors);
    entry.counts = counts + plan.rows.size() * kCountPlaces * kCountFields;
    plan.rows.push_back(entry);
  }
  return plan;
}

std::vector<ApplyEntry> apply_rows(std::span<const LayerApply> layers) {
  std::vector<ApplyEntry> rows;
  for (const LayerApply& layer : layers) {
    for (const TensorView& tensor : layer.tensors) {
      rows.push_back({layer.active, tensor.data, layer.numel, static_cast<std::int32_t>(size_of(tensor.dtype))});
    }
  }
  return rows;
}

std::vector<LayerCounts> layer_counts(std::span<const std::uint64_t> counts) {
  std::vector<LayerCounts> layers(counts.size() / (kCountPlaces * kCountFields));
  const std::uint64_t* next = counts.data();
  for (LayerCounts& layer : layers) {
    for (int place = 0; place < kCountPlaces; ++place) {
      for (std::int64_t* field :
           {&layer.active, &layer.explored, &layer.reliable, &layer.dropped, &layer.grown, &layer.regrown}) {
        *field += static_cast<std::int64_t>(*next++);
      }
    }
  }
  return layers;
}

}  // namespace itop::cuda
