#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>

#include "cpu/kernels.hpp"
#include "itop/sparse_growth.hpp"
#include "product_scores.hpp"
#include "product_screen.hpp"

namespace itop {

class ThreadPool;

inline constexpr auto kEveryKey = std::numeric_limits<std::int64_t>::max();  ///< a limit that every score reaches

[[noreturn]] void refuse_non_finite();

/// The free positions of a product gradient^T x whose scores reach a limit. Blocks of scores are formed and compared
/// while they are in the cache; where it pays, most are screened out unformed. What is found is the same.
template <class Scalar>
class ProductCandidates {
 public:
  /// @param factors borrowed, as what `taken` points to is
  ProductCandidates(std::span<const ProductFactor> factors, const PositionList& taken, ThreadPool& pool);

  /// A key that somewhat more than `k` scores of free positions reach, from tiles spread over the matrix; kEveryKey
  /// where it is small. Whether screening pays is decided here as well.
  std::int64_t likely_limit(std::int64_t k, ThreadPool& pool);

  /// About so many rows, at least one block of them.
  static std::int64_t whole_blocks(std::int64_t num_rows);

  /// Appends those of rows [first_row, first_row + num_rows) in their order; `first_row` begins a block.
  /// @throws NonFiniteError (of no layer) if a score is NaN or infinite
  void append(std::int64_t first_row, std::int64_t num_rows, std::int64_t limit,
              ScratchArray<GrowthCandidate>& candidates, ThreadPool& pool);

 private:
  const ProductScores<Scalar>& scores(ThreadPool& pool);
  void form_tile(std::int64_t first_row, std::int64_t first_column, Scalar* tile) const;

  /// Of a block the free positions that reach the limit, all scores formed.
  void find_formed(std::int64_t first_row, std::int64_t first_column, std::int64_t limit, const Word* free,
                   cpu::PassResult& result) const;
  /// The same, most scores screened out.
  void find_screened(std::int64_t first_row, std::int64_t first_column, std::int64_t limit, Word* free,
                     cpu::PassResult& result) const;

  std::span<const ProductFactor> factors_;
  PositionList taken_;
  std::optional<ProductScreen> screen_;
  std::optional<ProductScores<Scalar>> scores_;  ///< made when they are wanted
};

}  // namespace itop
