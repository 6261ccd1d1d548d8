#include "product_screen.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "cpu/product_screen_kernels.hpp"
#include "cpu/sparse_kernels.hpp"
#include "itop/thread_pool.hpp"

namespace itop {
namespace {

constexpr std::int64_t kColumnsAtOnce = 128;  ///< of an operand that one task packs: whole tiles, whole cache lines

/// The bound grows with the depth, a score's spread with its square root: deeper products let too many through. (32
/// bits hold the sums of 65,536 samples.)
constexpr std::int64_t kDeepest = 1024;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Lines of the transposed operands.
std::int64_t padded(std::int64_t depth) { return divide_up(depth, 16) * 16; }

template <class Count>
std::int64_t sum_of_depths(const std::vector<ProductFactor>& factors, Count&& count) {
  std::int64_t sum = 0;
  for (const ProductFactor& factor : factors) sum += count(factor.depth);
  return sum;
}

bool all_finite(const std::vector<float>& values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

}  // namespace

struct ProductScreen::Side {
  const void* ProductFactor::* dense;
  std::int64_t num_columns;
  std::int64_t width;  ///< of a tile
  cpu::ProductScreenKernels::PackQuads pack;
};

std::optional<ProductScreen> ProductScreen::of(std::span<const ProductFactor> factors, std::int64_t num_rows,
                                               std::int64_t num_columns, ThreadPool& pool) {
  if (cpu::product_screen_kernels() == nullptr) return std::nullopt;
  std::vector<ProductFactor> of_some_depth(factors.begin(), factors.end());
  std::erase_if(of_some_depth, [](const ProductFactor& factor) { return factor.depth == 0; });
  if (sum_of_depths(of_some_depth, [](std::int64_t depth) { return depth; }) > kDeepest) return std::nullopt;
  ProductScreen screen(std::move(of_some_depth), num_rows, num_columns, pool);
  for (const Operand* operand : {&screen.rows_, &screen.columns_}) {
    if (!all_finite(operand->norms) || !all_finite(operand->errors)) return std::nullopt;
  }
  return screen;
}

ProductScreen::ProductScreen(std::vector<ProductFactor> factors, std::int64_t num_rows, std::int64_t num_columns,
                             ThreadPool& pool)
    : factors_(std::move(factors)),
      depth_(sum_of_depths(factors_, [](std::int64_t depth) { return depth; })),
      num_quads_(sum_of_depths(factors_, [](std::int64_t depth) { return divide_up(depth, 4); })),
      rows_(
          pack({&ProductFactor::gradient, num_rows, cpu::kScreenRows, cpu::product_screen_kernels()->pack_rows}, pool)),
      columns_(pack({&ProductFactor::x, num_columns, cpu::kScreenColumns, cpu::product_screen_kernels()->pack_columns},
                    pool)) {}

ProductScreen::Operand ProductScreen::pack(const Side& side, ThreadPool& pool) const {
  const std::int64_t num_tiles = divide_up(side.num_columns, side.width);
  const std::int64_t num_groups = divide_up(side.num_columns, kColumnsAtOnce);
  const auto length = static_cast<std::size_t>(num_groups * kColumnsAtOnce);
  Operand operand{num_tiles,
                  ScratchLease(static_cast<std::size_t>(num_tiles * num_quads_ * side.width) * sizeof(std::uint32_t)),
                  std::vector<float>(length),
                  std::vector<float>(length),
                  std::vector<float>(length),
                  std::vector<std::int32_t>(length),
                  {}};
  for (const ProductFactor& factor : factors_) {
    operand.transposed.emplace_back(static_cast<std::size_t>(side.num_columns * padded(factor.depth)) * sizeof(float));
  }
  pool.parallel_for(num_groups, [&](std::int64_t group) { pack_group(side, group, operand); });
  return operand;
}

void ProductScreen::pack_group(const Side& side, std::int64_t group, Operand& operand) const {
  const cpu::ProductScreenKernels& kernels = *cpu::product_screen_kernels();
  const std::int64_t first = group * kColumnsAtOnce;
  const std::int64_t count = std::min(kColumnsAtOnce, side.num_columns - first);
  const auto dense_of = [&](const ProductFactor& factor) {
    return static_cast<const float*>(factor.*side.dense) + first;
  };
  float maxima[kColumnsAtOnce] = {};
  for (const ProductFactor& factor : factors_) {
    kernels.largest_magnitudes(dense_of(factor), side.num_columns, factor.depth, count, maxima);
  }
  float* const scales = operand.scales.data() + first;
  float* const norms = operand.norms.data() + first;
  float* const errors = operand.errors.data() + first;
  float inverses[kColumnsAtOnce] = {};
  float steps[kColumnsAtOnce] = {};
  for (std::int64_t j = 0; j < count; ++j) {
    if (maxima[j] < 0x1p-100F) continue;  // its steps would not be normal numbers: all of it is error
    scales[j] = maxima[j] / 127;
    inverses[j] = 127 / maxima[j];
  }
  const std::int64_t tile_stride = num_quads_ * side.width;
  std::uint32_t* quads = operand.quads.as<std::uint32_t>() + first / side.width * tile_stride;
  for (std::size_t f = 0; f < factors_.size(); ++f) {
    const std::int64_t depth = factors_[f].depth;
    const float* const dense = dense_of(factors_[f]);
    side.pack(dense, side.num_columns, depth, count, {scales, inverses, norms, errors, steps}, quads, tile_stride);
    quads += divide_up(depth, 4) * side.width;
    cpu::sparse_kernels<float>().pack(dense, side.num_columns, static_cast<int>(depth), count,
                                      operand.transposed[f].as<float>() + first * padded(depth),
                                      static_cast<int>(padded(depth)));
  }
  // Sums are rounded as often as there are samples, the scores that are compared as well; numbers below the normal ones
  // may have been taken for zero.
  const double rounding = std::ldexp(static_cast<double>(depth_), -23);
  const double smallest = std::ldexp(static_cast<double>(depth_), -116);
  for (std::int64_t j = 0; j < count; ++j) {
    const double norm = std::sqrt(static_cast<double>(norms[j]) + smallest) * (1 + 0x1p-16 + rounding);
    const double error = std::sqrt(static_cast<double>(errors[j]) + smallest) * (1 + 0x1p-16 + rounding);
    errors[j] = static_cast<float>(error + norm * (rounding + 0x1p-20));
    norms[j] = static_cast<float>(norm + error);  // of the rounded operand too
    operand.offsets[static_cast<std::size_t>(first + j)] = 128 * static_cast<std::int32_t>(steps[j]);
  }
}

void ProductScreen::keep_reachable(std::int64_t first_row, std::int64_t num_rows, std::int64_t first_column,
                                   std::int64_t num_columns, float magnitude, Word* bits) const {
  const auto lengths_of = [](const Operand& operand, std::int64_t first) {
    return cpu::ProductScreenKernels::Lengths{operand.scales.data() + first, operand.norms.data() + first,
                                              operand.errors.data() + first};
  };
  const auto may_reach = cpu::product_screen_kernels()->may_reach;
  const float wanted = magnitude * (1.0F - 0x1p-20F);  // what is compared with it is rounded
  const std::int64_t halves_a_row = num_columns / cpu::kScreenColumns;
  auto* const halves = reinterpret_cast<unsigned char*>(bits);  // such processors have the lower half first
  const std::int64_t first_row_tile = first_row / cpu::kScreenRows;
  const std::int64_t first_column_tile = first_column / cpu::kScreenColumns;
  const std::int64_t row_tiles = std::min(num_rows / cpu::kScreenRows, rows_.num_tiles - first_row_tile);
  const std::int64_t column_tiles = std::min(halves_a_row, columns_.num_tiles - first_column_tile);
  for (std::int64_t j = 0; j < column_tiles; ++j) {
    const std::int64_t column = (first_column_tile + j) * cpu::kScreenColumns;
    const auto column_quads = columns_.quads.as<std::uint32_t>() + column * num_quads_;
    for (std::int64_t i = 0; i < row_tiles; ++i) {
      const std::int64_t row = (first_row_tile + i) * cpu::kScreenRows;
      std::uint32_t reached[cpu::kScreenRows];
      may_reach(rows_.quads.as<std::uint32_t>() + row * num_quads_, column_quads, num_quads_,
                rows_.offsets.data() + row, lengths_of(rows_, row), lengths_of(columns_, column), wanted, reached);
      for (std::int64_t r = 0; r < cpu::kScreenRows; ++r) {
        unsigned char* const half = halves + ((i * cpu::kScreenRows + r) * halves_a_row + j) * sizeof(std::uint32_t);
        std::uint32_t kept;
        std::memcpy(&kept, half, sizeof(kept));
        kept &= reached[r];
        std::memcpy(half, &kept, sizeof(kept));
      }
    }
  }
}

void ProductScreen::scores_of(std::int64_t row, std::span<const std::int32_t> columns, float* out) const {
  const auto scores_at = cpu::product_screen_kernels()->scores_at;
  const auto count = static_cast<std::int64_t>(columns.size());
  if (factors_.empty()) std::fill_n(out, count, 0.0F);
  for (std::int64_t first = 0; first < count; first += cpu::kListedScores) {
    std::int32_t listed[cpu::kListedScores] = {};
    std::copy_n(columns.data() + first, std::min<std::int64_t>(count - first, cpu::kListedScores), listed);
    for (std::size_t f = 0; f < factors_.size(); ++f) {
      const std::int64_t depth = padded(factors_[f].depth);
      scores_at(rows_.transposed[f].as<float>() + row * depth, columns_.transposed[f].as<float>(), depth, listed,
                out + first, f > 0);
    }
  }
}

}  // namespace itop
