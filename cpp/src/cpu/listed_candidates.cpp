#include "cpu/listed_candidates.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

namespace itop::cpu {

// Counted in equal steps, then one step sorted.
std::int64_t wanted_key(const Problem& problem, std::int64_t lowest, std::int64_t highest) {
  constexpr int bin_bits = 10;
  const auto base = static_cast<std::uint64_t>(lowest);
  const int shift =
      std::max(0, static_cast<int>(std::bit_width(static_cast<std::uint64_t>(highest) - base)) - bin_bits);
  const auto bin_of = [&](const InsideCandidate& candidate) {
    return static_cast<std::size_t>((static_cast<std::uint64_t>(candidate.key) - base) >> shift);
  };
  std::array<std::uint32_t, std::size_t{1} << bin_bits> bins{};
  for (const auto& chunk : problem.chunks) {
    for (const auto& candidate : chunk.result.inside) ++bins[bin_of(candidate)];
  }
  std::int64_t rank = problem.wanted;
  std::size_t bin = 0;
  while (rank > bins[bin]) rank -= bins[bin++];
  std::vector<std::int64_t> keys;
  keys.reserve(bins[bin]);
  for (const auto& chunk : problem.chunks) {
    for (const auto& candidate : chunk.result.inside) {
      if (bin_of(candidate) == bin) keys.push_back(candidate.key);
    }
  }
  const auto wanted = keys.begin() + (rank - 1);
  std::nth_element(keys.begin(), wanted, keys.end());
  return *wanted;
}

void take_below(Problem& problem, std::int64_t& num_below, std::int64_t& num_equal) {
  for (auto& chunk : problem.chunks) {
    auto& inside = chunk.result.inside;
    std::size_t kept = 0;
    for (const InsideCandidate candidate : inside) {
      if (candidate.key < problem.threshold) {
        set_chosen(problem, chunk, candidate.position);
        ++num_below;
      }
      inside[kept] = candidate;
      kept += candidate.key == problem.threshold ? 1 : 0;
    }
    inside.resize(kept);
    num_equal += static_cast<std::int64_t>(kept);
  }
}

}  // namespace itop::cpu
