#include "cpu/selection_sample.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace itop::cpu {
namespace {

constexpr double kMinSample = 256.0;
constexpr double kCostOfInside = 2.0;  // of a candidate in the bracket, in sampled keys

/// How many keys to sample: more make the bracket narrower, so that fewer candidates are left for the end. The sum of
/// both costs is least where the sample grows as the two-thirds power of candidates times standard deviation.
double sample_size(const Problem& problem) {
  const double quantile = quantile_of(problem);
  const double deviation = std::sqrt(quantile * (1.0 - quantile));
  const double root =
      std::cbrt(kCostOfInside * kBracketDeviations * static_cast<double>(problem.num_candidates) * deviation);
  return std::max(kMinSample, root * root);
}

}  // namespace

bool is_sampled(const Problem& problem) {
  const std::int64_t k = problem.selection->k;
  return problem.stage == Stage::kBracketed && k > 0 && k < problem.num_candidates && problem.numel > kSmallSelection;
}

double quantile_of(const Problem& problem) {
  return static_cast<double>(problem.selection->k) / static_cast<double>(problem.num_candidates);
}

std::size_t expected_inside(const Problem& problem) {
  const double quantile = quantile_of(problem);
  const double width = 2.0 * kBracketDeviations * std::sqrt(quantile * (1.0 - quantile) / sample_size(problem));
  const double density = static_cast<double>(problem.num_candidates) / static_cast<double>(problem.numel);
  return static_cast<std::size_t>(1.3 * width * density * static_cast<double>(kChunkWords * kWordBits)) + 64;
}

ScratchArray<std::int64_t> sample(const Problem& problem) {
  // Every place costs a miss in the caches and in the address translation, so it gives several keys: a cache line's
  // worth, or a word's where candidates are few. Not more: neighbours resemble each other.
  const int log_group_weights = 4 * problem.num_candidates < problem.numel ? 6 : 4;
  const int log_groups_per_word = std::countr_zero(static_cast<std::uint64_t>(kWordBits)) - log_group_weights;
  const std::int64_t groups_per_word = std::int64_t{1} << log_groups_per_word;
  const Word ones = ~Word{0} >> (kWordBits - (std::int64_t{1} << log_group_weights));
  std::int64_t num_groups = 0;
  for (const auto& segment : problem.selection->segments) num_groups += words_for(segment.numel) * groups_per_word;
  const double rate = std::min(1.0, sample_size(problem) / static_cast<double>(problem.num_candidates));
  const auto wanted = static_cast<std::int64_t>(std::ceil(rate * static_cast<double>(num_groups)));
  const double stride = static_cast<double>(num_groups) / static_cast<double>(std::max<std::int64_t>(wanted, 1));
  const auto group_at = [&](std::int64_t i) {
    const double jitter =
        static_cast<double>((static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15ULL) >> 40) / 16777216.0;
    return std::min(num_groups - 1, static_cast<std::int64_t>((static_cast<double>(i) + jitter) * stride));
  };
  ScratchArray<std::int64_t> keys;
  keys.reserve(static_cast<std::size_t>(1.2 * sample_size(problem)) + 2 * static_cast<std::size_t>(kWordBits));
  ScratchArray<PartOfWord> places;
  places.reserve(static_cast<std::size_t>(wanted));
  std::int64_t first_word = 0;
  std::int64_t i = 0;
  for (const auto& segment : problem.selection->segments) {
    const std::int64_t num_words = words_for(segment.numel);
    places.resize(0);
    for (; i < wanted; ++i) {
      const std::int64_t group = group_at(i);
      const std::int64_t word = (group >> log_groups_per_word) - first_word;
      if (word >= num_words) break;
      places.push_back({word, ones << ((group % groups_per_word) << log_group_weights)});
    }
    kernels().append_keys(segment.scores.data, format_of(problem, segment), segment.candidates,
                          {places.data(), places.size()}, keys);
    first_word += num_words;
  }
  return keys;
}

}  // namespace itop::cpu
