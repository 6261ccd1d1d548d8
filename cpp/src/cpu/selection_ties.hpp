#pragma once

#include "cpu/selection_rounds.hpp"

namespace itop::cpu {

/// The second half of every selection: at `Stage::kTies`, `wanted` of the candidates that share the k-th key are chosen
/// by coarse tie key, equal ones by the fine one, then by layer and index. All problems are done after it.
void choose_among_ties(SelectionRounds& rounds);

}  // namespace itop::cpu
