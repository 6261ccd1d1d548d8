#include "sparse_planes.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>

#include "cpu/sparse_image_kernels.hpp"
#include "cpu/sparse_kernels.hpp"
#include "itop/sparse_scratch.hpp"

namespace itop {
namespace {

constexpr std::int64_t kLineScalars = 16;  // of the narrower type
constexpr std::int64_t kMinRun = cpu::kRunWidths[0];

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t floor_divide(std::int64_t a, std::int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

/// The cheapest runs that cover `count` positions; the last may reach beyond them by less than the narrowest, at a
/// price where its rows are copied for that.
std::vector<PositionRun> cover(std::int64_t count, int num_widths, bool copies_last) {
  constexpr std::int64_t kCostOfARun = 32;  // in positions: what a row of weights begins and ends with
  std::vector<PositionRun> runs;
  const std::int64_t widest = cpu::kRunWidths[num_widths - 1];
  std::int64_t covered = 0;
  for (; count > 4 * widest; covered += widest, count -= widest) runs.push_back({covered, num_widths - 1});
  std::vector<std::int64_t> cost(static_cast<std::size_t>(count) + 1, 0);
  std::vector<int> first(static_cast<std::size_t>(count) + 1, 0);
  for (std::int64_t left = 1; left <= count; ++left) {
    for (int index = 0; index < num_widths; ++index) {
      const std::int64_t width = cpu::kRunWidths[index];
      if (width >= left + kMinRun) break;
      const std::int64_t behind = std::max<std::int64_t>(0, left - width);
      const std::int64_t total =
          cost[static_cast<std::size_t>(behind)] + width + kCostOfARun + (copies_last && width > left ? width : 0);
      if (index > 0 && total > cost[static_cast<std::size_t>(left)]) continue;
      cost[static_cast<std::size_t>(left)] = total;
      first[static_cast<std::size_t>(left)] = index;
    }
  }
  for (std::int64_t start = 0; start < count;) {
    const int index = first[static_cast<std::size_t>(count - start)];
    runs.push_back({covered + start, index});
    start += cpu::kRunWidths[index];
  }
  return runs;
}

template <class Scalar>
void zero(Scalar* from, const Scalar* to) {
  if (to - from >= 64) {
    std::memset(from, 0, static_cast<std::size_t>(to - from) * sizeof(Scalar));
  } else {
    for (; from < to; ++from) *from = 0;
  }
}

void check(const ConvolutionShape& shape) {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(std::string("a convolution needs ") + what);
  };
  require(shape.in_channels > 0 && shape.out_channels > 0, "channels");
  require(shape.groups > 0 && shape.in_channels % shape.groups == 0 && shape.out_channels % shape.groups == 0,
          "groups that divide its channels");
  require(shape.kernel_height > 0 && shape.kernel_width > 0, "a kernel of at least 1x1");
  require(shape.stride_height > 0 && shape.stride_width > 0, "a stride of at least 1");
  require(shape.dilation_height > 0 && shape.dilation_width > 0, "a dilation of at least 1");
  require(shape.padding_height >= 0 && shape.padding_width >= 0, "a padding of at least 0");
  require(shape.in_height + 2 * shape.padding_height > shape.dilation_height * (shape.kernel_height - 1) &&
              shape.in_width + 2 * shape.padding_width > shape.dilation_width * (shape.kernel_width - 1),
          "images that are not smaller than its kernel");
}

}  // namespace

PlaneGrid::Extent PlaneGrid::extent(std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride,
                                    std::int64_t padding, std::int64_t dilation) {
  const std::int64_t min_shift = std::min<std::int64_t>(0, floor_divide(-padding, stride));
  const std::int64_t max_shift = std::max<std::int64_t>(0, floor_divide((kernel - 1) * dilation - padding, stride));
  return {std::max(divide_up(in, stride) - min_shift, out + max_shift), min_shift, max_shift};
}

PlaneGrid::PlaneGrid(const ConvolutionShape& shape, PlaneLayout layout) : shape_(shape) {
  check(shape);
  interleave_ = layout == PlaneLayout::kInterleaved ? cpu::kImages : 1;
  vertical_ = extent(shape.in_height, shape.out_height(), shape.kernel_height, shape.stride_height,
                     shape.padding_height, shape.dilation_height);
  horizontal_ = extent(shape.in_width, shape.out_width(), shape.kernel_width, shape.stride_width, shape.padding_width,
                       shape.dilation_width);

  phase_index_.assign(static_cast<std::size_t>(shape.stride_height * shape.stride_width), -1);
  for (std::int64_t ky = 0; ky < shape.kernel_height; ++ky) {
    for (std::int64_t kx = 0; kx < shape.kernel_width; ++kx) {
      const std::int64_t ty = ky * shape.dilation_height - shape.padding_height;
      const std::int64_t tx = kx * shape.dilation_width - shape.padding_width;
      const Phase phase{ty - floor_divide(ty, shape.stride_height) * shape.stride_height,
                        tx - floor_divide(tx, shape.stride_width) * shape.stride_width};
      auto& index = phase_index_[static_cast<std::size_t>(phase.y * shape.stride_width + phase.x)];
      if (index >= 0) continue;
      index = static_cast<std::int64_t>(phases_.size());
      phases_.push_back(phase);
    }
  }

  const std::int64_t image_size = shape.in_height * shape.in_width;
  const bool pointwise = shape.kernel_height == 1 && shape.kernel_width == 1 && shape.stride_height == 1 &&
                         shape.stride_width == 1 && shape.padding_height == 0 && shape.padding_width == 0;
  if (pointwise && interleave_ == 1 && image_size >= kMinRun) {
    direct_ = true;
    plane_stride_ = image_size;
    return;
  }

  const std::int64_t positions = vertical_.pitch * horizontal_.pitch;
  const std::int64_t planes = std::max(num_input_planes(), shape.out_channels);
  std::int64_t scalars = 0;
  if (is_interleaved()) {
    // Row by row: what a kernel reads for a few rows of all planes lies together.
    plane_stride_ = horizontal_.pitch * interleave_;
    scalars = planes * plane_stride_ * (num_rows() + num_empty_rows());
  } else {
    // Small images are stacked until a run is long and the values of a channel are read for many positions.
    images_ = std::clamp<std::int64_t>(512 / positions, 1, 8);
    const std::int64_t reach = num_empty_rows() * horizontal_.pitch + num_empty_columns();
    front_ = divide_up(reach, kLineScalars) * kLineScalars;
    std::int64_t lines = divide_up(2 * front_ + images_ * positions + kMinRun, kLineScalars);
    lines |= 1;  // an odd number of cache lines: equal positions of neighbouring planes fall into different sets
    plane_stride_ = lines * kLineScalars;
    scalars = planes * plane_stride_;
  }
  if (scalars > std::numeric_limits<std::int32_t>::max()) {
    throw std::invalid_argument("the convolution's planes are too large for 32-bit shifts: " + std::to_string(planes) +
                                " of " + std::to_string(scalars / planes));
  }
}

PlaneGrid::Tap PlaneGrid::tap(std::int64_t kernel_y, std::int64_t kernel_x) const {
  const std::int64_t ty = kernel_y * shape_.dilation_height - shape_.padding_height;
  const std::int64_t tx = kernel_x * shape_.dilation_width - shape_.padding_width;
  const std::int64_t dy = floor_divide(ty, shape_.stride_height);
  const std::int64_t dx = floor_divide(tx, shape_.stride_width);
  const std::int64_t phase_y = ty - dy * shape_.stride_height;
  const std::int64_t phase_x = tx - dx * shape_.stride_width;
  return {phase_index_[static_cast<std::size_t>(phase_y * shape_.stride_width + phase_x)], dy, dx};
}

std::int64_t PlaneGrid::input_shift(std::int64_t in_channel, const Tap& tap) const noexcept {
  const std::int64_t row_stride = horizontal_.pitch * (is_interleaved() ? interleave_ * num_input_planes() : 1);
  return (in_channel * num_phases() + tap.phase) * plane_stride_ + tap.y * row_stride + tap.x * interleave_;
}

std::int64_t PlaneGrid::output_shift(std::int64_t out_channel, const Tap& tap) const noexcept {
  const std::int64_t row_stride = horizontal_.pitch * (is_interleaved() ? interleave_ * shape_.out_channels : 1);
  return out_channel * plane_stride_ - tap.y * row_stride - tap.x * interleave_;
}

std::vector<PositionRun> PlaneGrid::runs(std::int64_t num_images, std::int64_t height, std::int64_t width,
                                         int num_widths, bool copies_last) const {
  if (!direct_) {
    // One stretch over rows and borders: borders cost a little arithmetic, short runs would cost more.
    return cover((num_images - 1) * vertical_.pitch * horizontal_.pitch + (height - 1) * horizontal_.pitch + width,
                 num_widths, false);
  }
  // What follows a plane is another one: the last run starts early instead of ending late.
  while (num_widths > 1 && cpu::kRunWidths[num_widths - 1] > plane_stride_) --num_widths;
  std::vector<PositionRun> result = cover(plane_stride_, num_widths, copies_last);
  for (PositionRun& run : result) {
    const std::int64_t latest = plane_stride_ - cpu::kRunWidths[run.width_index];
    run.num_repeated = static_cast<int>(std::max<std::int64_t>(0, run.start - latest));
    run.start -= run.num_repeated;
  }
  return result;
}

std::vector<PositionRun> PlaneGrid::output_runs(std::int64_t num_images, int num_widths) const {
  return runs(num_images, shape_.out_height(), shape_.out_width(), num_widths, false);
}

std::vector<PositionRun> PlaneGrid::input_runs(std::int64_t num_images, int num_widths) const {
  return runs(num_images, num_input_rows(), num_input_columns(), num_widths, false);
}

std::vector<PositionRun> PlaneGrid::dot_runs(std::int64_t num_images, int num_widths) const {
  return runs(num_images, num_input_rows(), num_input_columns(), num_widths, true);
}

std::int64_t PlaneGrid::num_input_rows() const noexcept { return divide_up(shape_.in_height, shape_.stride_height); }

std::int64_t PlaneGrid::num_input_columns() const noexcept { return divide_up(shape_.in_width, shape_.stride_width); }

PlaneGrid::Picture PlaneGrid::output_picture() const {
  const std::int64_t height = shape_.out_height();
  const std::int64_t width = shape_.out_width();
  return {shape_.out_channels, height, width, 0, 0, 1, 1, height, width};
}

PlaneGrid::Picture PlaneGrid::input_picture(std::int64_t index) const {
  const Phase& phase = phases_[static_cast<std::size_t>(index)];
  const auto count = [](std::int64_t in, std::int64_t first, std::int64_t step) {
    return in <= first ? 0 : divide_up(in - first, step);
  };
  return {shape_.in_channels,
          shape_.in_height,
          shape_.in_width,
          phase.y,
          phase.x,
          shape_.stride_height,
          shape_.stride_width,
          count(shape_.in_height, phase.y, shape_.stride_height),
          count(shape_.in_width, phase.x, shape_.stride_width)};
}

template <class Scalar>
void PlaneGrid::pack_plane(const Picture& picture, const Scalar* channel, std::int64_t num_images,
                           Scalar* plane) const {
  const std::int64_t image_stride = picture.channels * picture.image_height * picture.image_width;
  const std::int64_t pitch = horizontal_.pitch;
  Scalar* written = plane;  // everything before it is final
  for (std::int64_t image = 0; image < num_images; ++image) {
    Scalar* to = plane + front_ + image * vertical_.pitch * pitch;
    const Scalar* from = channel + image * image_stride + picture.first_y * picture.image_width + picture.first_x;
    zero(written, to);
    if (picture.step_x == 1) {
      cpu::sparse_kernels<Scalar>().copy_rows(from, picture.step_y * picture.image_width, picture.height, picture.width,
                                              to, pitch, pitch - picture.width);
      to += picture.height * pitch;
    } else {
      for (std::int64_t y = 0; y < picture.height; ++y, to += pitch, from += picture.step_y * picture.image_width) {
        for (std::int64_t x = 0; x < picture.width; ++x) to[x] = from[x * picture.step_x];
        zero(to + picture.width, to + pitch);
      }
    }
    written = to;
  }
  zero(written, plane + plane_stride_);
}

template <class Scalar>
void PlaneGrid::unpack_plane(const Picture& picture, const Scalar* plane, std::int64_t num_images,
                             Scalar* channel) const {
  const std::int64_t image_stride = picture.channels * picture.image_height * picture.image_width;
  const std::int64_t pitch = horizontal_.pitch;
  for (std::int64_t image = 0; image < num_images; ++image) {
    const Scalar* from = plane + front_ + image * vertical_.pitch * pitch;
    Scalar* to = channel + image * image_stride + picture.first_y * picture.image_width + picture.first_x;
    if (picture.step_x == 1) {
      cpu::sparse_kernels<Scalar>().copy_rows(from, pitch, picture.height, picture.width, to,
                                              picture.step_y * picture.image_width, 0);
      continue;
    }
    for (std::int64_t y = 0; y < picture.height; ++y, from += pitch, to += picture.step_y * picture.image_width) {
      for (std::int64_t x = 0; x < picture.width; ++x) to[x * picture.step_x] = from[x];
    }
  }
}

template <class Scalar>
void PlaneGrid::pack_inputs(const Scalar* images, std::int64_t num_images, std::int64_t first, std::int64_t last,
                            Scalar* planes) const {
  const std::int64_t image_size = shape_.in_height * shape_.in_width;
  for (std::int64_t index = first; index < last; ++index) {
    pack_plane(input_picture(index % num_phases()), images + index / num_phases() * image_size, num_images,
               planes + (index - first) * plane_stride_);
  }
}

template <class Scalar>
void PlaneGrid::pack_outputs(const Scalar* images, std::int64_t num_images, std::int64_t first, std::int64_t last,
                             Scalar* planes) const {
  const std::int64_t image_size = shape_.out_height() * shape_.out_width();
  for (std::int64_t index = first; index < last; ++index) {
    pack_plane(output_picture(), images + index * image_size, num_images, planes + (index - first) * plane_stride_);
  }
}

template <class Scalar>
void PlaneGrid::unpack_outputs(const Scalar* planes, std::int64_t num_images, std::int64_t first, std::int64_t last,
                               Scalar* images) const {
  const std::int64_t image_size = shape_.out_height() * shape_.out_width();
  for (std::int64_t index = first; index < last; ++index) {
    unpack_plane(output_picture(), planes + (index - first) * plane_stride_, num_images, images + index * image_size);
  }
}

template <class Scalar>
void PlaneGrid::unpack_inputs(const Scalar* planes, std::int64_t num_images, std::int64_t first_channel,
                              std::int64_t last_channel, Scalar* images) const {
  const std::int64_t image_size = shape_.in_height * shape_.in_width;
  const bool unread = num_phases() < shape_.stride_height * shape_.stride_width;
  for (std::int64_t channel = first_channel; channel < last_channel; ++channel) {
    Scalar* const to = images + channel * image_size;
    for (std::int64_t image = 0; unread && image < num_images; ++image) {
      std::fill_n(to + image * shape_.in_channels * image_size, image_size, Scalar{0});
    }
    for (std::int64_t phase = 0; phase < num_phases(); ++phase) {
      unpack_plane(input_picture(phase), planes + ((channel - first_channel) * num_phases() + phase) * plane_stride_,
                   num_images, to);
    }
  }
}

#define ITOP_INSTANTIATE(Scalar)                                                                                    \
  template void PlaneGrid::pack_inputs<Scalar>(const Scalar*, std::int64_t, std::int64_t, std::int64_t, Scalar*)    \
      const;                                                                                                        \
  template void PlaneGrid::pack_outputs<Scalar>(const Scalar*, std::int64_t, std::int64_t, std::int64_t, Scalar*)   \
      const;                                                                                                        \
  template void PlaneGrid::unpack_outputs<Scalar>(const Scalar*, std::int64_t, std::int64_t, std::int64_t, Scalar*) \
      const;                                                                                                        \
  template void PlaneGrid::unpack_inputs<Scalar>(const Scalar*, std::int64_t, std::int64_t, std::int64_t, Scalar*)  \
      const;
ITOP_INSTANTIATE(float)
ITOP_INSTANTIATE(double)
#undef ITOP_INSTANTIATE

}  // namespace itop
