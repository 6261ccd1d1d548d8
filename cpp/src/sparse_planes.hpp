#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "itop/sparse_convolution.hpp"

namespace itop {

/// Consecutive positions of a plane that a kernel handles together.
struct PositionRun {
  std::int64_t start = 0;
  int width_index = 0;
  int num_repeated = 0;  ///< its first positions, when the runs before cover them already
};

/// The padded grid on which a convolution of any stride is a sum of shifted planes.
///
/// With stride s, tap k reads input s * o + t for t = k * dilation - padding: position o + floor(t / s) of the plane
/// that holds the inputs congruent to t modulo s. Output and input planes share one pitch, wide enough that a shifted
/// read which leaves its row falls on zeros; so the forward pass shifts inputs, the input gradient shifts output
/// gradients back, and the weight gradient is a dot product of shifted planes.
class PlaneGrid {
 public:
  PlaneGrid(const ConvolutionShape& shape, PlaneLayout layout);

  const ConvolutionShape& shape() const noexcept { return shape_; }
  /// Images that share a stack of planes.
  std::int64_t images_per_stack() const noexcept { return interleave_ * images_; }
  bool is_interleaved() const noexcept { return interleave_ > 1; }
  std::int64_t num_phases() const noexcept { return static_cast<std::int64_t>(phases_.size()); }
  std::int64_t num_input_planes() const noexcept { return shape_.in_channels * num_phases(); }
  /// A contiguous batch already is a stack of planes: nothing is packed. True of pointwise convolutions.
  bool is_direct() const noexcept { return direct_; }
  /// Scalars from one plane to the next.
  std::int64_t plane_stride() const noexcept { return plane_stride_; }
  /// Scalars before the first position of a plane.
  std::int64_t front() const noexcept { return front_; }

  /// Rows and columns of a plane, the borders that images share with the next one included.
  std::int64_t num_rows() const noexcept { return vertical_.pitch; }
  std::int64_t num_columns() const noexcept { return horizontal_.pitch; }
  /// Empty rows, and columns, that a shifted read may reach before the first.
  std::int64_t num_empty_rows() const noexcept { return std::max(vertical_.max_shift, -vertical_.min_shift); }
  std::int64_t num_empty_columns() const noexcept { return std::max(horizontal_.max_shift, -horizontal_.min_shift); }
  /// What the largest of an input channel's planes holds of an image.
  std::int64_t num_input_rows() const noexcept;
  std::int64_t num_input_columns() const noexcept;

  /// A plane's picture: `height` x `width` positions, each `step` inputs apart from `first_y`, `first_x` on.
  struct Picture {
    std::int64_t channels, image_height, image_width;
    std::int64_t first_y, first_x, step_y, step_x;
    std::int64_t height, width;
  };
  Picture output_picture() const;
  Picture input_picture(std::int64_t phase) const;

  struct Tap {
    std::int64_t phase;  ///< which of an input channel's planes
    std::int64_t y, x;   ///< positions from an output to the input that is read
  };
  Tap tap(std::int64_t kernel_y, std::int64_t kernel_x) const;
  /// Scalars from an output's position on the first input plane to what a tap reads.
  std::int64_t input_shift(std::int64_t in_channel, const Tap& tap) const noexcept;
  /// Scalars from an input's position on the first output plane to the output that a tap reads it for.
  std::int64_t output_shift(std::int64_t out_channel, const Tap& tap) const noexcept;

  // Where images lie side by side; sparse_interleaved.hpp has the other layout.

  /// What the kernels walk for the outputs, or for the inputs' gradients, of `num_images` images.
  /// @param num_widths how many of the kernels' widths may be used
  std::vector<PositionRun> output_runs(std::int64_t num_images, int num_widths) const;
  std::vector<PositionRun> input_runs(std::int64_t num_images, int num_widths) const;
  /// Of the inputs, for dot products: in them a position that two runs cover must not count twice.
  std::vector<PositionRun> dot_runs(std::int64_t num_images, int num_widths) const;

  /// Planes [first, last) of a stack from images `[num_images, channels, ...]`; all that is no image becomes zero.
  template <class Scalar>
  void pack_inputs(const Scalar* images, std::int64_t num_images, std::int64_t first, std::int64_t last,
                   Scalar* planes) const;
  template <class Scalar>
  void pack_outputs(const Scalar* images, std::int64_t num_images, std::int64_t first, std::int64_t last,
                    Scalar* planes) const;

  /// Images from planes. `planes` points to the first of them; inputs that no tap reads become zero.
  template <class Scalar>
  void unpack_outputs(const Scalar* planes, std::int64_t num_images, std::int64_t first, std::int64_t last,
                      Scalar* images) const;
  template <class Scalar>
  void unpack_inputs(const Scalar* planes, std::int64_t num_images, std::int64_t first_channel,
                     std::int64_t last_channel, Scalar* images) const;

 private:
  struct Phase {
    std::int64_t y, x;
  };
  struct Extent {
    std::int64_t pitch, min_shift, max_shift;
  };

  static Extent extent(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride,
                       std::int64_t padding, std::int64_t dilation);
  std::vector<PositionRun> runs(std::int64_t num_images, std::int64_t height, std::int64_t width, int num_widths,
                                bool copies_last) const;
  template <class Scalar>
  void pack_plane(const Picture& picture, const Scalar* channel, std::int64_t num_images, Scalar* plane) const;
  template <class Scalar>
  void unpack_plane(const Picture& picture, const Scalar* plane, std::int64_t num_images, Scalar* channel) const;

  ConvolutionShape shape_;
  bool direct_ = false;
  std::int64_t interleave_ = 1;
  std::int64_t images_ = 1;  ///< stacked one below the other in a plane
  Extent vertical_{};
  Extent horizontal_{};
  std::vector<Phase> phases_;
  std::vector<std::int64_t> phase_index_;  ///< [stride_height, stride_width], -1 where no tap reads
  std::int64_t front_ = 0;
  std::int64_t plane_stride_ = 0;
};

}  // namespace itop
