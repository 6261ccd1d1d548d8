#pragma once

#include <cstdint>
#include <span>

#include "cuda/executor.hpp"
#include "itop/reduction.hpp"
#include "itop/selection.hpp"

namespace itop::cuda {

/// Backend::select by kernels where this process holds everything: write the tables, count and sample, bracket, one
/// pass over the weights, narrow, split the listed candidates, order the few that remain: seven launches for all
/// selections together, and nobody waits for any. What may go wrong is seen and mended on the device: ties that are too
/// many to list by another pass over the weights, a bracket that missed by an exact search.
/// @param not_finite a flag for each segment, set where its scores hold NaN or infinity, and one that is set where any
/// is;
///                   room for a whole number of words
void select_here(std::span<const Selection> selections, std::uint32_t* not_finite, Executor& executor);

/// Over several parts: histogram rounds, whose counts `reduction` sums on the host.
/// @throws NonFiniteError on all parts alike
void select_over_parts(std::span<const Selection> selections, Reduction& reduction, Executor& executor);

}  // namespace itop::cuda
