#include "cuda/histogram_rounds.hpp"

#include "cuda/device_layout.hpp"
#include "cuda/launches.hpp"

namespace itop::cuda {
namespace {

BinOfRank bin_of_rank(std::uint64_t rank, std::span<const std::int64_t> counts) {
  BinOfRank found{};
  while (rank > found.before + static_cast<std::uint64_t>(counts[found.bin])) {
    found.before += static_cast<std::uint64_t>(counts[found.bin++]);
  }
  found.count = static_cast<std::uint64_t>(counts[found.bin]);
  return found;
}

}  // namespace

HistogramRounds::HistogramRounds(const SelectionPlan& plan, std::span<const std::int64_t> num_candidates,
                                 Executor& executor, Reduction& reduction)
    : searches_(plan.problems().size()), tables_(plan.tables()), executor_(executor), reduction_(reduction) {
  for (std::size_t i = 0; i < searches_.size(); ++i) {
    searches_[i] = HistogramSearch::of(plan.problems()[i], num_candidates[i]);
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

void HistogramRounds::write_searches(std::span<const HistogramSearch> searches, const ZeroRange& zeros) {
  executor_.write(tables_.searches, std::as_bytes(searches), zeros);
}

void HistogramRounds::check_finite() {
  std::vector<HistogramSearch> closed = searches_;
  for (HistogramSearch& search : closed) search.is_open = false;
  write_searches(closed, {});
  SelectionTables tables = tables_;
  tables.checks_finite = true;
  launch_selection(SelectionKernel::kCountBins, tables.num_chunks, tables, executor_.stream());
}

void HistogramRounds::run() {
  const std::size_t num_bins = searches_.size() * kBins;
  std::vector<std::uint64_t> bins(num_bins);
  for (std::vector<std::size_t> open = open_problems(); !open.empty(); open = open_problems()) {
    write_searches(searches_, {tables_.search_bins, static_cast<std::int64_t>(num_bins)});
    launch_selection(SelectionKernel::kCountBins, tables_.num_chunks, tables_, executor_.stream());
    executor_.download(bins.data(), tables_.search_bins, static_cast<std::int64_t>(num_bins * sizeof(std::uint64_t)));
    std::vector<std::int64_t> counts;
    counts.reserve(open.size() * kBins);
    for (const std::size_t i : open) {
      for (std::size_t bin = 0; bin < kBins; ++bin) counts.push_back(static_cast<std::int64_t>(bins[i * kBins + bin]));
    }
    reduction_.sum(counts);
    for (std::size_t slot = 0; slot < open.size(); ++slot) {
      HistogramSearch& search = searches_[open[slot]];
      search.enter(bin_of_rank(search.range.rank, std::span(counts).subspan(slot * kBins, kBins)));
    }
  }
}

void HistogramRounds::write() {
  write_searches(searches_, {});
  launch_selection(SelectionKernel::kWriteChosen, tables_.num_chunks, tables_, executor_.stream());
}

}  // namespace itop::cuda
