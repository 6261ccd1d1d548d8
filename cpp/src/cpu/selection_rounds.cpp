#include "cpu/selection_rounds.hpp"

#include <algorithm>

#include "itop/scratch_memory.hpp"

namespace itop::cpu {
namespace {

void prepare(const Selection& selection, Problem& problem) {
  problem.selection = &selection;
  for (const auto& segment : selection.segments) {
    const bool scored = segment.scores.data != nullptr;
    problem.num_scored_segments += scored ? 1 : 0;
    problem.num_wide_segments += scored && segment.scores.dtype == DType::kFloat64 ? 1 : 0;
  }
  for (std::size_t s = 0; s < selection.segments.size(); ++s) {
    const std::int64_t words = words_for(selection.segments[s].numel);
    for (std::int64_t begin = 0; begin < words; begin += kChunkWords) {
      Chunk chunk;
      chunk.segment = s;
      chunk.range = {begin, std::min(begin + kChunkWords, words), selection.segments[s].numel};
      problem.chunks.push_back(std::move(chunk));
    }
  }
}

}  // namespace

SelectionRounds::SelectionRounds(std::span<const Selection> selections, Reduction& reduction, ThreadPool& threads)
    : problems_(selections.size()), reduction_(reduction), threads_(threads) {
  for (std::size_t i = 0; i < selections.size(); ++i) prepare(selections[i], problems_[i]);
}

std::vector<Problem*> SelectionRounds::problems_at(Stage stage) {
  std::vector<Problem*> found;
  for (auto& problem : problems_) {
    if (problem.stage == stage) found.push_back(&problem);
  }
  return found;
}

void SelectionRounds::choose_where_all_equals_are_wanted() {
  for (auto& problem : problems_) {
    if (problem.stage != Stage::kTies || problem.wanted != problem.num_equal || !problem.lists_inside) continue;
    for (auto& chunk : problem.chunks) {
      for (const auto& candidate : chunk.result.inside) set_chosen(problem, chunk, candidate.position);
    }
    problem.stage = Stage::kDone;
  }
}

}  // namespace itop::cpu
