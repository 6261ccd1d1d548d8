#include "product_candidates.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <type_traits>
#include <vector>

#include "cpu/kernels.hpp"
#include "cpu/order_statistics.hpp"
#include "cpu/product_screen_kernels.hpp"
#include "free_positions.hpp"
#include "itop/error.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kBlockRows = 64;
constexpr std::int64_t kBlockColumns = 1024;  // 64 rows of them stay in the second level
constexpr std::int64_t kWordsARow = kBlockColumns / kWordBits;
constexpr std::int64_t kBlockWords = kBlockRows * kWordsARow;

/// Smaller matrices are neither sampled nor screened.
constexpr std::int64_t kSampled = 65536;
constexpr std::int64_t kSmallestSampled = 4 * kSampled;

/// A score that a screen lets through costs about six times one of a whole block, and the screen half of all.
constexpr double kLargestShare = 1.0 / 12;

/// A sample is of whole tiles like these, multiples of all kernels'.
constexpr std::int64_t kTileRows = cpu::kScreenRows;
constexpr std::int64_t kTileColumns = cpu::kScreenColumns;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

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

/// The magnitude of such a key of float32.
float magnitude_of(std::int64_t key) { return std::bit_cast<float>(~static_cast<std::uint32_t>(key)); }

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

}  // namespace

void refuse_non_finite() { throw NonFiniteError("", "the scores of growth hold NaN or infinity"); }

template <class Scalar>
ProductCandidates<Scalar>::ProductCandidates(std::span<const ProductFactor> factors, const PositionList& taken,
                                             ThreadPool& pool)
    : factors_(factors), taken_(taken) {
  if constexpr (std::is_same_v<Scalar, float>) {
    if (taken.num_rows * taken.num_columns >= kSmallestSampled) {
      screen_ = ProductScreen::of(factors, taken.num_rows, taken.num_columns, pool);
    }
  }
}

template <class Scalar>
const ProductScores<Scalar>& ProductCandidates<Scalar>::scores(ThreadPool& pool) {
  if (!scores_) scores_.emplace(factors_, taken_.num_rows, taken_.num_columns, pool);
  return *scores_;
}

template <class Scalar>
std::int64_t ProductCandidates<Scalar>::whole_blocks(std::int64_t num_rows) {
  return std::max<std::int64_t>(1, num_rows / kBlockRows) * kBlockRows;
}

template <class Scalar>
std::int64_t ProductCandidates<Scalar>::likely_limit(std::int64_t k, ThreadPool& pool) {
  constexpr double kMargin = 1.3;
  if (taken_.num_rows * taken_.num_columns < kSmallestSampled) return kEveryKey;
  // Whole tiles only, so that nothing outside the matrix is counted.
  const std::int64_t num_row_tiles = taken_.num_rows / kTileRows;
  const std::int64_t num_column_tiles = taken_.num_columns / kTileColumns;
  if (num_row_tiles == 0 || num_column_tiles == 0) return kEveryKey;
  constexpr std::int64_t kTile = kTileRows * kTileColumns;
  constexpr std::int64_t kNumTiles = kSampled / kTile;
  if (!screen_) scores(pool);
  ScratchArray<std::int64_t> keys;
  keys.resize(static_cast<std::size_t>(kNumTiles * kTile));
  const auto for_tiles = [&](auto&& body) {
    pool.parallel_for(kNumTiles, [&](std::int64_t i) {
      // Multiples of irrational numbers are spread evenly, rows and columns independently of each other.
      const auto spread = [&](double step, std::int64_t count) {
        const double at = static_cast<double>(i + 1) * step;
        return static_cast<std::int64_t>((at - std::floor(at)) * static_cast<double>(count));
      };
      body(i, spread(0.7548776662466927, num_row_tiles) * kTileRows,
           spread(0.5698402909980532, num_column_tiles) * kTileColumns);
    });
  };
  for_tiles([&](std::int64_t i, std::int64_t first_row, std::int64_t first_column) {
    Scalar tile[2 * kTile];
    form_tile(first_row, first_column, tile);
    std::int64_t* const of_tile = keys.data() + i * kTile;
    for (std::int64_t j = 0; j < kTile; ++j) of_tile[j] = key_of(tile[j]);
    for_taken_of_block(
        taken_, first_row, kTileRows, first_column, kTileColumns,
        [&](std::int64_t row, std::int64_t column) { of_tile[row * kTileColumns + column] = kEveryKey; });
  });
  const std::int64_t num_taken = std::count(keys.begin(), keys.end(), kEveryKey);
  const std::int64_t size = static_cast<std::int64_t>(keys.size()) - num_taken;
  const double share = static_cast<double>(k) / static_cast<double>(taken_.num_free());
  const auto rank = static_cast<std::int64_t>(std::ceil(static_cast<double>(size) * share * kMargin)) + 16;
  const std::int64_t limit = rank > size ? kEveryKey : cpu::nth_smallest(keys, rank, pool);
  if (screen_ && limit != kEveryKey) {
    std::vector<std::int64_t> num_reached(kNumTiles);
    for_tiles([&](std::int64_t i, std::int64_t first_row, std::int64_t first_column) {
      Word reached[kTile / kWordBits];
      std::fill_n(reached, kTile / kWordBits, ~Word{0});
      screen_->keep_reachable(first_row, kTileRows, first_column, kTileColumns, magnitude_of(limit), reached);
      for (const Word word : reached) num_reached[static_cast<std::size_t>(i)] += std::popcount(word);
    });
    const auto sum = std::accumulate(num_reached.begin(), num_reached.end(), std::int64_t{0});
    if (static_cast<double>(sum) > kLargestShare * kNumTiles * kTile) screen_.reset();
  }
  return limit;
}

template <class Scalar>
void ProductCandidates<Scalar>::form_tile(std::int64_t first_row, std::int64_t first_column, Scalar* tile) const {
  if constexpr (std::is_same_v<Scalar, float>) {
    if (screen_) {
      std::int32_t columns[kTileColumns];
      std::iota(columns, columns + kTileColumns, static_cast<std::int32_t>(first_column));
      for (std::int64_t row = 0; row < kTileRows; ++row) {
        screen_->scores_of(first_row + row, columns, tile + row * kTileColumns);
      }
      return;
    }
  }
  scores_->write(first_row, kTileRows, first_column, kTileColumns, tile, tile + kTileRows * kTileColumns);
}

template <class Scalar>
void ProductCandidates<Scalar>::append(std::int64_t first_row, std::int64_t num_rows, std::int64_t limit,
                                       ScratchArray<GrowthCandidate>& candidates, ThreadPool& pool) {
  const std::int64_t num_row_blocks = divide_up(num_rows, kBlockRows);
  const std::int64_t num_column_blocks = divide_up(taken_.num_columns, kBlockColumns);
  const std::int64_t num_blocks = num_row_blocks * num_column_blocks;
  const bool is_screened = screen_.has_value() && limit != kEveryKey;
  if (!is_screened) scores(pool);
  // Rows of free positions are whole blocks long; there are none outside the matrix.
  const std::int64_t row_words = num_column_blocks * kWordsARow;
  const ScratchLease memory(static_cast<std::size_t>(num_row_blocks * kBlockRows * row_words) * sizeof(Word));
  Word* const free = memory.as<Word>();
  pool.parallel_for(num_row_blocks * kBlockRows, [&](std::int64_t row) {
    Word* const words = free + row * row_words;
    const std::int64_t num_words = row < num_rows ? words_for(taken_.num_columns) : 0;
    if (num_words != 0) fill_free_bits(taken_, (first_row + row) * taken_.num_columns, taken_.num_columns, words);
    std::fill(words + num_words, words + row_words, Word{0});
  });
  std::vector<cpu::PassResult> results(static_cast<std::size_t>(num_blocks));
  // Blocks below each other follow each other: their columns are in the second level still.
  pool.parallel_for(num_blocks, [&](std::int64_t block) {
    const std::int64_t row = first_row + block % num_row_blocks * kBlockRows;
    const std::int64_t column = block / num_row_blocks * kBlockColumns;
    Word candidates_of_block[kBlockWords];
    for (std::int64_t i = 0; i < kBlockRows; ++i) {
      std::copy_n(free + (row - first_row + i) * row_words + column / kWordBits, kWordsARow,
                  candidates_of_block + i * kWordsARow);
    }
    cpu::PassResult& result = results[static_cast<std::size_t>(block)];
    if (is_screened) {
      find_screened(row, column, limit, candidates_of_block, result);
    } else {
      find_formed(row, column, limit, candidates_of_block, result);
    }
  });
  std::vector<std::int64_t> first(static_cast<std::size_t>(num_row_blocks) + 1, 0);  // candidate of a row of blocks
  for (std::int64_t block = 0; block < num_blocks; ++block) {
    const cpu::PassResult& result = results[static_cast<std::size_t>(block)];
    if (!result.all_finite) refuse_non_finite();
    first[static_cast<std::size_t>(block % num_row_blocks) + 1] += result.num_inside;
  }
  first[0] = static_cast<std::int64_t>(candidates.size());
  for (std::size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
  candidates.resize(static_cast<std::size_t>(first.back()));
  // A row's candidates lie in one block after the other: in this order they ascend.
  pool.parallel_for(num_row_blocks, [&](std::int64_t row_block) {
    std::vector<std::size_t> next(static_cast<std::size_t>(num_column_blocks), 0);
    GrowthCandidate* to = candidates.data() + first[static_cast<std::size_t>(row_block)];
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
}

template <class Scalar>
void ProductCandidates<Scalar>::find_formed(std::int64_t first_row, std::int64_t first_column, std::int64_t limit,
                                            const Word* free, cpu::PassResult& result) const {
  const ScratchLease formed(static_cast<std::size_t>(2 * kBlockRows * kBlockColumns) * sizeof(Scalar));
  auto* const out = formed.as<Scalar>();
  scores_->write(first_row, kBlockRows, first_column, kBlockColumns, out, out + kBlockRows * kBlockColumns);
  cpu::ScorePass pass;
  pass.scores = out;
  pass.format = {sizeof(Scalar) == 8 ? DType::kFloat64 : DType::kFloat32, ScoreTransform::kMagnitude,
                 SelectionOrder::kLargest, sizeof(Scalar) == 8};
  pass.candidates = free;
  pass.low = std::numeric_limits<std::int64_t>::min();
  pass.high = limit;
  pass.capacity = kBlockRows * kBlockColumns;
  pass.lists_in_order = true;
  cpu::kernels().score_pass(pass, {0, kBlockWords, kBlockRows * kBlockColumns}, result);
}

template <class Scalar>
void ProductCandidates<Scalar>::find_screened(std::int64_t first_row, std::int64_t first_column, std::int64_t limit,
                                              Word* free, cpu::PassResult& result) const {
  screen_->keep_reachable(first_row, kBlockRows, first_column, kBlockColumns, magnitude_of(limit), free);
  std::int32_t columns[kBlockColumns];
  float formed[kBlockColumns + cpu::kListedScores];
  for (std::int64_t row = 0; row < kBlockRows; ++row) {
    std::size_t count = 0;
    for (std::int64_t word = 0; word < kWordsARow; ++word) {
      for (Word rest = free[row * kWordsARow + word]; rest != 0; rest &= rest - 1) {
        columns[count++] = static_cast<std::int32_t>(first_column + word * kWordBits + std::countr_zero(rest));
      }
    }
    screen_->scores_of(first_row + row, {columns, count}, formed);
    result.inside.resize(static_cast<std::size_t>(result.num_inside) + count);
    for (std::size_t i = 0; i < count; ++i) {
      result.all_finite &= std::isfinite(formed[i]);
      const std::int64_t key = key_of(formed[i]);
      result.inside[static_cast<std::size_t>(result.num_inside)] = {key,
                                                                    row * kBlockColumns + columns[i] - first_column};
      result.num_inside += key <= limit ? 1 : 0;
    }
  }
  result.inside.resize(static_cast<std::size_t>(result.num_inside));
}

template class ProductCandidates<float>;
template class ProductCandidates<double>;

}  // namespace itop
