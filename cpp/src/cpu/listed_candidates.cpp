#include "cpu/listed_candidates.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <vector>

namespace itop::cpu {

namespace {

/// Chooses a problem's listed candidates for which `is_below` and keeps those for which `is_kept` listed; returns the
/// number of the former. Neither is anything a branch could foresee.
template <class IsBelow, class IsKept>
std::int64_t choose_and_keep(Problem& problem, IsBelow&& is_below, IsKept&& is_kept) {
  constexpr std::size_t kAtOnce = 256;
  std::array<std::int64_t, kAtOnce> below;
  std::int64_t num_chosen = 0;
  for (auto& chunk : problem.chunks) {
    Word* const chosen = problem.selection->segments[chunk.segment].chosen;
    InsideCandidate* const inside = chunk.result.inside.data();
    const std::size_t num_inside = chunk.result.inside.size();
    std::size_t num_kept = 0;
    for (std::size_t first = 0; first < num_inside; first += kAtOnce) {
      std::size_t num_below = 0;
      for (std::size_t i = first; i < std::min(first + kAtOnce, num_inside); ++i) {
        const InsideCandidate candidate = inside[i];
        below[num_below] = candidate.position;
        num_below += is_below(candidate) ? 1 : 0;
        inside[num_kept] = candidate;
        num_kept += is_kept(candidate) ? 1 : 0;
      }
      for (std::size_t i = 0; i < num_below; ++i) chosen[below[i] / kWordBits] |= Word{1} << (below[i] % kWordBits);
      num_chosen += static_cast<std::int64_t>(num_below);
    }
    chunk.result.inside.resize(num_kept);
  }
  return num_chosen;
}

}  // namespace

// Counted in equal steps: those in a step below the wanted one's are chosen at once, those in that step are sorted out.
void take_wanted(Problem& problem, std::int64_t lowest, std::int64_t highest, std::int64_t& num_below,
                 std::int64_t& num_equal) {
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
  num_below += choose_and_keep(
      problem, [&](const InsideCandidate& candidate) { return bin_of(candidate) < bin; },
      [&](const InsideCandidate& candidate) { return bin_of(candidate) == bin; });
  std::vector<std::int64_t> keys;
  keys.reserve(bins[bin]);
  for (const auto& chunk : problem.chunks) {
    for (const auto& candidate : chunk.result.inside) keys.push_back(candidate.key);
  }
  const auto wanted = keys.begin() + (rank - 1);
  std::nth_element(keys.begin(), wanted, keys.end());
  problem.threshold = *wanted;
  take_below(problem, num_below, num_equal);
}

void take_below(Problem& problem, std::int64_t& num_below, std::int64_t& num_equal) {
  const std::int64_t threshold = problem.threshold;
  num_below += choose_and_keep(
      problem, [&](const InsideCandidate& candidate) { return candidate.key < threshold; },
      [&](const InsideCandidate& candidate) { return candidate.key == threshold; });
  for (const auto& chunk : problem.chunks) num_equal += static_cast<std::int64_t>(chunk.result.inside.size());
}

}  // namespace itop::cpu
