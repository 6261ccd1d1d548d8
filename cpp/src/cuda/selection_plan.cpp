#include "cuda/selection_plan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cuda/device_layout.hpp"
#include "cuda/launch_shape.hpp"
#include "cuda/verdict.hpp"

namespace itop::cuda {
namespace {

constexpr std::int64_t kSampledWhole = 1 << 14;  // up to here the sample is the problem: the threshold is known at once
constexpr std::int64_t kMinSample = 1 << 14;
constexpr std::int64_t kMaxSample = 1 << 18;
constexpr std::int64_t kSampledShare = 64;
constexpr std::int64_t kSpareEntries = 4096;

ListSpan reserve(std::int64_t& num_entries, std::int64_t capacity) {
  const ListSpan span{num_entries, capacity};
  num_entries += capacity;
  return span;
}

}  // namespace

std::vector<Comparison> comparisons(std::span<const Selection> selections, Reduction& reduction) {
  std::vector<std::int64_t> counts;
  for (const Selection& selection : selections) {
    std::int64_t num_scored = 0;
    std::int64_t num_wide = 0;
    for (const SelectionSegment& segment : selection.segments) {
      const bool is_scored = segment.scores.data != nullptr;
      num_scored += is_scored ? 1 : 0;
      num_wide += is_scored && segment.scores.dtype == DType::kFloat64 ? 1 : 0;
    }
    counts.push_back(num_scored);
    counts.push_back(num_wide);
  }
  reduction.sum(counts);
  std::vector<Comparison> result;
  for (std::size_t i = 0; i < selections.size(); ++i) result.push_back({counts[2 * i] > 0, counts[2 * i + 1] > 0});
  return result;
}

SampleSize sample_size(std::int64_t numel, std::int64_t num_words) {
  if (numel <= kSampledWhole) return {num_words * (kWordBits / kSampleGroup), true};
  return {std::clamp(numel / kSampledShare, kMinSample, kMaxSample) / kSampleGroup, false};
}

std::int64_t broad_list_capacity(std::int64_t numel, const SampleSize& sample) {
  // At most 2 * kBracketDeviations * sqrt(0.25 / sampled) of the weights fall inside, give or take a third.
  if (sample.is_everything) return std::min(numel, kSpareEntries);
  const auto sampled = static_cast<double>(sample.num_groups * kSampleGroup);
  const double share = 1.3 * kBracketDeviations / std::sqrt(sampled);
  return std::min(numel, static_cast<std::int64_t>(static_cast<double>(numel) * share) + kSpareEntries);
}

std::int64_t fine_list_capacity(std::int64_t numel) {
  // Ties leave at most 2 * kBracketDeviations * sqrt(numel / 4), and the members of four coarse keys at the edges.
  const auto ties = static_cast<std::int64_t>(1.2 * kBracketDeviations * std::sqrt(static_cast<double>(numel)));
  return std::min(numel, ties + numel / 8192 + kSpareEntries);
}

SelectionPlan::SelectionPlan(std::span<const Selection> selections, std::span<const Comparison> comparisons,
                             std::uint32_t* not_finite, Executor& executor, bool samples) {
  for (std::size_t i = 0; i < selections.size(); ++i) add(selections[i], comparisons[i], samples);
  upload(not_finite, executor);
}

void SelectionPlan::add(const Selection& selection, const Comparison& comparison, bool samples) {
  ProblemEntry problem;
  problem.k = selection.k;
  problem.first_segment = static_cast<std::int32_t>(segments_.size());
  problem.num_segments = static_cast<std::int32_t>(selection.segments.size());
  problem.has_scores = comparison.has_scores;
  std::int64_t numel = 0;
  for (const SelectionSegment& segment : selection.segments) numel += segment.numel;
  for (const SelectionSegment& segment : selection.segments) {
    SegmentEntry entry;
    entry.scores = segment.scores.data;
    entry.candidates = segment.candidates;
    entry.chosen = segment.chosen;
    entry.numel = segment.numel;
    entry.first_word = problem.num_words;
    entry.index_map = segment.index_map;
    entry.stream = segment.stream;
    entry.format = {segment.scores.dtype, segment.transform, selection.order, comparison.wide};
    entry.problem = static_cast<std::int32_t>(problems_.size());
    entry.draws_blocks = segment.index_map.is_contiguous() && segment.index_map.offset % kCoarseKeysPerBlock == 0;
    segments_.push_back(entry);
    problem.num_words += words_for(segment.numel);
    chunk_offsets_.push_back(chunk_offsets_.back() + chunks_for(segment.numel));
  }
  problem.highest_key = problem.has_scores && !comparison.wide ? std::numeric_limits<std::uint32_t>::max()
                                                               : std::numeric_limits<std::uint64_t>::max();
  if (samples) {
    if (problem.has_scores) {
      const SampleSize sample = sample_size(numel, problem.num_words);
      problem.num_sample_groups = sample.num_groups;
      problem.samples_all = sample.is_everything;
      problem.sample_begin = num_samples_;
      num_samples_ += sample.num_groups * kSampleGroup;
      problem.broad = reserve(num_entries_, broad_list_capacity(numel, sample));
    }
    problem.fine = reserve(num_entries_, fine_list_capacity(numel));
  }
  sample_block_offsets_.push_back(sample_block_offsets_.back() +
                                  ceil_div(problem.num_sample_groups, kSampleGroupsPerBlock));
  list_block_offsets_.push_back(list_block_offsets_.back() + ceil_div(problem.broad.capacity, kListChunk));
  problems_.push_back(problem);
}

void SelectionPlan::upload(std::uint32_t* not_finite, Executor& executor) {
  DeviceLayout layout;
  const auto segments = layout.table(std::span<const SegmentEntry>(segments_));
  const auto chunk_offsets = layout.table(std::span<const std::int64_t>(chunk_offsets_));
  const auto problems = layout.table(std::span<const ProblemEntry>(problems_));
  const auto sample_block_offsets = layout.table(std::span<const std::int64_t>(sample_block_offsets_));
  const auto list_block_offsets = layout.table(std::span<const std::int64_t>(list_block_offsets_));
  const auto num_problems = static_cast<std::int64_t>(problems_.size());
  const auto states = layout.zeros<ProblemState>(num_problems);
  const auto refines_data = layout.zeros<std::uint32_t>(1);
  const auto bins = layout.zeros<std::uint32_t>(num_entries_ > 0 ? num_problems * kBins : 0);
  const auto samples = layout.unset<std::uint64_t>(num_samples_);
  const auto entries = layout.unset<ListEntry>(num_entries_);
  constexpr std::int64_t flags_per_word = sizeof(std::uint64_t) / sizeof(std::uint32_t);
  layout.materialise(executor,
                     {reinterpret_cast<std::uint64_t*>(not_finite), num_flags(segments_.size()) / flags_per_word});

  tables_.segments = layout.at(segments);
  tables_.chunk_offsets = layout.at(chunk_offsets);
  tables_.problems = layout.at(problems);
  tables_.sample_block_offsets = layout.at(sample_block_offsets);
  tables_.list_block_offsets = layout.at(list_block_offsets);
  tables_.states = layout.at(states);
  tables_.not_finite = not_finite;
  tables_.refines_data = layout.at(refines_data);
  tables_.bins = layout.at(bins);
  tables_.samples = layout.at(samples);
  tables_.entries = layout.at(entries);
  tables_.num_chunks = chunk_offsets_.back();
  tables_.num_segments = static_cast<std::int32_t>(segments_.size());
  tables_.num_problems = static_cast<std::int32_t>(problems_.size());
}

std::vector<std::int64_t> SelectionPlan::num_candidates(Executor& executor) const {
  std::vector<ProblemState> states(problems_.size());
  if (!states.empty()) {
    executor.download(states.data(), tables_.states, static_cast<std::int64_t>(states.size() * sizeof(ProblemState)));
  }
  std::vector<std::int64_t> counts;
  for (const ProblemState& state : states) counts.push_back(static_cast<std::int64_t>(state.num_candidates));
  return counts;
}

}  // namespace itop::cuda
