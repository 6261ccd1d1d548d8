#include "cpu/selection_sample.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "itop/ordered_key.hpp"

namespace itop::cpu {
namespace {

constexpr double kMinSample = 256.0;
constexpr double kSampleScale = kBracketDeviations;  // a sampled key costs about what a candidate in the bracket does
constexpr std::int64_t kSampleLookahead = 16;

/// The key of one score; the kernels have the same arithmetic for 64 at once.
std::int64_t key_of(const void* scores, const KeyFormat& format, std::int64_t position) {
  const auto key_of_bits32 = [&](std::uint32_t bits) -> std::int64_t {
    if (format.wide) return OrderedKey64::from_bits(float64_bits_of_float32(bits), format.transform, format.order);
    return OrderedKey32::from_bits(bits, format.transform, format.order);
  };
  switch (format.dtype) {
    case DType::kFloat32:
      return key_of_bits32(static_cast<const std::uint32_t*>(scores)[position]);
    case DType::kBFloat16:
      return key_of_bits32(float32_bits_of_bfloat16(static_cast<const std::uint16_t*>(scores)[position]));
    case DType::kFloat16:
      return key_of_bits32(float32_bits_of_float16(static_cast<const std::uint16_t*>(scores)[position]));
    case DType::kFloat64:
      return OrderedKey64::from_bits(static_cast<const std::uint64_t*>(scores)[position], format.transform,
                                     format.order);
  }
  return 0;
}

/// How many keys to sample: more make the bracket narrower, so that fewer candidates are left for the end. The sum of
/// both costs is least where the sample grows as the two-thirds power of candidates times standard deviation.
double sample_size(const Problem& problem) {
  const double quantile = quantile_of(problem);
  const double deviation = std::sqrt(quantile * (1.0 - quantile));
  const double root = std::cbrt(kSampleScale * static_cast<double>(problem.num_candidates) * deviation);
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
  // A cache line's worth where candidates are few. Neighbours resemble each other, so fewer of them where all would
  // count.
  const int log_group_weights = 4 * problem.num_candidates < problem.numel ? 4 : 2;
  const int log_groups_per_word = std::countr_zero(static_cast<std::uint64_t>(kWordBits)) - log_group_weights;
  const std::int64_t groups_per_word = std::int64_t{1} << log_groups_per_word;
  const Word ones = (Word{1} << (1 << log_group_weights)) - 1;
  const auto first_bit_of = [&](std::int64_t group) { return (group % groups_per_word) << log_group_weights; };
  std::int64_t num_groups = 0;
  for (const auto& segment : problem.selection->segments) num_groups += words_for(segment.numel) * groups_per_word;
  const double rate = std::min(1.0, sample_size(problem) / static_cast<double>(problem.num_candidates));
  const auto wanted = static_cast<std::int64_t>(std::ceil(rate * static_cast<double>(num_groups)));
  const double stride = static_cast<double>(num_groups) / static_cast<double>(std::max<std::int64_t>(wanted, 1));
  ScratchArray<std::int64_t> keys;
  keys.reserve(static_cast<std::size_t>(1.2 * sample_size(problem) + 16.0));
  std::size_t s = 0;
  std::int64_t first_word = 0;
  const SelectionSegment* segment = &problem.selection->segments[0];
  std::int64_t num_words = words_for(segment->numel);
  KeyFormat format = format_of(problem, *segment);
  auto value_size = static_cast<std::int64_t>(size_of(format.dtype));
  const auto group_at = [&](std::int64_t i) {
    const double jitter =
        static_cast<double>((static_cast<std::uint64_t>(i) * 0x9E3779B97F4A7C15ULL) >> 40) / 16777216.0;
    return std::min(num_groups - 1, static_cast<std::int64_t>((static_cast<double>(i) + jitter) * stride));
  };
  for (std::int64_t i = 0; i < wanted; ++i) {
    const std::int64_t group = group_at(i);
    const std::int64_t word = group >> log_groups_per_word;
    while (word - first_word >= num_words) {
      first_word += num_words;
      segment = &problem.selection->segments[++s];
      num_words = words_for(segment->numel);
      format = format_of(problem, *segment);
      value_size = static_cast<std::int64_t>(size_of(format.dtype));
    }
    // Scattered places are cache misses: ask for those to come while these are compared.
    const std::int64_t group_ahead = group_at(i + kSampleLookahead);
    const std::int64_t word_ahead = (group_ahead >> log_groups_per_word) - first_word;
    if (word_ahead < num_words) {
      __builtin_prefetch(segment->candidates + word_ahead);
      __builtin_prefetch(static_cast<const char*>(segment->scores.data) +
                         (word_ahead * kWordBits + first_bit_of(group_ahead)) * value_size);
    }
    const Word in_group = ones << first_bit_of(group);
    for (Word left = segment->candidates[word - first_word] & in_group; left != 0; left &= left - 1) {
      const std::int64_t position = (word - first_word) * kWordBits + std::countr_zero(left);
      keys.push_back(key_of(segment->scores.data, format, position));
    }
  }
  return keys;
}

}  // namespace itop::cpu
