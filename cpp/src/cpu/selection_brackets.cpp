#include "cpu/selection_brackets.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/order_statistics.hpp"
#include "cpu/selection_histogram.hpp"
#include "cpu/selection_sample.hpp"
#include "itop/error.hpp"

namespace itop::cpu {
namespace {

constexpr std::int64_t kLowestKey = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kHighestKey = std::numeric_limits<std::int64_t>::max();

void count_candidates(SelectionRounds& rounds) {
  std::vector<Problem>& problems = rounds.problems();
  rounds.for_problems([](Problem& problem) {
    for (const auto& chunk : problem.chunks) {
      const auto& segment = problem.selection->segments[chunk.segment];
      problem.num_candidates +=
          kernels().count(segment.candidates + chunk.range.begin_word, chunk.range.end_word - chunk.range.begin_word);
    }
    for (const auto& segment : problem.selection->segments) problem.numel += segment.numel;
  });
  rounds.merge(&Problem::num_candidates, &Problem::numel, &Problem::num_scored_segments, &Problem::num_wide_segments);
  // A part may hold nothing of a layer, and an empty tensor has no data: what is compared is agreed upon, too.
  for (auto& problem : problems) {
    problem.has_scores = problem.num_scored_segments > 0;
    problem.wide = problem.num_wide_segments > 0;
  }
}

void choose_all_or_ties(Problem& problem) {
  const std::int64_t k = problem.selection->k;
  problem.stage = k <= 0 || k >= problem.num_candidates ? Stage::kDone : Stage::kTies;
  if (problem.stage == Stage::kDone) {
    for (const auto& segment : problem.selection->segments) {
      const std::int64_t words = words_for(segment.numel);
      if (k <= 0) {
        std::fill_n(segment.chosen, words, Word{0});
      } else {
        std::copy_n(segment.candidates, words, segment.chosen);
      }
    }
  }
  problem.wanted = k;
  problem.num_equal = problem.num_candidates;
  problem.lists_inside = false;
}

/// A bracket of keys that almost surely holds the k-th best.
void narrow(SelectionRounds& rounds) {
  std::vector<Problem>& problems = rounds.problems();
  std::vector<ScratchArray<std::int64_t>> samples(problems.size());
  for (std::size_t i = 0; i < problems.size(); ++i) {
    Problem& problem = problems[i];
    const std::int64_t k = problem.selection->k;
    if (!problem.has_scores) {
      choose_all_or_ties(problem);
      continue;
    }
    // Nothing or everything is chosen without comparing, but scores that have no order are refused all the same.
    problem.stage = Stage::kBracketed;
    problem.lists_inside = false;
    if (k <= 0) {
      problem.low = kLowestKey;
      problem.high = kLowestKey;
    } else if (k >= problem.num_candidates) {
      problem.low = kHighestKey;
      problem.high = kHighestKey;
    } else {
      problem.lists_inside = true;
      problem.low = problem.key_min();
      problem.high = problem.key_max();
    }
  }
  rounds.threads().parallel_for(static_cast<std::int64_t>(problems.size()), [&](std::int64_t i) {
    const Problem& problem = problems[static_cast<std::size_t>(i)];
    if (is_sampled(problem)) samples[static_cast<std::size_t>(i)] = sample(problem);
  });

  std::vector<std::int64_t> sizes;
  for (const auto& one : samples) sizes.push_back(static_cast<std::int64_t>(one.size()));
  rounds.reduction().sum(sizes);
  std::vector<OrderStatisticQuery> queries;
  std::vector<std::pair<std::size_t, bool>> asked_by;
  for (std::size_t i = 0; i < problems.size(); ++i) {
    const Problem& problem = problems[i];
    if (!is_sampled(problem) || sizes[i] == 0) continue;
    const auto size = static_cast<double>(sizes[i]);
    const double quantile = quantile_of(problem);
    const double slack = kBracketDeviations * std::sqrt(size * quantile * (1.0 - quantile)) + 2.0;
    const auto low_rank = static_cast<std::int64_t>(std::floor(size * quantile - slack));
    const auto high_rank = static_cast<std::int64_t>(std::ceil(size * quantile + slack)) + 1;
    if (low_rank >= 1) {
      queries.push_back({&samples[i], low_rank, problem.key_min(), problem.key_max(), 0});
      asked_by.emplace_back(i, true);
    }
    if (high_rank <= sizes[i]) {
      queries.push_back({&samples[i], high_rank, problem.key_min(), problem.key_max(), 0});
      asked_by.emplace_back(i, false);
    }
  }
  answer(queries, rounds.reduction(), rounds.threads());
  for (std::size_t q = 0; q < queries.size(); ++q) {
    Problem& problem = problems[asked_by[q].first];
    (asked_by[q].second ? problem.low : problem.high) = queries[q].result;
  }
  for (auto& problem : problems) {
    // A bracket of one key is a tie: listing its members could mean listing the whole layer.
    if (is_sampled(problem) && problem.low == problem.high) problem.lists_inside = false;
  }
}

/// chosen <- candidates below `low`; lists those inside the bracket where asked to.
void pass_over_scores(SelectionRounds& rounds, Stage stage) {
  const auto wanted = [&](const Problem& problem) { return problem.has_scores && problem.stage == stage; };
  rounds.for_chunks(wanted, [](Problem& problem, Chunk& chunk) {
    const auto& segment = problem.selection->segments[chunk.segment];
    chunk.result = PassResult{};
    ScorePass pass;
    pass.scores = segment.scores.data;
    pass.format = format_of(problem, segment);
    pass.candidates = segment.candidates;
    pass.chosen = segment.chosen;
    pass.low = problem.low;
    pass.high = problem.high;
    pass.capacity = problem.lists_inside
                        ? std::max(kSmallSelection, (chunk.range.end_word - chunk.range.begin_word) * kWordBits / 2)
                        : 0;
    if (is_sampled(problem)) chunk.result.inside.reserve(expected_inside(problem));
    kernels().score_pass(pass, chunk.range, chunk.result);
  });
  for (auto& problem : rounds.problems()) {
    if (wanted(problem)) problem.count_chunks();
  }
}

void refuse_non_finite(SelectionRounds& rounds) {
  std::vector<Problem>& problems = rounds.problems();
  std::vector<std::int64_t> flags;
  std::vector<const SelectionSegment*> segments;
  for (const auto& problem : problems) {
    const std::size_t first = flags.size();
    for (const auto& segment : problem.selection->segments) {
      flags.push_back(0);
      segments.push_back(&segment);
    }
    for (const auto& chunk : problem.chunks) flags[first + chunk.segment] |= chunk.result.all_finite ? 0 : 1;
  }
  rounds.reduction().sum(flags);
  for (std::size_t i = 0; i < flags.size(); ++i) {
    if (flags[i] != 0)
      throw NonFiniteError(segments[i]->layer, "the scores of layer '" + segments[i]->layer + "' hold NaN or infinity");
  }
}

/// The k-th key is known: what is below it is chosen already, and some of its equals.
void settle(Problem& problem, std::int64_t threshold, std::int64_t num_equal) {
  problem.low = problem.high = threshold;
  problem.num_equal = num_equal;
  problem.wanted = problem.selection->k - problem.num_below;
  problem.stage = Stage::kTies;
}

/// Exact thresholds where brackets missed; a second pass chooses what lies below them.
void find_thresholds_by_histogram(SelectionRounds& rounds, const std::vector<Problem*>& missed) {
  std::vector<Problem>& problems = rounds.problems();
  for (Problem* problem : missed) {
    const KeyCount found = kth_key_by_histogram(*problem, rounds.reduction(), rounds.threads());
    problem->low = problem->high = found.key;
    problem->num_equal = found.num_equal;
    problem->lists_inside = found.num_equal <= kSmallSelection;
  }
  // The pass that writes the chosen bits again, below the exact threshold. Counts of the parts are summed once more.
  std::vector<Stage> stages;
  for (auto& problem : problems) stages.push_back(std::exchange(problem.stage, Stage::kDone));
  for (Problem* problem : missed) problem->stage = Stage::kBracketed;
  pass_over_scores(rounds, Stage::kBracketed);
  for (std::size_t i = 0; i < problems.size(); ++i) problems[i].stage = stages[i];
  std::vector<std::int64_t> below;
  for (Problem* problem : missed) below.push_back(problem->num_below);
  rounds.reduction().sum(below);
  for (std::size_t i = 0; i < missed.size(); ++i) {
    missed[i]->num_below = below[i];
    settle(*missed[i], missed[i]->low, missed[i]->num_equal);
  }
}

/// Brackets that missed, or hold too many candidates to list, are replaced by the exact threshold.
void accept_or_refine_brackets(SelectionRounds& rounds) {
  std::vector<Problem>& problems = rounds.problems();
  std::vector<std::int64_t> unlisted;
  for (auto& problem : problems) unlisted.push_back(problem.num_inside - problem.listed_here);
  rounds.merge(&Problem::num_below, &Problem::num_inside);
  rounds.reduction().sum(unlisted);
  std::vector<Problem*> missed;
  for (std::size_t i = 0; i < problems.size(); ++i) {
    Problem& problem = problems[i];
    if (problem.stage != Stage::kBracketed) continue;
    const std::int64_t k = std::clamp<std::int64_t>(problem.selection->k, 0, problem.num_candidates);
    if (problem.num_below == k) {
      problem.stage = Stage::kDone;
    } else if (problem.num_below > k || problem.num_below + problem.num_inside < k ||
               (problem.low != problem.high && unlisted[i] > 0)) {
      missed.push_back(&problem);
    } else if (problem.low == problem.high) {
      settle(problem, problem.low, problem.num_inside);
      problem.lists_inside = unlisted[i] == 0;
    }
  }
  if (missed.empty()) {
    // No part entered the histogram rounds: all of them see the same counts.
    return;
  }
  find_thresholds_by_histogram(rounds, missed);
}

/// The exact k-th key among the listed candidates of each bracket; its betters are chosen.
void resolve_thresholds(SelectionRounds& rounds) {
  const std::vector<Problem*> open = rounds.problems_at(Stage::kBracketed);
  for (Problem* problem : open) problem->wanted = problem->selection->k - problem->num_below;
  rounds.choose_listed(
      open, [](const Problem&, const Chunk&, const InsideCandidate& candidate) { return candidate.key; },
      [](const Problem& problem) { return std::pair{problem.low, problem.high}; });
  for (Problem* problem : open) {
    problem->low = problem->high = problem->threshold;
    problem->stage = Stage::kTies;
  }
  rounds.choose_where_all_equals_are_wanted();
}

}  // namespace

void choose_beside_thresholds(SelectionRounds& rounds) {
  count_candidates(rounds);
  narrow(rounds);
  pass_over_scores(rounds, Stage::kBracketed);
  refuse_non_finite(rounds);
  accept_or_refine_brackets(rounds);
  resolve_thresholds(rounds);
}

}  // namespace itop::cpu
