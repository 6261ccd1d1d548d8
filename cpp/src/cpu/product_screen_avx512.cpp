#define ITOP_SPARSE_NAMESPACE avx512
#include "cpu/product_screen_kernels.hpp"
#include "cpu/vectors.inl"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

namespace itop::cpu::avx512 {
namespace {

/// A vector from some of the columns of a sample, zero where there are none.
template <int kLanes>
inline Vector<float, kLanes> load_some(const float* from, std::int64_t count) {
  if (count >= kLanes) return load<float, kLanes>(from);
  Vector<float, kLanes> values = {};
  for (std::int64_t i = 0; i < count; ++i) values[i] = from[i];
  return values;
}

void largest_magnitudes(const float* dense, std::int64_t dense_stride, std::int64_t depth, std::int64_t num_columns,
                        float* maxima) {
  for (std::int64_t s = 0; s < depth; ++s) {
    for (std::int64_t j = 0; j < num_columns; ++j) {
      const float magnitude = __builtin_fabsf(dense[s * dense_stride + j]);
      maxima[j] = magnitude > maxima[j] ? magnitude : maxima[j];
    }
  }
}

template <int kWidth, std::uint32_t kAdded>
void pack_quads(const float* dense, std::int64_t dense_stride, std::int64_t depth, std::int64_t num_columns,
                const ProductScreenKernels::Columns& of_columns, std::uint32_t* packed, std::int64_t tile_stride) {
  constexpr int kLanes = kWidth < 16 ? kWidth : 16;
  constexpr float kRounding = 0x1.8p23F;  // a number of steps, added to it, is rounded and lies in the lowest byte
  using V = Vector<float, kLanes>;
  using Bits = Vector<std::uint32_t, kLanes>;
  const std::int64_t num_quads = (depth + 3) / 4;
  const std::int64_t whole_tiles = (num_columns + kWidth - 1) / kWidth * kWidth;
  for (std::int64_t quad = 0; quad < num_quads; ++quad) {
    for (std::int64_t first = 0; first < whole_tiles; first += kLanes) {
      const V scales = load<float, kLanes>(of_columns.scales + first);
      const V inverses = load<float, kLanes>(of_columns.inverses + first);
      V squares = load<float, kLanes>(of_columns.squares + first);
      V errors = load<float, kLanes>(of_columns.errors + first);
      V sums = load<float, kLanes>(of_columns.steps + first);
      Bits word = {};
      for (int i = 0; i < 4 && 4 * quad + i < depth; ++i) {
        const V values = load_some<kLanes>(dense + (4 * quad + i) * dense_stride + first, num_columns - first);
        const V marked = values * inverses + kRounding;
        const V steps = marked - kRounding;
        const V error = values - steps * scales;
        squares += values * values;
        errors += error * error;
        sums += steps;
        word |= ((Bits)marked & 0xFF) << (8 * i);
      }
      store<float, kLanes>(of_columns.squares + first, squares);
      store<float, kLanes>(of_columns.errors + first, errors);
      store<float, kLanes>(of_columns.steps + first, sums);
      std::uint32_t* const to = packed + first / kWidth * tile_stride + quad * kWidth + first % kWidth;
      store<std::uint32_t, kLanes>(to, word ^ kAdded);
    }
  }
}

void may_reach(const std::uint32_t* rows, const std::uint32_t* columns, std::int64_t num_quads,
               const std::int32_t* offsets, const ProductScreenKernels::Lengths& of_rows,
               const ProductScreenKernels::Lengths& of_columns, float limit, std::uint32_t* reached) {
  static_assert(kScreenColumns == 32);
  __m512i sums[kScreenRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kScreenRows; ++r) sums[r][0] = sums[r][1] = _mm512_set1_epi32(-offsets[r]);
  for (std::int64_t quad = 0; quad < num_quads; ++quad) {
    const __m512i first = _mm512_loadu_si512(columns);
    const __m512i second = _mm512_loadu_si512(columns + 16);
#pragma GCC unroll 8
    for (int r = 0; r < kScreenRows; ++r) {
      const __m512i row = _mm512_set1_epi32(static_cast<int>(rows[r]));
      sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], first, row);
      sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], second, row);
    }
    rows += kScreenRows;
    columns += kScreenColumns;
  }
  const __m512 wanted = _mm512_set1_ps(limit);
#pragma GCC unroll 8
  for (int r = 0; r < kScreenRows; ++r) {
    const __m512 scale = _mm512_set1_ps(of_rows.scales[r]);
    const __m512 norm = _mm512_set1_ps(of_rows.norms[r]);
    const __m512 error = _mm512_set1_ps(of_rows.errors[r]);
    std::uint32_t bits = 0;
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512 steps = _mm512_abs_ps(_mm512_cvtepi32_ps(sums[r][half]));
      const __m512 step = scale * _mm512_loadu_ps(of_columns.scales + 16 * half);
      const __m512 moved =
          error * _mm512_loadu_ps(of_columns.norms + 16 * half) + norm * _mm512_loadu_ps(of_columns.errors + 16 * half);
      // Not less, which NaN is as well.
      bits |= static_cast<std::uint32_t>(_mm512_cmp_ps_mask(steps * step + moved, wanted, _CMP_NLT_UQ)) << (16 * half);
    }
    reached[r] = bits;
  }
}

void scores_at(const float* row, const float* columns, std::int64_t depth, const std::int32_t* listed, float* out,
               bool accumulate) {
  static_assert(kListedScores == 16);
  using V = Vector<float, 16>;
  V sum = {};
  for (std::int64_t first = 0; first < depth; first += 16) {
    V lines[16];
    for (int i = 0; i < 16; ++i) lines[i] = load<float, 16>(columns + listed[i] * depth + first);
    transpose_square(lines);
#pragma GCC unroll 16
    for (int s = 0; s < 16; ++s) sum += lines[s] * row[first + s];
  }
  store<float, 16>(out, accumulate ? load<float, 16>(out) + sum : sum);
}

constexpr ProductScreenKernels kTable{largest_magnitudes, pack_quads<kScreenRows, 0>,
                                      pack_quads<kScreenColumns, 0x80808080>, may_reach, scores_at};

}  // namespace

const ProductScreenKernels* product_screen_kernel_table() { return &kTable; }

}  // namespace itop::cpu::avx512

#else

namespace itop::cpu::avx512 {

const ProductScreenKernels* product_screen_kernel_table() { return nullptr; }

}  // namespace itop::cpu::avx512

#endif
