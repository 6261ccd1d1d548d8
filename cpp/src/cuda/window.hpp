#pragma once

#include <cmath>
#include <cstdint>

#include "itop/host_device.hpp"
#include "itop/random.hpp"

namespace itop::cuda {

/// What decides about a candidate without looking at the others: keys below the window are chosen, keys above are not,
/// and those inside go on. Where the window is a single key and `by_ties` is set, the coarse tie keys split it in the
/// same way. Candidates at a key on the window's edge may be so many (zeros, mostly) that they are counted only.
struct Window {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  std::int32_t tie_low = 0;
  std::int32_t tie_high = -1;
  bool by_ties = false;
  bool counts_low = false;
  bool counts_high = false;
};

inline constexpr std::int32_t kNumCoarseKeys = 1 << kCoarseKeyBits;

/// How many standard deviations of a sampled rank a bracket leaves on either side. A miss costs further passes, never
/// exactness.
inline constexpr double kBracketDeviations = 5.0;

/// The window of a tie: `wanted` of `num_equal` candidates whose key is `key`, by coarse tie keys. These are uniform,
/// so the bracket needs no sample. Where all are wanted the window takes all and leaves none inside.
ITOP_HOST_DEVICE Window tie_window(std::uint64_t key, std::uint64_t num_equal, std::uint64_t wanted) {
  Window window;
  window.low = window.high = key;
  window.by_ties = true;
  if (wanted >= num_equal) {
    window.tie_low = kNumCoarseKeys;
    window.tie_high = kNumCoarseKeys - 1;
    return window;
  }
  const double all = static_cast<double>(num_equal);
  const double expected = static_cast<double>(wanted);
  const double slack = kBracketDeviations * sqrt(expected * (1.0 - expected / all)) + 2.0;
  const double keys_each = static_cast<double>(kNumCoarseKeys) / all;
  const double low = floor((expected - slack) * keys_each) - 1.0;
  const double high = ceil((expected + slack) * keys_each) + 1.0;
  const double last = static_cast<double>(kNumCoarseKeys - 1);
  window.tie_low = low < 0.0 ? 0 : static_cast<std::int32_t>(low < last ? low : last);
  window.tie_high = static_cast<std::int32_t>(high < last ? high : last);
  return window;
}

/// The ranks in a sample of `size` that almost surely enclose the `k`-th best of `num_candidates`. A rank outside [1,
/// size] means that the sample does not reach that far: the window is open at that end.
struct SampleRanks {
  std::int64_t low = 0;
  std::int64_t high = 0;
};

ITOP_HOST_DEVICE SampleRanks sample_ranks(std::int64_t size, std::int64_t k, std::int64_t num_candidates) {
  if (size == num_candidates) return {k, k};  // the sample is everything: its k-th is the answer
  const double number = static_cast<double>(size);
  const double quantile = static_cast<double>(k) / static_cast<double>(num_candidates);
  const double slack = kBracketDeviations * sqrt(number * quantile * (1.0 - quantile)) + 2.0;
  return {static_cast<std::int64_t>(floor(number * quantile - slack)),
          static_cast<std::int64_t>(ceil(number * quantile + slack)) + 1};
}

}  // namespace itop::cuda
