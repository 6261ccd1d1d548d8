#pragma once

#include <span>

#include "cuda/executor.hpp"
#include "itop/reduction.hpp"
#include "itop/selection.hpp"

namespace itop::cuda {

/// Backend::select by kernels.
///
/// Where this process holds everything: count and sample, bracket, one pass over the weights, narrow, split the listed
/// candidates, order the few that remain: six launches for all selections together and one wait, at the end, for the
/// flags that say whether scores were finite and every bracket held. A bracket that missed is replaced by histogram
/// rounds over the same data, with the exact result.
///
/// Over several parts: histogram rounds from the start, whose counts `reduction` sums on the host.
void select(std::span<const Selection> selections, Reduction& reduction, Executor& executor);

}  // namespace itop::cuda
