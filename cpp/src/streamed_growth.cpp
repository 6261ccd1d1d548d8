#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/kernels.hpp"
#include "free_positions.hpp"
#include "itop/error.hpp"
#include "itop/sparse_growth.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kWordsPerChunk = 1024;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::int64_t key_of_magnitude(double magnitude, bool wide) {
  const auto order = SelectionOrder::kLargest;
  if (wide) return OrderedKey64::from_bits(std::bit_cast<std::uint64_t>(magnitude), ScoreTransform::kMagnitude, order);
  // Rounded towards zero: a score equal to the guess stays a candidate.
  auto narrow = static_cast<float>(magnitude);
  if (static_cast<double>(narrow) > magnitude) narrow = std::nextafter(narrow, 0.0F);
  return OrderedKey32::from_bits(std::bit_cast<std::uint32_t>(narrow), ScoreTransform::kMagnitude, order);
}

}  // namespace

StreamedGrowth::StreamedGrowth(const PositionList& taken, std::int64_t k, const KeyStream& stream, double at_least)
    : taken_(taken), k_(k), stream_(stream), at_least_(at_least) {
  check_num_grown(taken, k);
}

void StreamedGrowth::offer(std::int64_t first_row, std::int64_t num_rows, const void* scores, DType type,
                           ThreadPool& pool) {
  if (k_ == 0 || num_rows == 0) return;
  const bool wide = type == DType::kFloat64;
  if (!has_limit_) {
    limit_ = key_of_magnitude(at_least_, wide);
    has_limit_ = true;
  }
  const std::int64_t first = first_row * taken_.num_columns;
  const std::int64_t count = num_rows * taken_.num_columns;
  const std::int64_t num_words = divide_up(count, kWordBits);
  const std::int64_t num_chunks = divide_up(num_words, kWordsPerChunk);
  std::vector<cpu::PassResult> results(static_cast<std::size_t>(num_chunks));
  pool.parallel_for(num_chunks, [&](std::int64_t chunk) {
    const std::int64_t first_word = chunk * kWordsPerChunk;
    const std::int64_t first_bit = first_word * kWordBits;
    const std::int64_t num_bits = std::min(kWordsPerChunk * kWordBits, count - first_bit);
    std::vector<Word> free(static_cast<std::size_t>(divide_up(num_bits, kWordBits)));
    fill_free_bits(taken_, first + first_bit, num_bits, free.data());
    cpu::ScorePass pass;
    pass.scores = static_cast<const std::byte*>(scores) + first_bit * static_cast<std::int64_t>(size_of(type));
    pass.format = {type, ScoreTransform::kMagnitude, SelectionOrder::kLargest, wide};
    pass.candidates = free.data();
    pass.low = std::numeric_limits<std::int64_t>::min();
    pass.high = limit_;
    pass.capacity = num_bits;
    cpu::kernels().score_pass(pass, {0, static_cast<std::int64_t>(free.size()), num_bits}, results[chunk]);
  });
  for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    const cpu::PassResult& result = results[static_cast<std::size_t>(chunk)];
    if (!result.all_finite) throw NonFiniteError("", "the scores of growth hold NaN or infinity");
    for (const cpu::InsideCandidate& candidate : result.inside) {
      candidates_.push_back({candidate.key, first + chunk * kWordsPerChunk * kWordBits + candidate.position});
    }
  }
  if (static_cast<std::int64_t>(candidates_.size()) > 2 * k_ + 65536) keep_best();
}

void StreamedGrowth::keep_best() {
  if (static_cast<std::int64_t>(candidates_.size()) <= k_) return;
  std::vector<std::int64_t> keys;
  keys.reserve(candidates_.size());
  for (const Candidate& candidate : candidates_) keys.push_back(candidate.key);
  const auto last = keys.begin() + (k_ - 1);
  std::nth_element(keys.begin(), last, keys.end());
  limit_ = *last;
  const auto wanted = 1 + std::count(keys.begin(), last, limit_);
  // Equal keys at the limit: tie keys are drawn for these few only.
  using Tie = std::pair<std::uint64_t, std::int64_t>;
  std::vector<Tie> ties;
  for (const Candidate& candidate : candidates_) {
    if (candidate.key != limit_) continue;
    ties.emplace_back(tie_key(stream_, static_cast<std::uint64_t>(candidate.index)), candidate.index);
  }
  std::nth_element(ties.begin(), ties.begin() + (wanted - 1), ties.end());
  const Tie last_tie = ties[static_cast<std::size_t>(wanted - 1)];
  // In their order: candidates of rows offered in order stay sorted.
  std::erase_if(candidates_, [&](const Candidate& candidate) {
    if (candidate.key != limit_) return candidate.key > limit_;
    return Tie{tie_key(stream_, static_cast<std::uint64_t>(candidate.index)), candidate.index} > last_tie;
  });
}

std::vector<std::int64_t> StreamedGrowth::finish() {
  keep_best();
  std::vector<std::int64_t> chosen;
  chosen.reserve(candidates_.size());
  for (const Candidate& candidate : candidates_) chosen.push_back(candidate.index);
  if (!std::is_sorted(chosen.begin(), chosen.end())) std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace itop
