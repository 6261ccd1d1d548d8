#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "cpu/listed_candidates.hpp"
#include "cpu/order_statistics.hpp"
#include "cpu/selection_problem.hpp"
#include "itop/reduction.hpp"
#include "itop/thread_pool.hpp"

namespace itop::cpu {

/// Selections that go through their rounds together, and what every round needs: threads over chunks, sums over parts,
/// one level of the order decided among listed candidates.
class SelectionRounds {
 public:
  SelectionRounds(std::span<const Selection> selections, Reduction& reduction, ThreadPool& threads);

  std::vector<Problem>& problems() noexcept { return problems_; }
  Reduction& reduction() noexcept { return reduction_; }
  ThreadPool& threads() noexcept { return threads_; }

  std::vector<Problem*> problems_at(Stage stage);

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

  /// Problems in which all that is left listed is wanted are done.
  void choose_where_all_equals_are_wanted();

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

 private:
  std::vector<Problem> problems_;
  Reduction& reduction_;
  ThreadPool& threads_;
};

}  // namespace itop::cpu
