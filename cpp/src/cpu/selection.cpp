#include "cpu/selection.hpp"

#include "cpu/selection_brackets.hpp"
#include "cpu/selection_rounds.hpp"
#include "cpu/selection_ties.hpp"

namespace itop::cpu {

void select(std::span<const Selection> selections, Reduction& reduction, ThreadPool& threads) {
  SelectionRounds rounds(selections, reduction, threads);
  choose_beside_thresholds(rounds);
  choose_among_ties(rounds);
}

}  // namespace itop::cpu
