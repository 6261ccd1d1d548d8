#include "cpu/selection.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/listed_candidates.hpp"
#include "cpu/order_statistics.hpp"
#include "cpu/selection_histogram.hpp"
#include "cpu/selection_problem.hpp"
#include "cpu/selection_sample.hpp"
#include "itop/error.hpp"

namespace itop::cpu {
namespace {

constexpr std::int64_t kLowestKey = std::numeric_limits<std::int64_t>::min();
constexpr std::int64_t kHighestKey = std::numeric_limits<std::int64_t>::max();
constexpr int kIndexBits = 44;  // of an index within a layer, where the layers of a selection come before it

class Rounds {
 public:
  Rounds(std::span<const Selection> selections, Reduction& reduction, ThreadPool& threads)
      : reduction_(reduction), threads_(threads) {
    problems_.resize(selections.size());
    for (std::size_t i = 0; i < selections.size(); ++i) prepare(selections[i], problems_[i]);
  }

  void run() {
    count_candidates();
    narrow();
    pass_over_scores(Stage::kBracketed);
    refuse_non_finite();
    accept_or_refine_brackets();
    resolve_thresholds();
    pass_over_ties();
    resolve_ties();
  }

 private:
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

  /// Runs `body(problem, chunk)` for the chunks of the problems for which `wanted(problem)`.
  template <class Wanted, class Body>
  void for_chunks(Wanted&& wanted, Body&& body) {
    std::vector<std::pair<Problem*, Chunk*>> work;
    for (auto& problem : problems_) {
      if (!wanted(problem)) continue;
      for (auto& chunk : problem.chunks) work.emplace_back(&problem, &chunk);
    }
    threads_.parallel_for(static_cast<std::int64_t>(work.size()), [&](std::int64_t i) {
      const auto [problem, chunk] = work[static_cast<std::size_t>(i)];
      body(*problem, *chunk);
    });
  }

  template <class Body>
  void for_problems(Body&& body) {
    threads_.parallel_for(static_cast<std::int64_t>(problems_.size()),
                          [&](std::int64_t i) { body(problems_[static_cast<std::size_t>(i)]); });
  }

  /// Sums what `members` points to over the parts.
  template <class... Members>
  void merge(Members... members) {
    constexpr std::size_t width = sizeof...(members);
    std::vector<std::int64_t> counts;
    counts.reserve(problems_.size() * width);
    for (auto& problem : problems_) (counts.push_back(problem.*members), ...);
    reduction_.sum(counts);
    std::size_t next = 0;
    for (auto& problem : problems_) ((problem.*members = counts[next++]), ...);
  }

  void count_candidates() {
    for_problems([](Problem& problem) {
      for (const auto& chunk : problem.chunks) {
        const auto& segment = problem.selection->segments[chunk.segment];
        problem.num_candidates +=
            kernels().count(segment.candidates + chunk.range.begin_word, chunk.range.end_word - chunk.range.begin_word);
      }
      for (const auto& segment : problem.selection->segments) problem.numel += segment.numel;
    });
    merge(&Problem::num_candidates, &Problem::numel, &Problem::num_scored_segments, &Problem::num_wide_segments);
    // A part may hold nothing of a layer, and an empty tensor has no data: what is compared is agreed upon, too.
    for (auto& problem : problems_) {
      problem.has_scores = problem.num_scored_segments > 0;
      problem.wide = problem.num_wide_segments > 0;
    }
  }

  /// A bracket of keys that almost surely holds the k-th best.
  void narrow() {
    std::vector<ScratchArray<std::int64_t>> samples(problems_.size());
    for (std::size_t i = 0; i < problems_.size(); ++i) {
      Problem& problem = problems_[i];
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
    threads_.parallel_for(static_cast<std::int64_t>(problems_.size()), [&](std::int64_t i) {
      const Problem& problem = problems_[static_cast<std::size_t>(i)];
      if (is_sampled(problem)) samples[static_cast<std::size_t>(i)] = sample(problem);
    });

    std::vector<std::int64_t> sizes;
    for (const auto& one : samples) sizes.push_back(static_cast<std::int64_t>(one.size()));
    reduction_.sum(sizes);
    std::vector<OrderStatisticQuery> queries;
    std::vector<std::pair<std::size_t, bool>> asked_by;
    for (std::size_t i = 0; i < problems_.size(); ++i) {
      const Problem& problem = problems_[i];
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
    answer(queries, reduction_, threads_);
    for (std::size_t q = 0; q < queries.size(); ++q) {
      Problem& problem = problems_[asked_by[q].first];
      (asked_by[q].second ? problem.low : problem.high) = queries[q].result;
    }
    for (auto& problem : problems_) {
      // A bracket of one key is a tie: listing its members could mean listing the whole layer.
      if (is_sampled(problem) && problem.low == problem.high) problem.lists_inside = false;
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

  /// chosen <- candidates below `low`; lists those inside the bracket where asked to.
  void pass_over_scores(Stage stage) {
    const auto wanted = [&](const Problem& problem) { return problem.has_scores && problem.stage == stage; };
    for_chunks(wanted, [](Problem& problem, Chunk& chunk) {
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
    for (auto& problem : problems_) {
      if (!wanted(problem)) continue;
      problem.num_below = problem.num_inside = problem.listed_here = 0;
      for (const auto& chunk : problem.chunks) {
        problem.num_below += chunk.result.num_below;
        problem.num_inside += chunk.result.num_inside;
        problem.listed_here += static_cast<std::int64_t>(chunk.result.inside.size());
      }
    }
  }

  void refuse_non_finite() {
    std::vector<std::int64_t> flags;
    std::vector<const SelectionSegment*> segments;
    for (const auto& problem : problems_) {
      const std::size_t first = flags.size();
      for (const auto& segment : problem.selection->segments) {
        flags.push_back(0);
        segments.push_back(&segment);
      }
      for (const auto& chunk : problem.chunks) flags[first + chunk.segment] |= chunk.result.all_finite ? 0 : 1;
    }
    reduction_.sum(flags);
    for (std::size_t i = 0; i < flags.size(); ++i) {
      if (flags[i] != 0)
        throw NonFiniteError(segments[i]->layer,
                             "the scores of layer '" + segments[i]->layer + "' hold NaN or infinity");
    }
  }

  /// Brackets that missed, or hold too many candidates to list, are replaced by the exact threshold.
  void accept_or_refine_brackets() {
    std::vector<std::int64_t> unlisted;
    for (auto& problem : problems_) unlisted.push_back(problem.num_inside - problem.listed_here);
    merge(&Problem::num_below, &Problem::num_inside);
    reduction_.sum(unlisted);
    std::vector<Problem*> missed;
    for (std::size_t i = 0; i < problems_.size(); ++i) {
      Problem& problem = problems_[i];
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
    find_thresholds_by_histogram(missed);
  }

  /// The k-th key is known: what is below it is chosen already, and some of its equals.
  static void settle(Problem& problem, std::int64_t threshold, std::int64_t num_equal) {
    problem.low = problem.high = threshold;
    problem.num_equal = num_equal;
    problem.wanted = problem.selection->k - problem.num_below;
    problem.stage = Stage::kTies;
  }

  /// Exact thresholds where brackets missed; a second pass chooses what lies below them.
  void find_thresholds_by_histogram(const std::vector<Problem*>& missed) {
    for (Problem* problem : missed) {
      const KeyCount found = kth_key_by_histogram(*problem, reduction_, threads_);
      problem->low = problem->high = found.key;
      problem->num_equal = found.num_equal;
      problem->lists_inside = found.num_equal <= kSmallSelection;
    }
    // The pass that writes the chosen bits again, below the exact threshold. Counts of the parts are summed once more.
    std::vector<Stage> stages;
    for (auto& problem : problems_) stages.push_back(std::exchange(problem.stage, Stage::kDone));
    for (Problem* problem : missed) problem->stage = Stage::kBracketed;
    pass_over_scores(Stage::kBracketed);
    for (std::size_t i = 0; i < problems_.size(); ++i) problems_[i].stage = stages[i];
    std::vector<std::int64_t> below;
    for (Problem* problem : missed) below.push_back(problem->num_below);
    reduction_.sum(below);
    for (std::size_t i = 0; i < missed.size(); ++i) {
      missed[i]->num_below = below[i];
      settle(*missed[i], missed[i]->low, missed[i]->num_equal);
    }
  }

  /// One level of the order. Of each problem's listed candidates those with a key below the wanted-th smallest are
  /// chosen; those that share it stay listed, for the next level to tell apart.
  ///
  /// `key_of(problem, chunk, candidate)` lies in `range_of(problem)`.
  template <class KeyOf, class RangeOf>
  void choose_listed(const std::vector<Problem*>& open, KeyOf&& key_of, RangeOf&& range_of) {
    std::vector<std::int64_t> counts(open.size() * 2, 0);
    const auto for_slots = [&](auto&& body) {
      threads_.parallel_for(static_cast<std::int64_t>(open.size()), [&](std::int64_t i) {
        const auto slot = static_cast<std::size_t>(i);
        for (auto& chunk : open[slot]->chunks) {
          for (auto& candidate : chunk.result.inside) candidate.key = key_of(*open[slot], chunk, candidate);
        }
        body(slot);
      });
    };
    if (reduction_.is_local()) {
      for_slots([&](std::size_t slot) {
        const auto [lowest, highest] = range_of(*open[slot]);
        take_wanted(*open[slot], lowest, highest, counts[2 * slot], counts[2 * slot + 1]);
      });
    } else {
      std::vector<ScratchArray<std::int64_t>> keys(open.size());
      std::vector<OrderStatisticQuery> queries(open.size());
      for_slots([&](std::size_t slot) {
        for (const auto& chunk : open[slot]->chunks) {
          for (const auto& candidate : chunk.result.inside) keys[slot].push_back(candidate.key);
        }
        const auto [lowest, highest] = range_of(*open[slot]);
        queries[slot] = {&keys[slot], open[slot]->wanted, lowest, highest, 0};
      });
      answer(queries, reduction_, threads_);
      for (std::size_t slot = 0; slot < open.size(); ++slot) {
        open[slot]->threshold = queries[slot].result;
        take_below(*open[slot], counts[2 * slot], counts[2 * slot + 1]);
      }
      reduction_.sum(counts);
    }
    for (std::size_t i = 0; i < open.size(); ++i) {
      open[i]->wanted -= counts[2 * i];
      open[i]->num_equal = counts[2 * i + 1];
    }
  }

  /// Problems in which all that is left listed is wanted are done.
  void choose_where_all_equals_are_wanted() {
    for (auto& problem : problems_) {
      if (problem.stage != Stage::kTies || problem.wanted != problem.num_equal || !problem.lists_inside) continue;
      for (auto& chunk : problem.chunks) {
        for (const auto& candidate : chunk.result.inside) set_chosen(problem, chunk, candidate.position);
      }
      problem.stage = Stage::kDone;
    }
  }

  std::vector<Problem*> problems_at(Stage stage) {
    std::vector<Problem*> found;
    for (auto& problem : problems_) {
      if (problem.stage == stage) found.push_back(&problem);
    }
    return found;
  }

  /// The exact k-th key among the listed candidates of each bracket; its betters are chosen.
  void resolve_thresholds() {
    const std::vector<Problem*> open = problems_at(Stage::kBracketed);
    for (Problem* problem : open) problem->wanted = problem->selection->k - problem->num_below;
    choose_listed(
        open, [](const Problem&, const Chunk&, const InsideCandidate& candidate) { return candidate.key; },
        [](const Problem& problem) { return std::pair{problem.low, problem.high}; });
    for (Problem* problem : open) {
      problem->low = problem->high = problem->threshold;
      problem->stage = Stage::kTies;
    }
    choose_where_all_equals_are_wanted();
  }

  /// Ties too many to list: a bracket of coarse tie keys, which are uniform, needs no sample.
  void pass_over_ties() {
    for (auto& problem : problems_) {
      if (!ties_need_a_pass(problem)) continue;
      const auto m = static_cast<double>(problem.num_equal);
      const auto e = static_cast<double>(problem.wanted);
      const double slack = kBracketDeviations * std::sqrt(e * (1.0 - e / m)) + 2.0;
      const double keys_each = 65536.0 / m;
      problem.tie_low = static_cast<std::uint16_t>(std::clamp(std::floor((e - slack) * keys_each) - 1.0, 0.0, 65535.0));
      problem.tie_high = static_cast<std::uint16_t>(std::clamp(std::ceil((e + slack) * keys_each) + 1.0, 0.0, 65535.0));
    }
    list_ties([](const Problem& problem) { return ties_need_a_pass(problem); });
    const auto missed = [](const Problem& problem) {
      return ties_need_a_pass(problem) &&
             (problem.num_below > problem.wanted || problem.num_below + problem.num_inside < problem.wanted);
    };
    bool any_missed = false;
    std::vector<bool> again;
    for (auto& problem : problems_) {
      again.push_back(missed(problem));
      any_missed |= again.back();
    }
    if (any_missed) {
      for (std::size_t i = 0; i < problems_.size(); ++i) {
        if (!again[i]) continue;
        problems_[i].tie_low = 0;
        problems_[i].tie_high = 65535;
        clear_ties(problems_[i]);
      }
      const Problem* first = problems_.data();
      list_ties([&](const Problem& problem) { return again[static_cast<std::size_t>(&problem - first)]; });
    }
    for (auto& problem : problems_) {
      if (!ties_need_a_pass(problem)) continue;
      problem.wanted -= problem.num_below;
      problem.num_equal = problem.num_inside;
    }
  }

  static bool ties_need_a_pass(const Problem& problem) {
    return problem.stage == Stage::kTies && !problem.lists_inside;
  }

  /// Undoes what a first pass over the ties chose: chosen goes back to what lies below the threshold. Without scores
  /// the next pass sees to that.
  static void clear_ties(Problem& problem) {
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
  void list_ties(Wanted&& wanted) {
    for_chunks(wanted, [](Problem& problem, Chunk& chunk) {
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
    for (auto& problem : problems_) {
      std::int64_t below = 0;
      std::int64_t inside = 0;
      if (wanted(problem)) {
        for (const auto& chunk : problem.chunks) {
          below += chunk.result.num_below;
          inside += chunk.result.num_inside;
        }
      }
      counts.push_back(below);
      counts.push_back(inside);
    }
    if (std::none_of(problems_.begin(), problems_.end(), wanted)) return;
    reduction_.sum(counts);
    for (std::size_t i = 0; i < problems_.size(); ++i) {
      if (!wanted(problems_[i])) continue;
      problems_[i].num_below = counts[2 * i];
      problems_[i].num_inside = counts[2 * i + 1];
    }
  }

  /// Takes `wanted` of the listed ties: by coarse tie key, equal ones by the rest of it, then by index.
  void resolve_ties() {
    const auto segment_of = [](const Problem& problem, const Chunk& chunk) -> const SelectionSegment& {
      return problem.selection->segments[chunk.segment];
    };
    const auto index_of = [&](const Problem& problem, const Chunk& chunk, const InsideCandidate& candidate) {
      return segment_of(problem, chunk).index_map(candidate.position);
    };
    const auto level = [&](auto&& range_of, auto&& key_of) {
      std::vector<Problem*> open;
      for (Problem* problem : problems_at(Stage::kTies)) {
        if (problem->wanted > 0) open.push_back(problem);
      }
      if (open.empty()) return;
      choose_listed(open, key_of, range_of);
      for (Problem* problem : open) problem->lists_inside = true;
      choose_where_all_equals_are_wanted();
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

  std::vector<Problem> problems_;
  Reduction& reduction_;
  ThreadPool& threads_;
};

}  // namespace

void select(std::span<const Selection> selections, Reduction& reduction, ThreadPool& threads) {
  Rounds(selections, reduction, threads).run();
}

}  // namespace itop::cpu
