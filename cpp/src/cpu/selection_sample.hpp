#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/selection_problem.hpp"
#include "itop/scratch_memory.hpp"

namespace itop::cpu {

/// Half a bracket's width in standard deviations of independent keys. A miss costs a second pass, never exactness: with
/// gradients of a ResNet, of which 16 neighbours tell as much as 4 to 8 strangers, one layer in a hundred at most.
inline constexpr double kBracketDeviations = 5.0;

/// Whether the k-th best is first looked for in a sample: small selections are resolved exactly at once.
bool is_sampled(const Problem& problem);

/// Where the k-th best lies among the candidates, in (0, 1).
double quantile_of(const Problem& problem);

/// Candidates of a whole chunk that a bracket of a sample holds, with room to spare.
std::size_t expected_inside(const Problem& problem);

/// Keys of the candidates in groups of neighbours spread over this part, at scattered places so that rows do not alias.
/// Every part samples at the same rate.
ScratchArray<std::int64_t> sample(const Problem& problem);

}  // namespace itop::cpu
