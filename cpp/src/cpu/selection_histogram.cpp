#include "cpu/selection_histogram.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

#include "cpu/kernels.hpp"

namespace itop::cpu {
namespace {

constexpr int kHistogramDigitBits = 11;
constexpr std::size_t kBins = std::size_t{1} << kHistogramDigitBits;

}  // namespace

KeyCount kth_key_by_histogram(const Problem& problem, Reduction& reduction, ThreadPool& threads) {
  const int key_bits = problem.wide ? 64 : 32;
  std::uint64_t prefix = 0;
  std::int64_t rank = problem.selection->k;
  std::int64_t num_equal = 0;
  for (int top = key_bits; top > 0;) {
    const int digit_bits = std::min(kHistogramDigitBits, top);
    const int shift = top - digit_bits;
    std::vector<std::vector<std::int64_t>> partial(problem.chunks.size());
    threads.parallel_for(static_cast<std::int64_t>(problem.chunks.size()), [&](std::int64_t c) {
      const Chunk& chunk = problem.chunks[static_cast<std::size_t>(c)];
      const auto& segment = problem.selection->segments[chunk.segment];
      auto& histogram = partial[static_cast<std::size_t>(c)];
      histogram.assign(kBins, 0);
      kernels().histogram_pass(
          {segment.scores.data, format_of(problem, segment), segment.candidates, shift, digit_bits, prefix},
          chunk.range, histogram.data());
    });
    std::vector<std::int64_t> histogram(kBins, 0);
    for (const auto& one : partial) {
      for (std::size_t bin = 0; bin < kBins; ++bin) histogram[bin] += one[bin];
    }
    reduction.sum(histogram);
    std::size_t digit = 0;
    while (rank > histogram[digit]) rank -= histogram[digit++];
    num_equal = histogram[digit];
    prefix = (prefix << digit_bits) | digit;
    top = shift;
  }
  const std::int64_t threshold = problem.wide
                                     ? static_cast<std::int64_t>(prefix ^ (std::uint64_t{1} << 63))
                                     : static_cast<std::int32_t>(static_cast<std::uint32_t>(prefix) ^ 0x80000000u);
  return {threshold, num_equal};
}

}  // namespace itop::cpu
