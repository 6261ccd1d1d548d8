#include "itop/mask_store.hpp"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <utility>

namespace itop {
namespace {

void require_same_layout(const BitSets& a, const std::shared_ptr<const StoreLayout>& layout) {
  if (a.layout() != layout) throw std::invalid_argument("bit sets of different mask stores do not go together");
}

}  // namespace

StoreLayout::StoreLayout(std::vector<LayerLayout> layers, Device device) : layers_(std::move(layers)), device_(device) {
  std::set<std::string> names;
  word_offsets_.push_back(0);
  for (LayerLayout& layer : layers_) {
    if (!names.insert(layer.name).second) throw std::invalid_argument("two layers are called '" + layer.name + "'");
    if (layer.numel < 0 || layer.index_map.numel() != layer.numel) {
      throw std::invalid_argument("the index map of layer '" + layer.name + "' covers " +
                                  std::to_string(layer.index_map.numel()) + " weights, the layer has " +
                                  std::to_string(layer.numel));
    }
    layer.word_offset = word_offsets_.back();
    word_offsets_.push_back(layer.word_offset + words_for(layer.numel));
  }
}

BitSets::BitSets(std::shared_ptr<const StoreLayout> layout, Contents contents, StreamHandle stream)
    : layout_(std::move(layout)), buffer_(layout_->backend().allocate(layout_->num_words(), contents, stream)) {}

BitSets BitSets::combined(BitOperation operation, const BitSets& other, StreamHandle stream) const {
  require_same_layout(other, layout_);
  BitSets result(layout_, Contents::kUnspecified, stream);
  result.await(verdicts_);
  result.await(other.verdicts_);
  layout_->backend().combine(operation, data(), other.data(), result.buffer_->data(), layout_->num_words(), stream);
  return result;
}

BitSets BitSets::copy(StreamHandle stream) const { return combined(BitOperation::kOr, *this, stream); }

namespace {

BitSets complement_of(const BitSets* set, const std::shared_ptr<const StoreLayout>& layout, StreamHandle stream) {
  BitSets result(layout, Contents::kUnspecified, stream);
  std::vector<LayerComplement> layers;
  for (std::size_t layer = 0; layer < layout->num_layers(); ++layer) {
    layers.push_back(
        {set == nullptr ? nullptr : set->words(layer), result.words(layer), layout->layers()[layer].numel});
  }
  layout->backend().complement(layers, stream);
  return result;
}

}  // namespace

BitSets BitSets::complement(StreamHandle stream) const {
  BitSets result = complement_of(this, layout_, stream);
  result.await(verdicts_);
  return result;
}

void BitSets::await(const Verdicts& verdicts) {
  for (const auto& verdict : verdicts) {
    if (std::find(verdicts_.begin(), verdicts_.end(), verdict) == verdicts_.end()) verdicts_.push_back(verdict);
  }
}

void BitSets::check_verdicts() const {
  for (const auto& verdict : verdicts_) verdict->check();
}

std::vector<std::int64_t> BitSets::count(StreamHandle stream) const {
  check_verdicts();
  return layout_->backend().count(data(), layout_->word_offsets(), stream);
}

std::vector<Word> BitSets::layer_to_host(std::size_t layer, StreamHandle stream) const {
  check_verdicts();
  std::vector<Word> host(static_cast<std::size_t>(words_for(layout_->layers().at(layer).numel)));
  layout_->backend().copy_to_host(words(layer), host, stream);
  return host;
}

void BitSets::unpack(std::size_t layer, std::uint8_t* bytes, StreamHandle stream) const {
  check_verdicts();
  layout_->backend().unpack(words(layer), bytes, layout_->layers().at(layer).numel, stream);
}

void BitSets::layer_from_host(std::size_t layer, std::span<const Word> host, StreamHandle stream) {
  const LayerLayout& layout = layout_->layers().at(layer);
  if (static_cast<std::int64_t>(host.size()) != words_for(layout.numel)) {
    throw std::invalid_argument("layer '" + layout.name + "' has " + std::to_string(words_for(layout.numel)) +
                                " words of bits, got " + std::to_string(host.size()));
  }
  if (!host.empty() && (host.back() & ~valid_bits(static_cast<std::int64_t>(host.size()) - 1, layout.numel)) != 0) {
    throw std::invalid_argument("bits past the end of layer '" + layout.name + "' are set");
  }
  layout_->backend().copy_from_host(host, words(layer), stream);
}

MaskStore::MaskStore(std::vector<LayerLayout> layers, Device device, std::uint64_t seed, StreamHandle stream)
    : layout_(std::make_shared<const StoreLayout>(std::move(layers), device)),
      seed_(seed),
      active_(layout_, Contents::kZero, stream),
      explored_(layout_, Contents::kZero, stream),
      reliable_(layout_, Contents::kZero, stream) {}

BitSets MaskStore::full(StreamHandle stream) const { return complement_of(nullptr, layout_, stream); }

void MaskStore::check_fits(const TensorView& tensor, std::size_t layer) const {
  const LayerLayout& layout = layout_->layers()[layer];
  if (tensor.numel != layout.numel) {
    throw std::invalid_argument("a tensor of layer '" + layout.name + "' has " + std::to_string(tensor.numel) +
                                " values, the layer has " + std::to_string(layout.numel));
  }
  if (tensor.device != layout_->device()) {
    throw std::invalid_argument("a tensor of layer '" + layout.name + "' is on " + to_string(tensor.device) +
                                ", its masks are on " + to_string(layout_->device()));
  }
}

BitSets MaskStore::select(const BitSets& candidates, const SelectRequest& request, Reduction& reduction,
                          StreamHandle stream) const {
  const std::size_t num_layers = layout_->num_layers();
  require_same_layout(candidates, layout_);
  if (request.scores.size() != num_layers) {
    throw std::invalid_argument("a selection needs scores (or none) for each of " + std::to_string(num_layers) +
                                " layers, got " + std::to_string(request.scores.size()));
  }
  if (request.k.size() != (request.across_layers ? std::size_t{1} : num_layers)) {
    throw std::invalid_argument("a selection needs one count " +
                                std::string(request.across_layers ? "in all" : "a layer") + ", got " +
                                std::to_string(request.k.size()));
  }
  if (request.draw >= KeyStream::kMaxDraws)
    throw std::invalid_argument("draw must be in [0, 128), got " + std::to_string(request.draw));
  std::size_t num_scored = 0;
  for (std::size_t layer = 0; layer < num_layers; ++layer) {
    if (!request.scores[layer]) continue;
    check_fits(*request.scores[layer], layer);
    ++num_scored;
  }
  if (request.across_layers && num_scored != 0 && num_scored != num_layers) {
    throw std::invalid_argument("a selection across layers needs scores for all layers or for none");
  }

  BitSets chosen(layout_, Contents::kUnspecified, stream);
  std::vector<Selection> selections(request.across_layers ? 1 : num_layers);
  for (std::size_t layer = 0; layer < num_layers; ++layer) {
    const LayerLayout& layout = layout_->layers()[layer];
    SelectionSegment segment;
    segment.layer = layout.name;
    if (request.scores[layer]) segment.scores = *request.scores[layer];
    segment.transform = request.transform;
    segment.candidates = candidates.words(layer);
    segment.chosen = chosen.words(layer);
    segment.numel = layout.numel;
    segment.index_map = layout.index_map;
    segment.stream = {seed_, static_cast<std::uint32_t>(layer), request.update, request.draw};
    Selection& selection = selections[request.across_layers ? 0 : layer];
    selection.k = request.k[request.across_layers ? 0 : layer];
    selection.order = request.order;
    selection.segments.push_back(std::move(segment));
  }
  chosen.await(candidates.verdicts());
  if (auto verdict = layout_->backend().select(selections, reduction, stream)) chosen.await({std::move(verdict)});
  return chosen;
}

std::vector<LayerCounts> MaskStore::commit(const BitSets& dropped, const BitSets& grown,
                                           const std::vector<std::vector<TensorView>>& tensors,
                                           const CommitOptions& options, StreamHandle stream) {
  require_same_layout(dropped, layout_);
  require_same_layout(grown, layout_);
  if (tensors.size() != layout_->num_layers()) throw std::invalid_argument("a commit needs the tensors of every layer");
  std::vector<LayerCommit> commits;
  for (std::size_t layer = 0; layer < tensors.size(); ++layer) {
    for (const TensorView& tensor : tensors[layer]) check_fits(tensor, layer);
    commits.push_back({layout_->layers()[layer].numel, active_.words(layer), explored_.words(layer),
                       reliable_.words(layer), dropped.words(layer), grown.words(layer), tensors[layer]});
  }
  BitSets::Verdicts verdicts = dropped.verdicts();
  for (const auto& verdict : grown.verdicts()) {
    if (std::find(verdicts.begin(), verdicts.end(), verdict) == verdicts.end()) verdicts.push_back(verdict);
  }
  return layout_->backend().commit(commits, options, verdicts, stream);
}

void MaskStore::apply(const std::vector<std::vector<TensorView>>& tensors, StreamHandle stream) const {
  if (tensors.size() != layout_->num_layers())
    throw std::invalid_argument("masks are applied to the tensors of every layer");
  std::vector<LayerApply> applies;
  applies.reserve(tensors.size());
  for (std::size_t layer = 0; layer < tensors.size(); ++layer) {
    for (const TensorView& tensor : tensors[layer]) check_fits(tensor, layer);
    applies.push_back({layout_->layers()[layer].numel, active_.words(layer), tensors[layer]});
  }
  layout_->backend().apply(applies, stream);
}

}  // namespace itop
