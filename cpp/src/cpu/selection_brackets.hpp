#pragma once

#include "cpu/selection_rounds.hpp"

namespace itop::cpu {

/// The first half of every selection: chosen is what lies below the k-th best key, and where that key is known and
/// only some of its equals are wanted, the problem is left at `Stage::kTies`; the others are done.
///
/// A sample brackets the k-th key; one pass over the scores chooses below the bracket and lists what is inside.
/// @throws NonFiniteError if scores hold NaN or infinity
void choose_beside_thresholds(SelectionRounds& rounds);

}  // namespace itop::cpu
