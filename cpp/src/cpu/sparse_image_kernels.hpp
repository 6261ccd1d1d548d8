#pragma once

#include <cstdint>

#include "cpu/sparse_kernels.hpp"

namespace itop::cpu {

/// Images that are interleaved: a position is `kImages` contiguous scalars, a vector of 8 floats.
inline constexpr int kImages = 8;

/// Neighbouring positions of a row that a kernel handles together: their sums fill the registers, their number divides
/// the usual widths of images.
inline constexpr int kTileWidths[] = {1, 2, 4, 7, 8, 14};
inline constexpr int kNumTileWidths = 6;

/// The inner loops of convolutions over interleaved images. An entry's offset is a distance in elements; every read is
/// aligned to a position, so that none straddles two cache lines.
template <class Scalar>
struct SparseImageKernels {
  int num_multiply_widths = 0;  ///< wider tiles would spill registers
  int num_dot_widths = 0;
  int num_multiply_and_dot_widths = 0;

  /// out[r] (+)= sum over the row's entries of value * in[offset], on a tile of positions: SparseKernels::Multiply.
  using Multiply = void (*)(const EntryRuns& runs, const Scalar* values, const Scalar* in, Scalar* out,
                            std::int64_t out_stride, const Scalar* bias, bool accumulate);
  Multiply multiply[kNumTileWidths] = {};

  /// gradient[e] (+)= <rows[r], in[offset of e]> on a tile of positions: SparseKernels::Dot.
  using Dot = void (*)(const EntryRuns& runs, const Scalar* rows, std::int64_t row_stride, const Scalar* in,
                       Scalar* gradient, bool accumulate);
  Dot dot[kNumTileWidths] = {};

  typename SparseKernels<Scalar>::MultiplyAndDot multiply_and_dot[kNumTileWidths] = {};

  /// packed[p][i] = images[i][p] for p in [0, count).
  using Interleave = void (*)(const Scalar* const* images, std::int64_t count, Scalar* packed);
  Interleave interleave = nullptr;

  /// images[i][p] = packed[p][i] for p in [0, count); the first null pointer ends the images.
  using Separate = void (*)(const Scalar* packed, std::int64_t count, Scalar* const* images);
  Separate separate = nullptr;
};

/// The table of `instruction_set()`.
template <class Scalar>
const SparseImageKernels<Scalar>& sparse_image_kernels();

namespace portable {
template <class Scalar>
const SparseImageKernels<Scalar>& sparse_image_kernel_table();
}
namespace avx2 {
template <class Scalar>
const SparseImageKernels<Scalar>& sparse_image_kernel_table();
}
namespace avx512 {
template <class Scalar>
const SparseImageKernels<Scalar>& sparse_image_kernel_table();
}

}  // namespace itop::cpu
