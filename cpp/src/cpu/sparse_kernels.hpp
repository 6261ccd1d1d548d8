#pragma once

#include <cstdint>

namespace itop::cpu {

/// The entries of a run of rows inside one block of columns. Row `r` owns the entries [begin[r], end[r]).
struct EntryRuns {
  const std::uint32_t* begin = nullptr;  ///< [num_rows]
  const std::uint32_t* end = nullptr;    ///< [num_rows]
  std::int64_t num_rows = 0;
  const std::int32_t* offsets = nullptr;  ///< [num_entries] a column, or a distance in elements: see SparseKernels
};

/// Samples are processed in tiles of 1, 2, 4 ... 2^(kNumTileSizes-1); a table holds one function per size.
inline constexpr int kNumTileSizes = 8;

/// Consecutive positions of a plane are processed in runs of one of these: multiples of 7 divide the usual images.
inline constexpr int kRunWidths[] = {16, 32, 64, 112, 128, 224};
inline constexpr int kNumRunWidths = 6;

/// Both gradients of a tile, of operands that are read once.
template <class Scalar>
struct GradientTile {
  const Scalar* values = nullptr;  ///< [num_entries]
  const Scalar* in = nullptr;      ///< what an entry's offset starts from
  Scalar* out = nullptr;           ///< out[r] (+)= sum over the row's entries of value * in[offset]
  std::int64_t out_stride = 0;
  bool accumulates_out = false;
  bool streams_out = false;  ///< as multiply_positions_streamed, on positions only
  const Scalar* rows =
      nullptr;  ///< gradient[e] (+)= <rows[r], in[offset of e]>; may be `out` where nothing accumulates
  std::int64_t row_stride = 0;
  Scalar* gradient = nullptr;  ///< [num_entries]
  bool accumulates_gradient = false;
};

/// The inner loops of one instruction set. `Scalar` is the type of the arithmetic: float or double.
///
/// Every function sees one tile of `S` samples: a row or column of a dense operand is `S` contiguous scalars. In the
/// functions on *columns* an entry's offset is a column and the operand is packed, `[num_columns][S]`; in those on
/// *positions* the offset is a distance in elements from the operand's start (a convolution's shifted plane).
template <class Scalar>
struct SparseKernels {
  int max_tile_log2 = 0;  ///< larger tiles would spill registers

  /// out[r] (+)= sum over the row's entries of value * in[offset]. Rows of `out` are `out_stride` apart.
  /// Starts from `out` where `accumulate`, else from `bias[r]` (0 where `bias` is null).
  /// `values[e - value_base]` belongs to entry `e`.
  using Multiply = void (*)(const EntryRuns& runs, const Scalar* values, std::uint32_t value_base, const Scalar* in,
                            Scalar* out, std::int64_t out_stride, const Scalar* bias, bool accumulate);
  Multiply multiply_columns[kNumTileSizes] = {};
  Multiply multiply_positions[kNumRunWidths] = {};  ///< by width
  /// The same past the caches: results that would leave them before they are read are not fetched to be overwritten.
  /// `out` and `out_stride` are whole cache lines; others see the results after `finish_streams`.
  Multiply multiply_positions_streamed[kNumRunWidths] = {};
  void (*finish_streams)() = nullptr;
  int num_multiply_widths = 0;

  /// gradient[e - value_base] (+)= <rows[r], in[offset of e]> for every entry `e` of every row `r`.
  using Dot = void (*)(const EntryRuns& runs, const Scalar* rows, std::int64_t row_stride, const Scalar* in,
                       Scalar* gradient, std::uint32_t value_base, bool accumulate);
  Dot dot_columns[kNumTileSizes] = {};
  Dot dot_positions[kNumRunWidths] = {};  ///< by width
  int num_dot_widths = 0;

  /// Multiply and Dot in one pass.
  using MultiplyAndDot = void (*)(const EntryRuns& runs, const GradientTile<Scalar>& tile);
  MultiplyAndDot multiply_and_dot_positions[kNumRunWidths] = {};  ///< by width
  int num_multiply_and_dot_widths = 0;

  /// out[offset of e] += value * rows[r]: the product with the transpose, in row order.
  using Scatter = void (*)(const EntryRuns& runs, const Scalar* values, std::uint32_t value_base, const Scalar* rows,
                           std::int64_t row_stride, Scalar* out);
  Scatter scatter_columns[kNumTileSizes] = {};

  /// to[r][x] = from[r][x] for x in [0, width), then `num_zeros` zeros a row; behind them up to 15 scalars lose their
  /// contents. Rows may be short.
  using CopyRows = void (*)(const Scalar* from, std::int64_t from_stride, std::int64_t num_rows, std::int64_t width,
                            Scalar* to, std::int64_t to_stride, std::int64_t num_zeros);
  CopyRows copy_rows = nullptr;

  /// A tile of a dense product, `product_rows` by `product_columns`: out[r][c] (+)= sum over s of rows[s][r] *
  /// columns[s][c], one product after the other in the order of s. Both operands are packed, `[depth][tile]`.
  using Product = void (*)(const Scalar* rows, const Scalar* columns, std::int64_t depth, Scalar* out,
                           std::int64_t out_stride, bool accumulate);
  Product product = nullptr;
  int product_rows = 0;
  int product_columns = 0;

  /// out[r] (+)= sum of the row's `S` samples.
  using SumRows = void (*)(const Scalar* rows, std::int64_t row_stride, std::int64_t num_rows, int num_samples,
                           Scalar* out, bool accumulate);
  SumRows sum_rows = nullptr;

  /// packed[f][s] = dense[s][f] for f in [0, num_features), zero for s in [num_samples, tile).
  using Pack = void (*)(const Scalar* dense, std::int64_t dense_stride, int num_samples, std::int64_t num_features,
                        Scalar* packed, int tile);
  Pack pack = nullptr;

  /// dense[s][f] = packed[f][s] for s in [0, num_samples).
  using Unpack = void (*)(const Scalar* packed, int tile, int num_samples, std::int64_t num_features, Scalar* dense,
                          std::int64_t dense_stride);
  Unpack unpack = nullptr;
};

/// The table of `instruction_set()`.
template <class Scalar>
const SparseKernels<Scalar>& sparse_kernels();

namespace portable {
template <class Scalar>
const SparseKernels<Scalar>& sparse_kernel_table();
}
namespace avx2 {
template <class Scalar>
const SparseKernels<Scalar>& sparse_kernel_table();
}
namespace avx512 {
template <class Scalar>
const SparseKernels<Scalar>& sparse_kernel_table();
}

}  // namespace itop::cpu
