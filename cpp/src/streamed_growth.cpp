#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/order_statistics.hpp"
#include "free_positions.hpp"
#include "itop/sparse_growth.hpp"
#include "itop/thread_pool.hpp"
#include "product_candidates.hpp"

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
    pass.lists_in_order = true;
    cpu::kernels().score_pass(pass, {0, static_cast<std::int64_t>(free.size()), num_bits}, results[chunk]);
  });
  for (std::int64_t chunk = 0; chunk < num_chunks; ++chunk) {
    const cpu::PassResult& result = results[static_cast<std::size_t>(chunk)];
    if (!result.all_finite) refuse_non_finite();
    for (const cpu::InsideCandidate& candidate : result.inside) {
      candidates_.push_back({candidate.key, first + chunk * kWordsPerChunk * kWordBits + candidate.position});
    }
  }
  if (static_cast<std::int64_t>(candidates_.size()) > 2 * k_ + 65536) keep_best(pool);
}

void StreamedGrowth::offer_product(std::span<const ProductFactor> factors, DType type, ThreadPool& pool) {
  if (k_ == 0) return;
  if (type == DType::kFloat64) {
    offer_product_of<double>(factors, pool);
  } else {
    offer_product_of<float>(factors, pool);
  }
}

template <class Scalar>
void StreamedGrowth::offer_product_of(std::span<const ProductFactor> factors, ThreadPool& pool) {
  constexpr std::int64_t kScoresAtOnce = std::int64_t{4} << 20;  // bounds the candidates where all scores are equal
  ProductCandidates<Scalar> product(factors, taken_, pool);
  const std::int64_t rows_at_once = product.whole_blocks(kScoresAtOnce / std::max<std::int64_t>(1, taken_.num_columns));
  has_limit_ = true;
  limit_ = product.likely_limit(k_, pool);
  candidates_.reserve(static_cast<std::size_t>(k_ + k_ / 2));
  for (;;) {
    const bool is_sampled = limit_ != kEveryKey;
    for (std::int64_t row = 0; row < taken_.num_rows; row += rows_at_once) {
      product.append(row, std::min(rows_at_once, taken_.num_rows - row), limit_, candidates_, pool);
      if (static_cast<std::int64_t>(candidates_.size()) > 2 * k_ + 65536) keep_best(pool);
    }
    if (!is_sampled || static_cast<std::int64_t>(candidates_.size()) >= k_) return;
    limit_ = kEveryKey;  // the sample misled
    candidates_.resize(0);
  }
}

void StreamedGrowth::keep_best(ThreadPool& pool) {
  const auto count = static_cast<std::int64_t>(candidates_.size());
  if (count <= k_) return;
  ScratchArray<std::int64_t> keys;
  keys.resize(candidates_.size());
  const auto for_pieces = [&](auto&& body) {
    constexpr std::int64_t kPiece = 16384;
    pool.parallel_for(divide_up(count, kPiece),
                      [&](std::int64_t piece) { body(piece, piece * kPiece, std::min(count, (piece + 1) * kPiece)); });
    return divide_up(count, kPiece);
  };
  // Equal keys at the limit: tie keys are drawn for these few only.
  using Tie = std::pair<std::uint64_t, std::int64_t>;
  const auto tie_of = [&](const GrowthCandidate& candidate) {
    return Tie{tie_key(stream_, static_cast<std::uint64_t>(candidate.index)), candidate.index};
  };
  struct Piece {
    std::int64_t num_below = 0;
    std::vector<Tie> ties;
    std::int64_t first_kept = 0;
  };
  const std::int64_t num_pieces = for_pieces([&](std::int64_t, std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) keys[static_cast<std::size_t>(i)] = candidates_[i].key;
  });
  limit_ = cpu::nth_smallest(keys, k_, pool);
  std::vector<Piece> pieces(static_cast<std::size_t>(num_pieces));
  for_pieces([&](std::int64_t number, std::int64_t first, std::int64_t last) {
    Piece& piece = pieces[static_cast<std::size_t>(number)];
    for (std::int64_t i = first; i < last; ++i) {
      piece.num_below += keys[static_cast<std::size_t>(i)] < limit_ ? 1 : 0;
      if (keys[static_cast<std::size_t>(i)] == limit_) piece.ties.push_back(tie_of(candidates_[i]));
    }
  });
  std::vector<Tie> ties;
  std::int64_t wanted = k_;
  for (const Piece& piece : pieces) {
    wanted -= piece.num_below;
    ties.insert(ties.end(), piece.ties.begin(), piece.ties.end());
  }
  std::nth_element(ties.begin(), ties.begin() + (wanted - 1), ties.end());
  const Tie last_tie = ties[static_cast<std::size_t>(wanted - 1)];
  std::int64_t num_kept = 0;
  for (Piece& piece : pieces) {
    piece.first_kept = num_kept;
    num_kept += piece.num_below +
                std::count_if(piece.ties.begin(), piece.ties.end(), [&](const Tie& tie) { return tie <= last_tie; });
  }
  // In their order: candidates of rows offered in order stay sorted.
  ScratchArray<GrowthCandidate> kept;
  kept.resize(static_cast<std::size_t>(num_kept));
  for_pieces([&](std::int64_t number, std::int64_t first, std::int64_t last) {
    const Piece& piece = pieces[static_cast<std::size_t>(number)];
    GrowthCandidate* to = kept.data() + piece.first_kept;
    const Tie* tie = piece.ties.data();
    for (std::int64_t i = first; i < last; ++i) {
      const GrowthCandidate candidate = candidates_[i];
      bool stays = candidate.key < limit_;
      if (candidate.key == limit_) stays = *tie++ <= last_tie;
      if (stays) *to++ = candidate;
    }
  });
  candidates_ = std::move(kept);
}

ScratchArray<std::int64_t> StreamedGrowth::finish(ThreadPool& pool) {
  keep_best(pool);
  ScratchArray<std::int64_t> chosen(candidates_.size());
  std::transform(candidates_.begin(), candidates_.end(), chosen.begin(),
                 [](const GrowthCandidate& each) { return each.index; });
  if (!std::is_sorted(chosen.begin(), chosen.end())) std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace itop
