#include "itop/allocation.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <string>

namespace itop {

std::vector<std::int64_t> allocate(std::span<const std::int64_t> numel, std::span<const double> relative_density,
                                   std::int64_t total) {
  const std::size_t num_layers = numel.size();
  if (relative_density.size() != num_layers) {
    throw std::invalid_argument("an allocation needs one relative density a layer, got " +
                                std::to_string(relative_density.size()) + " for " + std::to_string(num_layers) +
                                " layers");
  }
  std::int64_t capacity = 0;
  std::vector<bool> dense(num_layers, false);
  for (std::size_t layer = 0; layer < num_layers; ++layer) {
    if (numel[layer] <= 0)
      throw std::invalid_argument("an allocation needs layers with weights, got a layer of size " +
                                  std::to_string(numel[layer]));
    if (!(relative_density[layer] >= 0.0)) throw std::invalid_argument("a relative density must not be negative");
    dense[layer] = std::isinf(relative_density[layer]);
    capacity += numel[layer];
  }
  if (total < 0 || total > capacity) {
    throw std::invalid_argument("the number of active weights must be in [0, " + std::to_string(capacity) + "], got " +
                                std::to_string(total));
  }

  double epsilon = 0.0;
  for (bool changed = true; changed;) {
    changed = false;
    std::int64_t left = total;
    double divisor = 0.0;
    for (std::size_t layer = 0; layer < num_layers; ++layer) {
      if (dense[layer]) {
        left -= numel[layer];
      } else {
        divisor += relative_density[layer] * static_cast<double>(numel[layer]);
      }
    }
    if (left < 0) {
      throw std::invalid_argument("the layers that must be dense hold " + std::to_string(total - left) +
                                  " weights, more than the " + std::to_string(total) + " that may be active");
    }
    if (left > 0 && divisor == 0.0) {
      throw std::invalid_argument("the allocation gives weights only to dense layers, " + std::to_string(left) +
                                  " active weights have no place");
    }
    epsilon = divisor > 0.0 ? static_cast<double>(left) / divisor : 0.0;
    for (std::size_t layer = 0; layer < num_layers; ++layer) {
      if (!dense[layer] && epsilon * relative_density[layer] > 1.0) {
        dense[layer] = true;
        changed = true;
      }
    }
  }

  std::vector<std::int64_t> counts(num_layers);
  std::vector<double> remainders(num_layers, -1.0);
  for (std::size_t layer = 0; layer < num_layers; ++layer) {
    if (dense[layer]) {
      counts[layer] = numel[layer];
      continue;
    }
    const double share = epsilon * relative_density[layer] * static_cast<double>(numel[layer]);
    counts[layer] = std::min(numel[layer], static_cast<std::int64_t>(std::floor(share)));
    remainders[layer] = share - static_cast<double>(counts[layer]);
  }
  std::vector<std::size_t> order(num_layers);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return remainders[a] > remainders[b]; });
  std::int64_t missing = total - std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
  // Floors leave less than one weight a layer; rounding errors of the shares could leave one too many.
  while (missing != 0) {
    const std::int64_t before = missing;
    for (const std::size_t layer : order) {
      if (missing > 0 && counts[layer] < numel[layer] && relative_density[layer] > 0.0) {
        ++counts[layer];
        --missing;
      } else if (missing < 0 && counts[layer] > 0 && !std::isinf(relative_density[layer])) {
        --counts[layer];
        ++missing;
      }
      if (missing == 0) break;
    }
    if (missing == before)
      throw std::invalid_argument("the allocation cannot be met: no layer has room for " + std::to_string(missing) +
                                  " more active weights");
  }
  return counts;
}

}  // namespace itop
