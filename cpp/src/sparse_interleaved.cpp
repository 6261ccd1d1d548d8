#include "sparse_interleaved.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/sparse_image_kernels.hpp"
#include "itop/sparse_scratch.hpp"

namespace itop {
namespace {

using cpu::kImages;

// What a strip reads and writes should stay in the second-level cache.
constexpr std::int64_t kStripBytes = std::int64_t{512} << 10;

template <class Scalar>
void copy_positions(const Scalar* from, std::int64_t count, std::int64_t from_step, Scalar* to, std::int64_t to_step) {
  for (std::int64_t p = 0; p < count; ++p) {
    std::memcpy(to + p * to_step * kImages, from + p * from_step * kImages, kImages * sizeof(Scalar));
  }
}

/// A group of images, one pointer each; where there are fewer than a vector holds, the rest point to zeros, or to
/// nothing where they are to be written.
template <class Scalar>
class ImageGroup {
 public:
  /// @param images    [num_images, channels, size]
  /// @param most_read positions that are read at once
  ImageGroup(Scalar* images, std::int64_t num_images, std::int64_t channels, std::int64_t size,
             std::int64_t most_read = 0)
      : size_(size),
        num_images_(num_images),
        image_stride_(channels * size),
        images_(images),
        zeros_(num_images == kImages ? 0 : static_cast<std::size_t>(most_read) * sizeof(Scalar)) {
    if (num_images < kImages) std::fill_n(zeros_.template as<std::remove_const_t<Scalar>>(), most_read, Scalar{0});
  }

  /// Calls `body` with the images' pointers to a position of a channel.
  template <class Body>
  void at(std::int64_t channel, std::int64_t position, Body&& body) const {
    Scalar* pointers[kImages];
    for (std::int64_t i = 0; i < kImages; ++i) {
      pointers[i] =
          i < num_images_ ? images_ + i * image_stride_ + channel * size_ + position : zeros_.template as<Scalar>();
    }
    body(pointers);
  }

 private:
  std::int64_t size_;
  std::int64_t num_images_;
  std::int64_t image_stride_;
  Scalar* images_;
  ScratchLease zeros_;  ///< null in a group that is written
};

/// The planes of a group, packed from above as far as they are needed.
template <class Scalar>
class GroupPlanes {
 public:
  /// @param pictures those of a channel's planes
  GroupPlanes(const PlaneGrid& grid, std::vector<PlaneGrid::Picture> pictures, const Scalar* images,
              std::int64_t num_images)
      : grid_(grid),
        pictures_(std::move(pictures)),
        num_planes_(static_cast<std::int64_t>(pictures_.size()) * pictures_[0].channels),
        group_(images, num_images, pictures_[0].channels, pictures_[0].image_height * pictures_[0].image_width,
               pictures_[0].image_height * pictures_[0].image_width),
        memory_(static_cast<std::size_t>(num_planes_ * grid.plane_stride()) * sizeof(Scalar)) {}

  /// The first position of the first plane.
  const Scalar* data() const noexcept { return memory_.template as<const Scalar>() + grid_.front(); }

  /// Rows before `end` are packed from now on.
  void pack_until(std::int64_t end, bool alone, ThreadPool& pool) {
    end = std::min(end, grid_.num_rows());
    if (end <= packed_) return;
    in_pieces(num_planes_, alone, pool, [&](std::int64_t first, std::int64_t last) {
      const ScratchLease rows(static_cast<std::size_t>((end - packed_) * pictures_[0].image_width * kImages) *
                              sizeof(Scalar));
      for (std::int64_t plane = first; plane < last; ++plane) pack(plane, packed_, end, rows.as<Scalar>());
    });
    packed_ = end;
  }

 private:
  void pack(std::int64_t plane, std::int64_t first, std::int64_t end, Scalar* rows) const {
    const auto& kernels = cpu::sparse_image_kernels<Scalar>();
    const auto num_phases = static_cast<std::int64_t>(pictures_.size());
    const PlaneGrid::Picture& picture = pictures_[static_cast<std::size_t>(plane % num_phases)];
    const std::int64_t width = picture.image_width;
    Scalar* const start = memory_.template as<Scalar>() + plane * grid_.plane_stride();
    Scalar* const origin = start + grid_.front();
    if (first == 0) std::fill(start, origin, Scalar{0});
    const std::int64_t last = std::min(end, picture.height);
    const bool in_place = picture.step_x == 1 && picture.width >= kImages;
    const bool at_once = !in_place && picture.step_y == 1 && first < last;
    const auto interleave = [&](std::int64_t y, std::int64_t x, std::int64_t count, Scalar* to) {
      group_.at(plane / num_phases, (picture.first_y + y * picture.step_y) * width + x,
                [&](const Scalar* const* images) { kernels.interleave(images, count, to); });
    };
    if (at_once) interleave(first, 0, (last - first) * width, rows);
    for (std::int64_t y = first; y < last; ++y) {
      Scalar* const to = origin + y * grid_.row_stride();
      if (in_place) {
        interleave(y, picture.first_x, picture.width, to);
      } else {
        Scalar* const row = at_once ? rows + (y - first) * width * kImages : rows;
        if (!at_once) interleave(y, 0, width, row);
        copy_positions(row + picture.first_x * kImages, picture.width, picture.step_x, to, 1);
      }
      std::fill(to + picture.width * kImages, to + grid_.row_stride(), Scalar{0});
    }
    const std::int64_t empty = std::max(first, std::min(last, picture.height));
    if (empty < end) std::fill(origin + empty * grid_.row_stride(), origin + end * grid_.row_stride(), Scalar{0});
  }

  const PlaneGrid& grid_;
  std::vector<PlaneGrid::Picture> pictures_;
  std::int64_t num_planes_;
  ImageGroup<const Scalar> group_;
  ScratchLease memory_;
  std::int64_t packed_ = 0;
};

/// Positions of a row that a kernel handles together.
struct Tile {
  std::int64_t x;
  int width_index;
};

/// Cuts a row so that the fewest and fullest tiles cover it.
std::vector<Tile> tiles_of(std::int64_t width, int num_widths) {
  constexpr std::int64_t kCostOfATile = 3;  // in positions: what a row of weights begins and ends with
  std::vector<std::int64_t> cost(static_cast<std::size_t>(width) + 1, 0);
  std::vector<int> last(static_cast<std::size_t>(width) + 1, 0);
  for (std::int64_t w = 1; w <= width; ++w) {
    for (int index = 0; index < num_widths && cpu::kTileWidths[index] <= w; ++index) {
      const std::int64_t tile = cpu::kTileWidths[index];
      const std::int64_t total = cost[static_cast<std::size_t>(w - tile)] + tile + kCostOfATile;
      if (index == 0 || total <= cost[static_cast<std::size_t>(w)]) {
        cost[static_cast<std::size_t>(w)] = total;
        last[static_cast<std::size_t>(w)] = index;
      }
    }
  }
  std::vector<Tile> tiles;
  for (std::int64_t w = width; w > 0;) {
    const int index = last[static_cast<std::size_t>(w)];
    w -= cpu::kTileWidths[index];
    tiles.push_back({w, index});
  }
  std::reverse(tiles.begin(), tiles.end());
  return tiles;
}

/// Rows that a pass takes at a time: as many as the cache holds beside those the taps reach over, and enough for whole
/// vectors.
std::int64_t rows_per_strip(std::int64_t height, std::int64_t width, std::int64_t bytes_per_row,
                            std::int64_t bytes_of_reach) {
  const std::int64_t rows = std::max((kStripBytes - bytes_of_reach) / std::max<std::int64_t>(1, bytes_per_row),
                                     (std::int64_t{2} * kImages + width - 1) / width);
  return std::clamp<std::int64_t>(rows, 1, height);
}

/// A strip of results: [rows of the pattern][rows of the strip][width][kImages].
template <class Scalar>
void multiply_strip(const PlaneGrid& grid, const SparsePattern& pattern, const Scalar* values, const Scalar* in,
                    const std::vector<Tile>& tiles, std::int64_t width, std::int64_t first_y, std::int64_t last_y,
                    std::int64_t first, std::int64_t last, const Scalar* bias, Scalar* strip) {
  const auto& kernels = cpu::sparse_image_kernels<Scalar>();
  const std::int64_t out_stride = (last_y - first_y) * width * kImages;
  for (std::int64_t y = first_y; y < last_y; ++y) {
    for (const Tile& tile : tiles) {
      Scalar* const out = strip + first * out_stride + ((y - first_y) * width + tile.x) * kImages;
      for (std::int64_t block = 0; block < pattern.num_blocks(); ++block) {
        kernels.multiply[tile.width_index](runs_of(pattern, block, first, last), values,
                                           in + y * grid.row_stride() + tile.x * kImages, out, out_stride,
                                           bias == nullptr ? nullptr : bias + first, block > 0);
      }
    }
  }
}

/// Input channels [first, last) of a strip of gradients [planes][last_y - first_y][width][kImages], to images.
template <class Scalar>
void separate_inputs(const PlaneGrid& grid, const Scalar* strip, std::int64_t width, std::int64_t first_y,
                     std::int64_t last_y, std::int64_t first, std::int64_t last, const ImageGroup<Scalar>& images) {
  const auto& kernels = cpu::sparse_image_kernels<Scalar>();
  const ConvolutionShape& shape = grid.shape();
  const std::int64_t first_row = first_y * shape.stride_height;
  const std::int64_t last_row = std::min(shape.in_height, last_y * shape.stride_height);
  const std::int64_t count = (last_row - first_row) * shape.in_width;
  const std::int64_t plane_size = (last_y - first_y) * width * kImages;
  const bool is_strided = shape.stride_height > 1 || shape.stride_width > 1;
  const ScratchLease merged(is_strided ? static_cast<std::size_t>(count * kImages) * sizeof(Scalar) : 0);
  if (is_strided) std::fill_n(merged.as<Scalar>(), count * kImages, Scalar{0});  // inputs that no tap reads stay zero
  for (std::int64_t channel = first; channel < last; ++channel) {
    const Scalar* from = strip + channel * grid.num_phases() * plane_size;
    for (std::int64_t phase = 0; is_strided && phase < grid.num_phases(); ++phase) {
      const PlaneGrid::Picture picture = grid.input_picture(phase);
      for (std::int64_t y = first_y; y < std::min(last_y, picture.height); ++y) {
        copy_positions(
            from + phase * plane_size + (y - first_y) * width * kImages, picture.width, 1,
            merged.as<Scalar>() +
                ((picture.first_y + y * picture.step_y - first_row) * shape.in_width + picture.first_x) * kImages,
            picture.step_x);
      }
    }
    if (is_strided) from = merged.as<Scalar>();
    images.at(channel, first_row * shape.in_width,
              [&](Scalar* const* pointers) { kernels.separate(from, count, pointers); });
  }
}

std::vector<PlaneGrid::Picture> input_pictures(const PlaneGrid& grid) {
  std::vector<PlaneGrid::Picture> pictures;
  for (std::int64_t phase = 0; phase < grid.num_phases(); ++phase) pictures.push_back(grid.input_picture(phase));
  return pictures;
}

}  // namespace

template <class Scalar>
void interleaved_forward(const PlaneGrid& grid, const ConvolutionPattern& pattern, const Scalar* values,
                         const Scalar* x, std::int64_t batch, const Scalar* bias, Scalar* y, ThreadPool& pool) {
  const auto& kernels = cpu::sparse_image_kernels<Scalar>();
  const ConvolutionShape& shape = pattern.shape;
  const std::int64_t in_size = shape.in_channels * shape.in_height * shape.in_width;
  const std::int64_t width = shape.out_width();
  const std::int64_t height = shape.out_height();
  const std::vector<Tile> tiles = tiles_of(width, kernels.num_multiply_widths);
  const auto scalar_size = static_cast<std::int64_t>(sizeof(Scalar));
  const std::int64_t in_row_bytes = grid.num_input_planes() * grid.row_stride() * scalar_size;
  const std::int64_t out_row_bytes = shape.out_channels * width * kImages * scalar_size;
  const std::int64_t num_rows = rows_per_strip(height, width, in_row_bytes + out_row_bytes,
                                               in_row_bytes * (grid.rows_above() + grid.rows_below()));
  const std::int64_t num_groups = (batch + kImages - 1) / kImages;
  const bool alone = num_groups < pool.num_threads();

  const auto run_group = [&](std::int64_t group) {
    const std::int64_t first_image = group * kImages;
    const std::int64_t num_images = std::min<std::int64_t>(kImages, batch - first_image);
    GroupPlanes<Scalar> in(grid, input_pictures(grid), x + first_image * in_size, num_images);
    const ImageGroup<Scalar> out(y + first_image * shape.out_channels * height * width, num_images, shape.out_channels,
                                 height * width);
    const ScratchLease strip(static_cast<std::size_t>(num_rows * out_row_bytes));
    for (std::int64_t first_y = 0; first_y < height; first_y += num_rows) {
      const std::int64_t last_y = std::min(height, first_y + num_rows);
      in.pack_until(last_y + grid.rows_below(), alone, pool);
      in_pieces(shape.out_channels, alone, pool, [&](std::int64_t first, std::int64_t last) {
        multiply_strip(grid, pattern.forward, values, in.data(), tiles, width, first_y, last_y, first, last, bias,
                       strip.as<Scalar>());
        const std::int64_t count = (last_y - first_y) * width;
        for (std::int64_t channel = first; channel < last; ++channel) {
          out.at(channel, first_y * width, [&](Scalar* const* images) {
            kernels.separate(strip.as<Scalar>() + channel * count * kImages, count, images);
          });
        }
      });
    }
  };
  if (alone) {
    for (std::int64_t group = 0; group < num_groups; ++group) run_group(group);
  } else {
    pool.parallel_for(num_groups, run_group);
  }
}

template <class Scalar>
void interleaved_backward(const PlaneGrid& grid, const ConvolutionPattern& pattern, const Scalar* values,
                          const Scalar* x, const Scalar* output_gradient, std::int64_t batch, Scalar* input_gradient,
                          const SliceSums<Scalar>& sums, ThreadPool& pool) {
  const auto& kernels = cpu::sparse_image_kernels<Scalar>();
  const ConvolutionShape& shape = pattern.shape;
  const std::int64_t in_area = shape.in_height * shape.in_width;
  const std::int64_t out_size = shape.out_channels * shape.out_height() * shape.out_width();
  const std::int64_t in_width = grid.num_input_columns();
  const std::int64_t in_height = grid.num_input_rows();
  const std::vector<Tile> in_tiles = tiles_of(in_width, kernels.num_multiply_widths);
  const std::vector<Tile> out_tiles = tiles_of(shape.out_width(), kernels.num_dot_widths);
  const auto scalar_size = static_cast<std::int64_t>(sizeof(Scalar));
  const std::int64_t row_bytes = grid.row_stride() * scalar_size;
  const std::int64_t packed_row_bytes =
      (grid.num_input_planes() * (sums.wants_values() ? 1 : 0) + shape.out_channels) * row_bytes;
  const std::int64_t gradient_row_bytes = grid.num_input_planes() * in_width * kImages * scalar_size;
  const std::int64_t height = std::max(in_height, shape.out_height());
  const std::int64_t num_rows = rows_per_strip(height, shape.out_width(), packed_row_bytes + gradient_row_bytes,
                                               packed_row_bytes * (grid.rows_above() + grid.rows_below()));

  sums.for_each_stack(pool, [&](std::int64_t group, const typename SliceSums<Scalar>::Slice& slice, bool alone) {
    const std::int64_t first_image = group * kImages;
    const std::int64_t num_images = std::min<std::int64_t>(kImages, batch - first_image);
    const bool wants_values = sums.wants_values();
    GroupPlanes<Scalar> out(grid, {grid.output_picture()}, output_gradient + first_image * out_size, num_images);
    GroupPlanes<Scalar> in(grid, input_pictures(grid), x + first_image * shape.in_channels * in_area, num_images);
    const ImageGroup<Scalar> gradient(
        input_gradient == nullptr ? nullptr : input_gradient + first_image * shape.in_channels * in_area, num_images,
        shape.in_channels, in_area);
    const ScratchLease strip(input_gradient == nullptr ? 0 : static_cast<std::size_t>(num_rows * gradient_row_bytes));
    bool accumulate = slice.accumulate;
    for (std::int64_t first_y = 0; first_y < height; first_y += num_rows) {
      const std::int64_t end = std::min(height, first_y + num_rows);
      const std::int64_t last_out = std::min(end, shape.out_height());
      const std::int64_t last_in = std::min(end, in_height);
      out.pack_until(end + grid.rows_above(), alone, pool);
      if (wants_values && first_y < last_out) {
        in.pack_until(last_out + grid.rows_below(), alone, pool);
        in_pieces(shape.out_channels, alone, pool, [&](std::int64_t first, std::int64_t last) {
          for (std::int64_t y = first_y; y < last_out; ++y) {
            for (const Tile& tile : out_tiles) {
              const std::int64_t start = y * grid.row_stride() + tile.x * kImages;
              for (std::int64_t block = 0; block < pattern.forward.num_blocks(); ++block) {
                kernels.dot[tile.width_index](runs_of(pattern.forward, block, first, last),
                                              out.data() + first * grid.plane_stride() + start, grid.plane_stride(),
                                              in.data() + start, slice.values, accumulate || y > first_y || tile.x > 0);
              }
            }
          }
        });
        accumulate = true;
      }
      if (input_gradient == nullptr || first_y >= last_in) continue;
      in_pieces(shape.in_channels, alone, pool, [&](std::int64_t first, std::int64_t last) {
        multiply_strip<Scalar>(grid, pattern.transposed, values, out.data(), in_tiles, in_width, first_y, last_in,
                               first * grid.num_phases(), last * grid.num_phases(), nullptr, strip.as<Scalar>());
        separate_inputs(grid, strip.as<const Scalar>(), in_width, first_y, last_in, first, last, gradient);
      });
    }
    if (sums.wants_bias()) {
      out.pack_until(shape.out_height(), alone, pool);
      in_pieces(shape.out_channels, alone, pool, [&](std::int64_t first, std::int64_t last) {
        cpu::sparse_kernels<Scalar>().sum_rows(out.data() + first * grid.plane_stride(), grid.plane_stride(),
                                               last - first, static_cast<int>(shape.out_height() * grid.row_stride()),
                                               slice.bias + first, slice.accumulate);
      });
    }
  });
}

#define ITOP_INSTANTIATE(Scalar)                                                                                       \
  template void interleaved_forward<Scalar>(const PlaneGrid&, const ConvolutionPattern&, const Scalar*, const Scalar*, \
                                            std::int64_t, const Scalar*, Scalar*, ThreadPool&);                        \
  template void interleaved_backward<Scalar>(const PlaneGrid&, const ConvolutionPattern&, const Scalar*,               \
                                             const Scalar*, const Scalar*, std::int64_t, Scalar*,                      \
                                             const SliceSums<Scalar>&, ThreadPool&);
ITOP_INSTANTIATE(float)
ITOP_INSTANTIATE(double)
#undef ITOP_INSTANTIATE

}  // namespace itop
