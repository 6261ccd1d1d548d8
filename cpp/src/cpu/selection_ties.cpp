#include "cpu/selection_ties.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/selection_sample.hpp"

namespace itop::cpu {
namespace {

constexpr std::int64_t kHighestKey = std::numeric_limits<std::int64_t>::max();
constexpr int kIndexBits = 44;  // of an index within a layer, where the layers of a selection come before it

bool ties_need_a_pass(const Problem& problem) { return problem.stage == Stage::kTies && !problem.lists_inside; }

/// Undoes what a first pass over the ties chose: chosen goes back to what lies below the threshold. Without scores
/// the next pass sees to that.
void clear_ties(Problem& problem) {
  if (!problem.has_scores) return;
  for (auto& chunk : problem.chunks) {
    const auto& segment = problem.selection->segments[chunk.segment];
    ScorePass pass{segment.scores.data,
                   format_of(problem, segment),
                   segment.candidates,
                   segment.chosen,
                   problem.low,
                   problem.low,
                   0};
    PassResult ignored;
    kernels().score_pass(pass, chunk.range, ignored);
  }
}

/// In these problems `num_below` counts the ties taken by their coarse keys alone.
template <class Wanted>
void list_ties(SelectionRounds& rounds, Wanted&& wanted) {
  std::vector<Problem>& problems = rounds.problems();
  rounds.for_chunks(wanted, [](Problem& problem, Chunk& chunk) {
    const auto& segment = problem.selection->segments[chunk.segment];
    chunk.result = PassResult{};
    TiePass pass;
    pass.scores = segment.scores.data;
    pass.format = format_of(problem, segment);
    pass.candidates = segment.candidates;
    pass.chosen = segment.chosen;
    pass.key = problem.low;
    pass.low = problem.tie_low;
    pass.high = problem.tie_high;
    pass.index_map = segment.index_map;
    pass.stream = segment.stream;
    kernels().tie_pass(pass, chunk.range, chunk.result);
  });
  std::vector<std::int64_t> counts;
  for (auto& problem : problems) {
    if (wanted(problem)) problem.count_chunks();
    counts.push_back(wanted(problem) ? problem.num_below : 0);
    counts.push_back(wanted(problem) ? problem.num_inside : 0);
  }
  if (std::none_of(problems.begin(), problems.end(), wanted)) return;
  rounds.reduction().sum(counts);
  for (std::size_t i = 0; i < problems.size(); ++i) {
    if (!wanted(problems[i])) continue;
    problems[i].num_below = counts[2 * i];
    problems[i].num_inside = counts[2 * i + 1];
  }
}

/// Ties too many to list: a bracket of coarse tie keys, which are uniform, needs no sample.
void pass_over_ties(SelectionRounds& rounds) {
  std::vector<Problem>& problems = rounds.problems();
  for (auto& problem : problems) {
    if (!ties_need_a_pass(problem)) continue;
    const auto m = static_cast<double>(problem.num_equal);
    const auto e = static_cast<double>(problem.wanted);
    const double slack = kBracketDeviations * std::sqrt(e * (1.0 - e / m)) + 2.0;
    const double keys_each = 65536.0 / m;
    problem.tie_low = static_cast<std::uint16_t>(std::clamp(std::floor((e - slack) * keys_each) - 1.0, 0.0, 65535.0));
    problem.tie_high = static_cast<std::uint16_t>(std::clamp(std::ceil((e + slack) * keys_each) + 1.0, 0.0, 65535.0));
  }
  list_ties(rounds, [](const Problem& problem) { return ties_need_a_pass(problem); });
  const auto missed = [](const Problem& problem) {
    return ties_need_a_pass(problem) &&
           (problem.num_below > problem.wanted || problem.num_below + problem.num_inside < problem.wanted);
  };
  bool any_missed = false;
  std::vector<bool> again;
  for (auto& problem : problems) {
    again.push_back(missed(problem));
    any_missed |= again.back();
  }
  if (any_missed) {
    for (std::size_t i = 0; i < problems.size(); ++i) {
      if (!again[i]) continue;
      problems[i].tie_low = 0;
      problems[i].tie_high = 65535;
      clear_ties(problems[i]);
    }
    const Problem* first = problems.data();
    list_ties(rounds, [&](const Problem& problem) { return again[static_cast<std::size_t>(&problem - first)]; });
  }
  for (auto& problem : problems) {
    if (!ties_need_a_pass(problem)) continue;
    problem.wanted -= problem.num_below;
    problem.num_equal = problem.num_inside;
  }
}

/// Takes `wanted` of the listed ties: by coarse tie key, equal ones by the rest of it, then by index.
void resolve_ties(SelectionRounds& rounds) {
  const auto segment_of = [](const Problem& problem, const Chunk& chunk) -> const SelectionSegment& {
    return problem.selection->segments[chunk.segment];
  };
  const auto index_of = [&](const Problem& problem, const Chunk& chunk, const InsideCandidate& candidate) {
    return segment_of(problem, chunk).index_map(candidate.position);
  };
  const auto level = [&](auto&& range_of, auto&& key_of) {
    std::vector<Problem*> open;
    for (Problem* problem : rounds.problems_at(Stage::kTies)) {
      if (problem->wanted > 0) open.push_back(problem);
    }
    if (open.empty()) return;
    rounds.choose_listed(open, key_of, range_of);
    for (Problem* problem : open) problem->lists_inside = true;
    rounds.choose_where_all_equals_are_wanted();
  };
  const auto up_to = [](std::int64_t highest) {
    return [highest](const Problem&) { return std::pair{std::int64_t{0}, highest}; };
  };
  level(
      [](const Problem& problem) {
        return problem.lists_inside ? std::pair{std::int64_t{0}, (std::int64_t{1} << kCoarseKeyBits) - 1}
                                    : std::pair{std::int64_t{problem.tie_low}, std::int64_t{problem.tie_high}};
      },
      [&](const Problem& problem, const Chunk& chunk, const InsideCandidate& candidate) -> std::int64_t {
        if (!problem.lists_inside) return candidate.key;  // the pass over the ties drew it already
        return coarse_key(segment_of(problem, chunk).stream,
                          static_cast<std::uint64_t>(index_of(problem, chunk, candidate)));
      });
  level(up_to((std::int64_t{1} << kFineKeyBits) - 1),
        [&](const Problem& problem, const Chunk& chunk, const InsideCandidate& candidate) {
          return static_cast<std::int64_t>(fine_key(segment_of(problem, chunk).stream,
                                                    static_cast<std::uint64_t>(index_of(problem, chunk, candidate))));
        });
  level(up_to(kHighestKey), [&](const Problem& problem, const Chunk& chunk, const InsideCandidate& candidate) {
    return (static_cast<std::int64_t>(chunk.segment) << kIndexBits) | index_of(problem, chunk, candidate);
  });
}

}  // namespace

void choose_among_ties(SelectionRounds& rounds) {
  pass_over_ties(rounds);
  resolve_ties(rounds);
}

}  // namespace itop::cpu
