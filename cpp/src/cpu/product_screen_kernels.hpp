#pragma once

#include <cstdint>

namespace itop::cpu {

/// A tile of a screened product.
inline constexpr int kScreenRows = 8;
inline constexpr int kScreenColumns = 32;

/// Scores that are formed at a time.
inline constexpr int kListedScores = 16;

/// The inner loops of a screened product (product_screen.hpp), where the processor multiplies bytes four at a time.
struct ProductScreenKernels {
  /// maxima[j] = max(maxima[j], |dense[s][j]|) over all samples.
  using LargestMagnitudes = void (*)(const float* dense, std::int64_t dense_stride, std::int64_t depth,
                                     std::int64_t num_columns, float* maxima);
  LargestMagnitudes largest_magnitudes = nullptr;

  /// What is learnt of every column while it is packed; sums are added to.
  struct Columns {
    const float* scales;    ///< of a step, a 127th of the largest magnitude, or 0
    const float* inverses;  ///< 1 / scale, or 0
    float* squares;         ///< sums of squares
    float* errors;          ///< sums of the squares of what rounding changed
    float* steps;           ///< sums of the steps
  };

  /// Samples of some columns as whole numbers of steps, four to a word, the earliest lowest. Tiles of `width` columns
  /// (kScreenRows or kScreenColumns) are `tile_stride` apart, [num_quads][width] each; what is outside is zero steps.
  /// Rows' steps are signed, those of columns have 128 added.
  using PackQuads = void (*)(const float* dense, std::int64_t dense_stride, std::int64_t depth,
                             std::int64_t num_columns, const Columns& of_columns, std::uint32_t* packed,
                             std::int64_t tile_stride);
  PackQuads pack_rows = nullptr;
  PackQuads pack_columns = nullptr;

  /// Of the rows or columns of a tile.
  struct Lengths {
    const float* scales;
    const float* norms;
    const float* errors;  ///< norms of what rounding changed
  };

  /// reached[r]: of a tile's row the columns whose score may have the magnitude `limit`, a bit each.
  /// @param offsets 128 times the sum of a row's steps
  using MayReach = void (*)(const std::uint32_t* rows, const std::uint32_t* columns, std::int64_t num_quads,
                            const std::int32_t* offsets, const Lengths& of_rows, const Lengths& of_columns, float limit,
                            std::uint32_t* reached);
  MayReach may_reach = nullptr;

  /// out[i] (+)= sum over s of row[s] * columns[listed[i]][s], one product after the other: SparseKernels::product's
  /// bits, but for a zero's sign. Rows of `columns` are `depth` long, a multiple of 16.
  /// @param listed [kListedScores]
  using ScoresAt = void (*)(const float* row, const float* columns, std::int64_t depth, const std::int32_t* listed,
                            float* out, bool accumulate);
  ScoresAt scores_at = nullptr;
};

/// The table of this processor; null where it has no such instructions, or others are asked for (instruction_set()).
const ProductScreenKernels* product_screen_kernels();

namespace avx512 {
const ProductScreenKernels* product_screen_kernel_table();
}

}  // namespace itop::cpu
