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
      : size_(size), zeros_(num_images == kImages ? 0 : static_cast<std::size_t>(most_read) * sizeof(Scalar)) {
    if (num_images < kImages) std::fill_n(zeros_.template as<std::remove_const_t<Scalar>>(), most_read, Scalar{0});
    for (std::int64_t i = 0; i < kImages; ++i) {
      starts_[i] = i < num_images ? images + i * channels * size : zeros_.template as<Scalar>();
      moves_[i] = i < num_images ? 1 : 0;
    }
  }

  /// Calls `body` with the images' pointers to a position of a channel.
  template <class Body>
  void at(std::int64_t channel, std::int64_t position, Body&& body) const {
    Scalar* pointers[kImages];
    for (std::int64_t i = 0; i < kImages; ++i) {
      pointers[i] = starts_[i] == nullptr ? nullptr : starts_[i] + moves_[i] * (channel * size_ + position);
    }
    body(pointers);
  }

 private:
  std::int64_t size_;
  Scalar* starts_[kImages];
  std::int64_t moves_[kImages];  ///< 0 of zeros, 1 of an image
  ScratchLease zeros_;           ///< null in a group that is written
};

/// The planes of a group, row by row: [rows][planes][columns][kImages], empty rows above the first.
template <class Scalar>
class GroupPlanes {
 public:
  /// @param pictures those of a channel's planes
  GroupPlanes(const PlaneGrid& grid, const std::vector<PlaneGrid::Picture>& pictures, const Scalar* images,
              std::int64_t num_images)
      : grid_(grid),
        pictures_(pictures),
        area_(pictures[0].image_height * pictures[0].image_width),
        group_(images, num_images, pictures[0].channels, area_, area_),
        num_planes_(static_cast<std::int64_t>(pictures.size()) * pictures[0].channels),
        front_((grid.num_empty_columns() + kLinePositions - 1) / kLinePositions * kLinePositions * kImages +
               grid.num_empty_rows() * row_stride()),
        memory_(static_cast<std::size_t>(front_ + grid.num_rows() * row_stride()) * sizeof(Scalar)) {
    std::fill_n(memory_.template as<Scalar>(), front_, Scalar{0});
  }

  std::int64_t row_stride() const noexcept { return num_planes_ * grid_.plane_stride(); }
  const Scalar* row(std::int64_t y) const noexcept {
    return memory_.template as<const Scalar>() + front_ + y * row_stride();
  }

  /// Packs what is missing of the rows that products of rows before `row` read.
  void pack_for(std::int64_t row, bool alone, ThreadPool& pool) {
    const std::int64_t first_row = num_packed_;
    const std::int64_t last_row = std::min(grid_.num_rows(), row + grid_.num_empty_rows());
    if (first_row >= last_row) return;
    num_packed_ = last_row;
    const PlaneGrid::Picture& any = pictures_[0];
    const bool in_place = any.step_x == 1 && any.step_y == 1 && any.width >= kImages;
    const auto num_phases = static_cast<std::int64_t>(pictures_.size());
    in_pieces(any.channels, alone, pool, [&](std::int64_t first, std::int64_t last) {
      const ScratchLease whole(in_place ? 0 : static_cast<std::size_t>(area_ * kImages) * sizeof(Scalar));
      for (std::int64_t channel = first; channel < last; ++channel) {
        if (!in_place) {
          group_.at(channel, 0, [&](const Scalar* const* from) {
            cpu::sparse_image_kernels<Scalar>().interleave(from, area_, whole.as<Scalar>());
          });
        }
        for (std::int64_t phase = 0; phase < num_phases; ++phase) {
          pack_plane(channel, pictures_[static_cast<std::size_t>(phase)], whole.as<const Scalar>(),
                     channel * num_phases + phase, first_row, last_row);
        }
      }
    });
  }

 private:
  static constexpr std::int64_t kLinePositions = 2;  // of the narrower type

  /// @param whole the interleaved channel, or null: rows are interleaved in place
  void pack_plane(std::int64_t channel, const PlaneGrid::Picture& picture, const Scalar* whole, std::int64_t plane,
                  std::int64_t first_row, std::int64_t last_row) const {
    Scalar* const start = memory_.template as<Scalar>() + front_ + plane * grid_.plane_stride();
    for (std::int64_t y = first_row; y < std::min(last_row, picture.height); ++y) {
      Scalar* const to = start + y * row_stride();
      const std::int64_t from = (picture.first_y + y * picture.step_y) * picture.image_width + picture.first_x;
      if (whole == nullptr) {
        group_.at(channel, from, [&](const Scalar* const* images) {
          cpu::sparse_image_kernels<Scalar>().interleave(images, picture.width, to);
        });
      } else {
        copy_positions(whole + from * kImages, picture.width, picture.step_x, to, 1);
      }
      for (std::int64_t x = picture.width; x < grid_.num_columns(); ++x) {  // few: a call would cost more
        for (std::int64_t i = 0; i < kImages; ++i) to[x * kImages + i] = 0;
      }
    }
    for (std::int64_t y = std::max(first_row, picture.height); y < last_row; ++y) {
      std::fill_n(start + y * row_stride(), grid_.plane_stride(), Scalar{0});
    }
  }

  const PlaneGrid& grid_;
  const std::vector<PlaneGrid::Picture>& pictures_;
  std::int64_t area_;
  ImageGroup<const Scalar> group_;
  std::int64_t num_planes_;
  std::int64_t front_;
  std::int64_t num_packed_ = 0;  ///< rows
  ScratchLease memory_;
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

/// Rows of a picture that are computed, then separated while they are in the cache.
struct Strip {
  std::int64_t first = 0, last = 0, width = 0;

  std::int64_t num_positions() const noexcept { return (last - first) * width; }
  /// Scalars from the results of one plane to those of the next: an odd number of cache lines, lest equal positions of
  /// all planes fall into one set.
  std::int64_t stride() const noexcept { return ((num_positions() + 1) / 2 | 1) * 2 * kImages; }
};

/// How many rows a strip has: all where a thread is not one of many, or where rows are not whole rows of images.
std::int64_t rows_of_strips(const std::vector<PlaneGrid::Picture>& pictures, std::int64_t height, bool alone) {
  constexpr std::int64_t kPositions = 196;  // fewer, and each image is visited in pieces too small to be fetched ahead
  const PlaneGrid::Picture& any = pictures[0];
  if (alone || any.step_x != 1 || any.step_y != 1 || any.width < kImages) return height;
  const std::int64_t num_strips = std::max<std::int64_t>(1, height * any.width / kPositions);
  return (height + num_strips - 1) / num_strips;
}

/// Planes [first, last) of a pattern times planes, a strip of them: results [planes][strip.stride()].
template <class Scalar>
void multiply_rows(const SparsePattern& pattern, const Scalar* values, const GroupPlanes<Scalar>& in,
                   const std::vector<Tile>& tiles, const Strip& strip, std::int64_t first, std::int64_t last,
                   const Scalar* bias, Scalar* results) {
  const auto& kernels = cpu::sparse_image_kernels<Scalar>();
  for (std::int64_t y = strip.first; y < strip.last; ++y) {
    for (const Tile& tile : tiles) {
      Scalar* const out = results + first * strip.stride() + ((y - strip.first) * strip.width + tile.x) * kImages;
      for (std::int64_t block = 0; block < pattern.num_blocks(); ++block) {
        kernels.multiply[tile.width_index](runs_of(pattern, block, first, last), values, in.row(y) + tile.x * kImages,
                                           out, strip.stride(), bias == nullptr ? nullptr : bias + first, block > 0);
      }
    }
  }
}

/// How many widths of tiles the kernels of a backward pass have.
template <class Scalar>
int num_backward_widths(bool wants_input, bool wants_values) {
  const auto& kernels = cpu::sparse_image_kernels<Scalar>();
  if (!wants_values) return kernels.num_multiply_widths;
  return wants_input ? kernels.num_multiply_and_dot_widths : kernels.num_dot_widths;
}

/// The gradients of the values in planes [first, last) of the transposed pattern, for a strip; where `results` is not
/// null, those of the inputs as well, as multiply_rows writes them.
template <class Scalar>
void differentiate_rows(const PlaneGrid& grid, const SparsePattern& pattern, const Scalar* values,
                        const GroupPlanes<Scalar>& in, const GroupPlanes<Scalar>& out, const std::vector<Tile>& tiles,
                        const Strip& strip, std::int64_t first, std::int64_t last,
                        const typename SliceSums<Scalar>::Slice& slice, Scalar* results) {
  const auto& kernels = cpu::sparse_image_kernels<Scalar>();
  const std::int64_t stride = grid.plane_stride();
  for (std::int64_t y = strip.first; y < strip.last; ++y) {
    for (const Tile& tile : tiles) {
      const Scalar* const rows = in.row(y) + first * stride + tile.x * kImages;
      const Scalar* const from = out.row(y) + tile.x * kImages;
      const bool accumulates = slice.accumulate || y > 0 || tile.x > 0;
      for (std::int64_t block = 0; block < pattern.num_blocks(); ++block) {
        const cpu::EntryRuns runs = runs_of(pattern, block, first, last);
        if (results == nullptr) {
          kernels.dot[tile.width_index](runs, rows, stride, from, slice.values, accumulates);
          continue;
        }
        Scalar* const to = results + first * strip.stride() + ((y - strip.first) * strip.width + tile.x) * kImages;
        kernels.multiply_and_dot[tile.width_index](
            runs, {values, from, to, strip.stride(), block > 0, false, rows, stride, slice.values, accumulates});
      }
    }
  }
}

/// Channels [first, last) of a strip's results [channels][phases][strip.stride()], to images.
/// @param pictures those of a channel's planes
template <class Scalar>
void separate_rows(const std::vector<PlaneGrid::Picture>& pictures, const Scalar* results, const Strip& strip,
                   std::int64_t first, std::int64_t last, const ImageGroup<Scalar>& images) {
  const auto& kernels = cpu::sparse_image_kernels<Scalar>();
  const PlaneGrid::Picture& any = pictures[0];
  const auto num_phases = static_cast<std::int64_t>(pictures.size());
  const bool in_place = any.step_x == 1 && any.step_y == 1;
  const std::int64_t area = any.image_height * any.image_width;
  const ScratchLease whole(in_place ? 0 : static_cast<std::size_t>(area * kImages) * sizeof(Scalar));
  if (!in_place) std::fill_n(whole.as<Scalar>(), area * kImages, Scalar{0});  // inputs that no tap reads stay zero
  for (std::int64_t channel = first; channel < last; ++channel) {
    const Scalar* from = results + channel * num_phases * strip.stride();
    if (in_place) {
      images.at(channel, strip.first * strip.width,
                [&](Scalar* const* pointers) { kernels.separate(from, strip.num_positions(), pointers); });
      continue;
    }
    for (const PlaneGrid::Picture& picture : pictures) {
      for (std::int64_t y = 0; y < picture.height; ++y) {
        const std::int64_t to = (picture.first_y + y * picture.step_y) * picture.image_width + picture.first_x;
        copy_positions(from + y * strip.width * kImages, picture.width, 1, whole.as<Scalar>() + to * kImages,
                       picture.step_x);
      }
      from += strip.stride();
    }
    images.at(channel, 0, [&](Scalar* const* pointers) { kernels.separate(whole.as<const Scalar>(), area, pointers); });
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
  const ConvolutionShape& shape = pattern.shape;
  const std::int64_t in_size = shape.in_channels * shape.in_height * shape.in_width;
  const std::int64_t width = shape.out_width();
  const std::int64_t area = shape.out_height() * width;
  const std::vector<Tile> tiles = tiles_of(width, cpu::sparse_image_kernels<Scalar>().num_multiply_widths);
  const std::vector<PlaneGrid::Picture> in_pictures = input_pictures(grid);
  const std::vector<PlaneGrid::Picture> out_pictures{grid.output_picture()};
  const std::int64_t num_groups = (batch + kImages - 1) / kImages;
  const bool alone = num_groups < pool.num_threads();

  const std::int64_t num_rows = rows_of_strips(in_pictures, shape.out_height(), alone);

  const auto run_group = [&](std::int64_t group) {
    const std::int64_t first_image = group * kImages;
    const std::int64_t num_images = std::min<std::int64_t>(kImages, batch - first_image);
    GroupPlanes<Scalar> in(grid, in_pictures, x + first_image * in_size, num_images);
    const ImageGroup<Scalar> out(y + first_image * shape.out_channels * area, num_images, shape.out_channels, area);
    const ScratchLease results(static_cast<std::size_t>(shape.out_channels * Strip{0, num_rows, width}.stride()) *
                               sizeof(Scalar));
    for (std::int64_t row = 0; row < shape.out_height(); row += num_rows) {
      const Strip strip{row, std::min(row + num_rows, shape.out_height()), width};
      in.pack_for(strip.last, alone, pool);
      in_pieces(shape.out_channels, alone, pool, [&](std::int64_t first, std::int64_t last) {
        multiply_rows(pattern.forward, values, in, tiles, strip, first, last, bias, results.as<Scalar>());
        separate_rows(out_pictures, results.as<const Scalar>(), strip, first, last, out);
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
  const ConvolutionShape& shape = pattern.shape;
  const std::int64_t in_area = shape.in_height * shape.in_width;
  const std::int64_t out_size = shape.out_channels * shape.out_height() * shape.out_width();
  const std::int64_t in_width = grid.num_input_columns();
  const bool wants_input = input_gradient != nullptr;
  const std::vector<Tile> tiles = tiles_of(in_width, num_backward_widths<Scalar>(wants_input, sums.wants_values()));
  const std::vector<PlaneGrid::Picture> in_pictures = input_pictures(grid);
  const std::vector<PlaneGrid::Picture> out_pictures{grid.output_picture()};

  sums.for_each_stack(pool, [&](std::int64_t group, const typename SliceSums<Scalar>::Slice& slice, bool alone) {
    const std::int64_t first_image = group * kImages;
    const std::int64_t num_images = std::min<std::int64_t>(kImages, batch - first_image);
    GroupPlanes<Scalar> out(grid, out_pictures, output_gradient + first_image * out_size, num_images);
    GroupPlanes<Scalar> in(grid, in_pictures, x + first_image * shape.in_channels * in_area, num_images);
    const ImageGroup<Scalar> gradient(
        wants_input ? input_gradient + first_image * shape.in_channels * in_area : nullptr, num_images,
        shape.in_channels, in_area);
    const std::int64_t height = std::max(shape.out_height(), grid.num_input_rows());
    const std::int64_t num_rows = rows_of_strips(in_pictures, height, alone);
    const ScratchLease results(
        static_cast<std::size_t>(grid.num_input_planes() * Strip{0, num_rows, in_width}.stride()) * sizeof(Scalar));
    for (std::int64_t row = 0; row < height; row += num_rows) {
      out.pack_for(row + num_rows, alone, pool);
      if (sums.wants_values()) in.pack_for(row + num_rows, alone, pool);
      if (sums.wants_bias()) {
        in_pieces(shape.out_channels, alone, pool, [&](std::int64_t first, std::int64_t last) {
          for (std::int64_t y = row; y < std::min(row + num_rows, shape.out_height()); ++y) {
            cpu::sparse_kernels<Scalar>().sum_rows(out.row(y) + first * grid.plane_stride(), grid.plane_stride(),
                                                   last - first, static_cast<int>(shape.out_width() * kImages),
                                                   slice.bias + first, slice.accumulate || y > 0);
          }
        });
      }
      const Strip strip{row, std::min(row + num_rows, grid.num_input_rows()), in_width};
      if (strip.first >= strip.last) continue;
      in_pieces(shape.in_channels, alone, pool, [&](std::int64_t first, std::int64_t last) {
        const std::int64_t first_plane = first * grid.num_phases();
        const std::int64_t last_plane = last * grid.num_phases();
        if (!sums.wants_values()) {
          if (!wants_input) return;
          multiply_rows<Scalar>(pattern.transposed, values, out, tiles, strip, first_plane, last_plane, nullptr,
                                results.as<Scalar>());
        } else {
          differentiate_rows<Scalar>(grid, pattern.transposed, values, in, out, tiles, strip, first_plane, last_plane,
                                     slice, wants_input ? results.as<Scalar>() : nullptr);
        }
        if (wants_input) separate_rows(in_pictures, results.as<const Scalar>(), strip, first, last, gradient);
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
