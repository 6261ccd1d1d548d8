#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/order_statistics.hpp"
#include "free_positions.hpp"
#include "itop/error.hpp"
#include "itop/sparse_growth.hpp"
#include "itop/thread_pool.hpp"
#include "product_scores.hpp"

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

[[noreturn]] void refuse_non_finite() { throw NonFiniteError("", "the scores of growth hold NaN or infinity"); }

/// The rank-th smallest of the keys, from 1.
std::int64_t nth_smallest(ScratchArray<std::int64_t>& keys, std::int64_t rank, ThreadPool& pool) {
  cpu::OrderStatisticQuery query{&keys, rank, std::numeric_limits<std::int64_t>::min(),
                                 std::numeric_limits<std::int64_t>::max(), 0};
  LocalReduction alone;
  cpu::answer({&query, 1}, alone, pool);
  return query.result;
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

namespace {

constexpr std::int64_t kBlockRows = 64;
constexpr std::int64_t kBlockColumns = 512;  // 64 rows of them stay in the second level
constexpr std::int64_t kBlockWords = kBlockRows * kBlockColumns / kWordBits;

template <class Scalar>
std::int64_t key_of(Scalar score) {
  constexpr auto transform = ScoreTransform::kMagnitude;
  constexpr auto order = SelectionOrder::kLargest;
  if constexpr (sizeof(Scalar) == 8) {
    return OrderedKey64::from_bits(std::bit_cast<std::uint64_t>(score), transform, order);
  } else {
    return OrderedKey32::from_bits(std::bit_cast<std::uint32_t>(score), transform, order);
  }
}

/// Calls `body(row, column)` for the taken positions of a block, counted from its first row and column.
template <class Body>
void for_taken_of_block(const PositionList& taken, std::int64_t first_row, std::int64_t num_rows,
                        std::int64_t first_column, std::int64_t num_columns, Body&& body) {
  const std::int64_t last_row = std::min(taken.num_rows, first_row + num_rows);
  for (std::int64_t row = first_row; row < last_row; ++row) {
    const std::int32_t* const end = taken.columns + taken.row_pointers[row + 1];
    const std::int32_t* entry = std::lower_bound(taken.columns + taken.row_pointers[row], end, first_column);
    for (; entry < end && *entry < first_column + num_columns; ++entry) body(row - first_row, *entry - first_column);
  }
}

/// A key that somewhat more than `k` scores of free positions reach, from tiles spread over the matrix; all do where it
/// is small.
template <class Scalar>
std::int64_t sampled_limit(const ProductScores<Scalar>& scores, const PositionList& taken, std::int64_t k,
                           ThreadPool& pool) {
  constexpr std::int64_t kSampled = 65536;
  constexpr double kMargin = 1.3;
  constexpr auto kAll = std::numeric_limits<std::int64_t>::max();
  const std::int64_t numel = taken.num_rows * taken.num_columns;
  if (numel < 4 * kSampled) return kAll;
  const std::int64_t rows = scores.rows_at_once();
  const std::int64_t columns = scores.columns_at_once();
  // Whole tiles only, so that nothing outside the matrix is counted.
  const std::int64_t num_row_tiles = taken.num_rows / rows;
  const std::int64_t num_column_tiles = taken.num_columns / columns;
  if (num_row_tiles == 0 || num_column_tiles == 0) return kAll;
  const std::int64_t num_tiles = kSampled / (rows * columns);
  ScratchArray<std::int64_t> keys;
  keys.resize(static_cast<std::size_t>(num_tiles * rows * columns));
  pool.parallel_for(num_tiles, [&](std::int64_t i) {
    // Multiples of irrational numbers are spread evenly, rows and columns independently of each other.
    const auto spread = [&](double step, std::int64_t count) {
      const double at = static_cast<double>(i + 1) * step;
      return static_cast<std::int64_t>((at - std::floor(at)) * static_cast<double>(count));
    };
    const std::int64_t first_row = spread(0.7548776662466927, num_row_tiles) * rows;
    const std::int64_t first_column = spread(0.5698402909980532, num_column_tiles) * columns;
    const ScratchLease tile(static_cast<std::size_t>(2 * rows * columns) * sizeof(Scalar));
    auto* const out = tile.as<Scalar>();
    scores.write(first_row, rows, first_column, columns, out, out + rows * columns);
    std::int64_t* const of_tile = keys.data() + i * rows * columns;
    for (std::int64_t j = 0; j < rows * columns; ++j) of_tile[j] = key_of(out[j]);
    for_taken_of_block(taken, first_row, rows, first_column, columns,
                       [&](std::int64_t row, std::int64_t column) { of_tile[row * columns + column] = kAll; });
  });
  const std::int64_t num_taken = std::count(keys.begin(), keys.end(), kAll);
  const std::int64_t size = static_cast<std::int64_t>(keys.size()) - num_taken;
  const double share = static_cast<double>(k) / static_cast<double>(taken.num_free());
  const auto rank = static_cast<std::int64_t>(std::ceil(static_cast<double>(size) * share * kMargin)) + 16;
  return rank > size ? kAll : nth_smallest(keys, rank, pool);
}

/// The free positions of a block as bits; its rows are kBlockColumns bits long.
void fill_free_block(const PositionList& taken, std::int64_t first_row, std::int64_t first_column, Word* words) {
  constexpr std::int64_t words_a_row = kBlockColumns / kWordBits;
  std::fill_n(words, kBlockWords, Word{0});
  const std::int64_t num_rows = std::min(taken.num_rows - first_row, kBlockRows);
  const std::int64_t num_columns = std::min(taken.num_columns - first_column, kBlockColumns);
  for (std::int64_t row = 0; row < num_rows; ++row) {
    for (std::int64_t word = 0; word < words_for(num_columns); ++word) {
      words[row * words_a_row + word] = valid_bits(word, num_columns);
    }
  }
  for_taken_of_block(taken, first_row, num_rows, first_column, num_columns, [&](std::int64_t row, std::int64_t column) {
    words[row * words_a_row + column / kWordBits] &= ~(Word{1} << (column % kWordBits));
  });
}

}  // namespace

template <class Scalar>
void StreamedGrowth::offer_product_of(std::span<const ProductFactor> factors, ThreadPool& pool) {
  constexpr std::int64_t kScoresAtOnce = std::int64_t{4} << 20;  // bounds the candidates where all scores are equal
  const ProductScores<Scalar> scores(factors, taken_.num_rows, taken_.num_columns, pool);
  const std::int64_t rows_at_once =
      std::max<std::int64_t>(1, kScoresAtOnce / std::max<std::int64_t>(1, taken_.num_columns) / kBlockRows) *
      kBlockRows;
  has_limit_ = true;
  limit_ = sampled_limit(scores, taken_, k_, pool);
  candidates_.reserve(static_cast<std::size_t>(k_ + k_ / 2));
  for (;;) {
    const bool is_sampled = limit_ != std::numeric_limits<std::int64_t>::max();
    for (std::int64_t row = 0; row < taken_.num_rows; row += rows_at_once) {
      offer_rows(scores, row, std::min(rows_at_once, taken_.num_rows - row), pool);
    }
    if (!is_sampled || static_cast<std::int64_t>(candidates_.size()) >= k_) return;
    limit_ = std::numeric_limits<std::int64_t>::max();  // the sample misled: all are candidates
    candidates_.resize(0);
  }
}

template <class Scalar>
void StreamedGrowth::offer_rows(const ProductScores<Scalar>& scores, std::int64_t first_row, std::int64_t num_rows,
                                ThreadPool& pool) {
  const std::int64_t num_row_blocks = divide_up(num_rows, kBlockRows);
  const std::int64_t num_column_blocks = divide_up(taken_.num_columns, kBlockColumns);
  std::vector<cpu::PassResult> results(static_cast<std::size_t>(num_row_blocks * num_column_blocks));
  // Blocks below each other follow each other: their columns are in the second level still.
  pool.parallel_for(num_row_blocks * num_column_blocks, [&](std::int64_t block) {
    const std::int64_t row = first_row + block % num_row_blocks * kBlockRows;
    const std::int64_t column = block / num_row_blocks * kBlockColumns;
    const ScratchLease formed(static_cast<std::size_t>(2 * kBlockRows * kBlockColumns) * sizeof(Scalar));
    auto* const out = formed.as<Scalar>();
    scores.write(row, kBlockRows, column, kBlockColumns, out, out + kBlockRows * kBlockColumns);
    Word free[kBlockWords];
    fill_free_block(taken_, row, column, free);
    cpu::ScorePass pass;
    pass.scores = out;
    pass.format = {sizeof(Scalar) == 8 ? DType::kFloat64 : DType::kFloat32, ScoreTransform::kMagnitude,
                   SelectionOrder::kLargest, sizeof(Scalar) == 8};
    pass.candidates = free;
    pass.low = std::numeric_limits<std::int64_t>::min();
    pass.high = limit_;
    pass.capacity = kBlockRows * kBlockColumns;
    pass.lists_in_order = true;
    cpu::kernels().score_pass(pass, {0, kBlockWords, kBlockRows * kBlockColumns},
                              results[static_cast<std::size_t>(block)]);
  });
  std::vector<std::int64_t> first(static_cast<std::size_t>(num_row_blocks) + 1, 0);  // candidate of a row of blocks
  for (std::int64_t block = 0; block < num_row_blocks * num_column_blocks; ++block) {
    const cpu::PassResult& result = results[static_cast<std::size_t>(block)];
    if (!result.all_finite) refuse_non_finite();
    first[static_cast<std::size_t>(block % num_row_blocks) + 1] += result.num_inside;
  }
  first[0] = static_cast<std::int64_t>(candidates_.size());
  for (std::size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
  candidates_.resize(static_cast<std::size_t>(first.back()));
  // A row's candidates lie in one block after the other: in this order they ascend.
  pool.parallel_for(num_row_blocks, [&](std::int64_t row_block) {
    std::vector<std::size_t> next(static_cast<std::size_t>(num_column_blocks), 0);
    Candidate* to = candidates_.data() + first[static_cast<std::size_t>(row_block)];
    for (std::int64_t row = 0; row < kBlockRows; ++row) {
      const std::int64_t row_start = (first_row + row_block * kBlockRows + row) * taken_.num_columns;
      for (std::int64_t column_block = 0; column_block < num_column_blocks; ++column_block) {
        const auto& inside = results[static_cast<std::size_t>(column_block * num_row_blocks + row_block)].inside;
        std::size_t& i = next[static_cast<std::size_t>(column_block)];
        for (; i < inside.size() && inside[i].position < (row + 1) * kBlockColumns; ++i) {
          const std::int64_t column = column_block * kBlockColumns + inside[i].position - row * kBlockColumns;
          *to++ = {inside[i].key, row_start + column};
        }
      }
    }
  });
  if (static_cast<std::int64_t>(candidates_.size()) > 2 * k_ + 65536) keep_best(pool);
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
  const auto tie_of = [&](const Candidate& candidate) {
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
  limit_ = nth_smallest(keys, k_, pool);
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
  ScratchArray<Candidate> kept;
  kept.resize(static_cast<std::size_t>(num_kept));
  for_pieces([&](std::int64_t number, std::int64_t first, std::int64_t last) {
    const Piece& piece = pieces[static_cast<std::size_t>(number)];
    Candidate* to = kept.data() + piece.first_kept;
    const Tie* tie = piece.ties.data();
    for (std::int64_t i = first; i < last; ++i) {
      const Candidate candidate = candidates_[i];
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
                 [](const Candidate& each) { return each.index; });
  if (!std::is_sorted(chosen.begin(), chosen.end())) std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace itop
