#pragma once

#include <cstdint>

#include "itop/sparse_matrix.hpp"

namespace itop {

/// A convolution of images `[batch, in_channels, in_height, in_width]`, contiguous.
struct ConvolutionShape {
  std::int64_t in_channels = 0;
  std::int64_t out_channels = 0;
  std::int64_t groups = 1;
  std::int64_t in_height = 0, in_width = 0;
  std::int64_t kernel_height = 1, kernel_width = 1;
  std::int64_t stride_height = 1, stride_width = 1;
  std::int64_t padding_height = 0, padding_width = 0;
  std::int64_t dilation_height = 1, dilation_width = 1;

  std::int64_t out_height() const noexcept {
    return (in_height + 2 * padding_height - dilation_height * (kernel_height - 1) - 1) / stride_height + 1;
  }
  std::int64_t out_width() const noexcept {
    return (in_width + 2 * padding_width - dilation_width * (kernel_width - 1) - 1) / stride_width + 1;
  }
  /// Columns of the weight as a matrix [out_channels, in_channels / groups * kernel_height * kernel_width].
  std::int64_t num_columns() const noexcept { return in_channels / groups * kernel_height * kernel_width; }
};

/// How images are laid out for the kernels: padded planes, a sparse weight being a value and a shift of a plane.
enum class PlaneLayout {
  /// The positions of an image lie side by side: any batch, small working set, shifted loads straddle cache lines.
  kPositions,
  /// 8 images are interleaved: no load straddles cache lines and no border is computed, for an 8-fold working set.
  kInterleaved,
};

/// A sparse convolution's indices for one shape and layout; borrowed.
struct ConvolutionPattern {
  ConvolutionShape shape;
  PlaneLayout layout = PlaneLayout::kPositions;
  /// [out_channels, num_columns], its `columns` replaced by shifts (fill_convolution_shifts); unused by the backward
  /// pass.
  SparsePattern forward;
  /// [num_convolution_planes, out_channels] with permutation, its `columns` replaced by shifts (transpose_convolution);
  /// unused by the forward pass.
  SparsePattern transposed;
};

/// Input planes: one for every input channel and every residue of positions modulo the stride that some tap reads.
std::int64_t num_convolution_planes(const ConvolutionShape& shape);

/// @param columns int32 [num_entries]: positions in the flattened weight [in_channels / groups, height, width]
/// @param shifts  int32 [num_entries], written
/// @throws std::invalid_argument if the shape is no convolution, or too large for 32-bit shifts
void fill_convolution_shifts(const ConvolutionShape& shape, PlaneLayout layout, const std::int64_t* row_pointers,
                             const std::int32_t* columns, std::int32_t* shifts);

/// The transposed pattern: entries ordered by input plane, then by their place in row order.
/// @param plane_pointers int64 [num_convolution_planes + 1], written
/// @param out_channels   int32 [num_entries], written
/// @param permutation    [num_entries], written
/// @param shifts         int32 [num_entries], written
void transpose_convolution(const ConvolutionShape& shape, PlaneLayout layout, const std::int64_t* row_pointers,
                           const std::int32_t* columns, std::int64_t* plane_pointers, std::int32_t* out_channels,
                           std::uint32_t* permutation, std::int32_t* shifts);

/// y = conv(x, W) + bias. Every output is summed by one thread in the order of its channel's entries.
/// @param type   of x, y: float32 or float64
/// @param values [num_entries] in `value_type`, float64 if and only if `type` is
/// @param x      [batch, in_channels, in_height, in_width]
/// @param bias   [out_channels] in `value_type`, or null
/// @param y      [batch, out_channels, out_height, out_width], written
void sparse_convolution_forward(const ConvolutionPattern& pattern, const void* values, ValueType value_type,
                                const void* x, ValueType type, std::int64_t batch, const void* bias, void* y,
                                ThreadPool& pool);

/// What a backward pass is asked for; a null pointer leaves it out.
struct ConvolutionGradients {
  void* input = nullptr;   ///< the shape of x
  void* values = nullptr;  ///< [num_entries] in the type of the values
  void* bias = nullptr;    ///< [out_channels] in the type of the values
};

/// The gradients of `sparse_convolution_forward`; the result does not depend on the number of threads.
void sparse_convolution_backward(const ConvolutionPattern& pattern, const void* values, ValueType value_type,
                                 const void* x, const void* output_gradient, ValueType type, std::int64_t batch,
                                 const ConvolutionGradients& gradients, ThreadPool& pool);

}  // namespace itop
