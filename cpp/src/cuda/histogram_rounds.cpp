#include "cuda/histogram_rounds.hpp"

#include "cuda/device_layout.hpp"

namespace itop::cuda {
namespace {

/// Goes on where a round's counts say. A range all of whose candidates are wanted is closed: everything up to its end
/// is chosen. A single value with more candidates than wanted hands over to the next stage.
void narrow(HistogramSearch& search, std::span<const std::int64_t> counts) {
  BinOfRank found{};
  while (search.range.rank > found.before + static_cast<std::uint64_t>(counts[found.bin])) {
    found.before += static_cast<std::uint64_t>(counts[found.bin++]);
  }
  found.count = static_cast<std::uint64_t>(counts[found.bin]);
  search.range.enter(found);
  if (search.range.rank == found.count) {
    search.is_open = false;
    return;
  }
  if (!search.range.is_single()) return;
  const RangeSearch everything{0, ~std::uint64_t{0}, search.range.rank};
  switch (search.stage) {
    case Stage::kKey:
      search.exact_key = search.range.low;
      search.stage = Stage::kTie;
      search.range = everything;
      break;
    case Stage::kTie:
      search.exact_tie = search.range.low;
      search.stage = Stage::kIndex;
      search.range = everything;
      break;
    case Stage::kIndex:
      search.is_open = false;
      break;
  }
}

}  // namespace

HistogramRounds::HistogramRounds(const SelectionPlan& plan, std::span<const std::int32_t> problems,
                                 std::span<const std::int64_t> num_candidates, Executor& executor, Reduction& reduction)
    : searches_(plan.problems().size()), tables_(plan.tables()), executor_(executor), reduction_(reduction) {
  for (const std::int32_t number : problems) {
    const auto i = static_cast<std::size_t>(number);
    const ProblemEntry& problem = plan.problems()[i];
    HistogramSearch& search = searches_[i];
    search.takes_part = true;
    search.range.high = problem.highest_key;
    if (problem.k <= 0) {
      search.range.high = 0;  // no key is 0: nothing is chosen
    } else if (problem.k < num_candidates[i]) {
      search.is_open = true;
      search.range.rank = static_cast<std::uint64_t>(problem.k);
      if (!problem.has_scores) {
        search.stage = Stage::kTie;
        search.exact_key = kNoScore;
      }
    }
  }
  DeviceLayout layout;
  const auto on_device = layout.unset<HistogramSearch>(static_cast<std::int64_t>(searches_.size()));
  const auto bins = layout.unset<std::uint64_t>(static_cast<std::int64_t>(searches_.size()) * kBins);
  layout.materialise(executor_);
  tables_.searches = layout.at(on_device);
  tables_.search_bins = layout.at(bins);
}

std::vector<std::size_t> HistogramRounds::open_problems() const {
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < searches_.size(); ++i) {
    if (searches_[i].is_open) open.push_back(i);
  }
  return open;
}

void HistogramRounds::check_finite() {
  std::vector<HistogramSearch> closed = searches_;
  for (HistogramSearch& search : closed) search.is_open = false;
  executor_.upload(tables_.searches, closed.data(), static_cast<std::int64_t>(closed.size() * sizeof(HistogramSearch)));
  SelectionTables tables = tables_;
  tables.checks_finite = true;
  executor_.launch(SelectionKernel::kCountBins, tables.num_chunks, tables);
}

void HistogramRounds::run() {
  const std::size_t num_bins = searches_.size() * kBins;
  std::vector<std::uint64_t> bins(num_bins);
  for (std::vector<std::size_t> open = open_problems(); !open.empty(); open = open_problems()) {
    executor_.upload(tables_.searches, searches_.data(),
                     static_cast<std::int64_t>(searches_.size() * sizeof(HistogramSearch)));
    executor_.zero(tables_.search_bins, static_cast<std::int64_t>(num_bins * sizeof(std::uint64_t)));
    executor_.launch(SelectionKernel::kCountBins, tables_.num_chunks, tables_);
    executor_.download(bins.data(), tables_.search_bins, static_cast<std::int64_t>(num_bins * sizeof(std::uint64_t)));
    std::vector<std::int64_t> counts;
    counts.reserve(open.size() * kBins);
    for (const std::size_t i : open) {
      for (std::size_t bin = 0; bin < kBins; ++bin) counts.push_back(static_cast<std::int64_t>(bins[i * kBins + bin]));
    }
    reduction_.sum(counts);
    for (std::size_t slot = 0; slot < open.size(); ++slot) {
      narrow(searches_[open[slot]], std::span(counts).subspan(slot * kBins, kBins));
    }
  }
}

void HistogramRounds::write() {
  executor_.upload(tables_.searches, searches_.data(),
                   static_cast<std::int64_t>(searches_.size() * sizeof(HistogramSearch)));
  executor_.launch(SelectionKernel::kWriteChosen, tables_.num_chunks, tables_);
}

}  // namespace itop::cuda
