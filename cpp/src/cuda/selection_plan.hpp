#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cuda/executor.hpp"
#include "cuda/selection_tables.hpp"
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
  /// @param not_finite see select_here; zero when this returns
  /// @param samples    whether to make room for samples and lists; the histogram rounds need none
  SelectionPlan(std::span<const Selection> selections, std::span<const Comparison> comparisons,
                std::uint32_t* not_finite, Executor& executor, bool samples = true);

  const SelectionTables& tables() const noexcept { return tables_; }
  std::span<const ProblemEntry> problems() const noexcept { return problems_; }
  std::int64_t num_sample_blocks() const noexcept { return sample_block_offsets_.back(); }
  std::int64_t num_list_blocks() const noexcept { return list_block_offsets_.back(); }

  /// The candidates of each problem, once they are counted. Waits for them.
  std::vector<std::int64_t> num_candidates(Executor& executor) const;

 private:
  void add(const Selection& selection, const Comparison& comparison, bool samples);
  void upload(std::uint32_t* not_finite, Executor& executor);

  std::vector<SegmentEntry> segments_;
  std::vector<ProblemEntry> problems_;
  std::vector<std::int64_t> chunk_offsets_{0};
  std::vector<std::int64_t> sample_block_offsets_{0};
  std::vector<std::int64_t> list_block_offsets_{0};
  std::int64_t num_samples_ = 0;
  std::int64_t num_entries_ = 0;
  SelectionTables tables_;
};

}  // namespace itop::cuda
