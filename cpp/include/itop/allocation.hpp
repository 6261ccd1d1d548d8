#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace itop {

/// How many weights of each layer are active, so that exactly `total` are.
///
/// Layer l gets the density min(1, epsilon * relative_density[l]); layers that would exceed 1 become dense and epsilon
/// is found again for the rest (Evci et al., Rigging the Lottery, ICML 2020, appendix on ERK). Counts are rounded by
/// largest remainder, so their sum is exactly `total`.
///
/// @param numel            weights a layer, all positive
/// @param relative_density one non-negative number a layer, only ratios matter; infinity makes a layer dense
/// @param total            active weights wanted, in [0, sum of numel]
/// @throws std::invalid_argument if sizes differ, an argument is out of range, or the dense layers alone exceed `total`
std::vector<std::int64_t> allocate(std::span<const std::int64_t> numel, std::span<const double> relative_density,
                                   std::int64_t total);

}  // namespace itop
