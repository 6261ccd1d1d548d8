#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cuda/executor.hpp"
#include "itop/reduction.hpp"
#include "itop/selection.hpp"

namespace itop::cuda {

/// Whether a selection compares scores, and whether as float64. Parts of a layer agree on it, because a part that holds
/// nothing of a layer has no data to tell by.
struct Comparison {
  bool has_scores = false;
  bool wide = false;
};
/// Of every selection, over all parts.
std::vector<Comparison> comparisons(std::span<const Selection> selections, Reduction& reduction);

/// How many weights a problem samples, and how much room its lists get.
struct SampleSize {
  std::int64_t num_groups = 0;
  bool is_everything = false;
};
SampleSize sample_size(std::int64_t numel, std::int64_t num_words);
std::int64_t broad_list_capacity(std::int64_t numel, const SampleSize& sample);
std::int64_t fine_list_capacity(std::int64_t numel);

/// The tables of a set of selections, on the host and, uploaded, on the device.
class SelectionPlan {
 public:
  /// @param samples whether to make room for samples and lists; the histogram rounds need none
  SelectionPlan(std::span<const Selection> selections, std::span<const Comparison> comparisons, bool samples,
                Executor& executor);

  const SelectionTables& tables() const noexcept { return tables_; }
  std::span<const ProblemEntry> problems() const noexcept { return problems_; }
  std::int64_t num_sample_blocks() const noexcept { return sample_block_offsets_.back(); }
  std::int64_t num_list_blocks() const noexcept { return list_block_offsets_.back(); }

  /// What the kernels left: the problems' states and, a segment each, whether scores were not finite. Waits for them.
  struct Outcome {
    std::vector<ProblemState> states;
    std::vector<std::uint32_t> not_finite;
  };
  Outcome download(Executor& executor) const;

  const std::string& layer_of(std::size_t segment) const { return *layers_[segment]; }

 private:
  void add(const Selection& selection, const Comparison& comparison, bool samples);
  void upload(Executor& executor);

  std::vector<SegmentEntry> segments_;
  std::vector<const std::string*> layers_;
  std::vector<ProblemEntry> problems_;
  std::vector<std::int64_t> chunk_offsets_{0};
  std::vector<std::int64_t> sample_block_offsets_{0};
  std::vector<std::int64_t> list_block_offsets_{0};
  std::int64_t num_samples_ = 0;
  std::int64_t num_entries_ = 0;
  SelectionTables tables_;
};

}  // namespace itop::cuda
