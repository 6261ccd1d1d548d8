#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace itop::testing {

/// Test data from a seed; std::mt19937_64 gives the same numbers everywhere.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : engine_(seed) {}

  /// Uniform in [0, bound).
  std::int64_t below(std::int64_t bound) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(bound));
  }
  /// Uniform in [0, 1).
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1.0p-53; }

  /// Close to normal: the shape of trained weights and of gradients.
  std::vector<double> bell(std::int64_t n) {
    std::vector<double> values(static_cast<std::size_t>(n));
    for (double& value : values) value = uniform() + uniform() + uniform() + uniform() - 2.0;
    return values;
  }

  /// A handful of distinct values, both zeros among them.
  std::vector<double> heavy_ties(std::int64_t n) {
    constexpr double values_of[] = {0.0, -0.0, 0.5, -0.5, 1.0, -2.0};
    std::vector<double> values(static_cast<std::size_t>(n));
    for (double& value : values) value = values_of[below(6)];
    return values;
  }

  /// Runs of 64 neighbours share a magnitude, as rows of a layer do: words sampled for a bracket mislead.
  std::vector<double> rows_of_their_own_scale(std::int64_t n) {
    std::vector<double> values = bell(n);
    double scale = 1.0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (i % 64 == 0) scale = std::exp2(static_cast<double>(below(13) - 6));
      values[i] = scale * (1.0 + 0.001 * values[i]);
    }
    return values;
  }

  std::vector<bool> bits(std::int64_t n, double density) {
    std::vector<bool> result(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < result.size(); ++i) result[i] = uniform() < density;
    return result;
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace itop::testing
