// The inner loops of convolutions over interleaved images, compiled once per instruction set after
// cpu/sparse_kernels.inl, whose vectors they use. The same rule holds: no inline function of the standard library.

#include <cstdint>

#include "cpu/sparse_image_kernels.hpp"

namespace itop::cpu::ITOP_SPARSE_NAMESPACE {
namespace {

/// How a tile of kWidth positions is cut into registers. A position is the longest vector: a longer one would straddle
/// cache lines after a shift by an odd number of positions.
template <class Scalar, int kWidth>
struct ImageTile {
  static constexpr int kFullLanes = kVectorBytes / static_cast<int>(sizeof(Scalar));
  static constexpr int kLanes = kImages < kFullLanes ? kImages : kFullLanes;
  static constexpr int kVectors = kWidth * kImages / kLanes;
};

template <class Scalar, int kWidth>
void multiply_images(const EntryRuns& runs, const Scalar* values, const Scalar* in, Scalar* out,
                     std::int64_t out_stride, const Scalar* bias, bool accumulate) {
  constexpr int kLanes = ImageTile<Scalar, kWidth>::kLanes;
  constexpr int kVectors = ImageTile<Scalar, kWidth>::kVectors;
  constexpr int kUnroll = kVectors >= 6 ? 1 : 8 / kVectors;
  using V = Vector<Scalar, kLanes>;
  for (std::int64_t row = 0; row < runs.num_rows; ++row) {
    const std::int32_t* offset = runs.offsets + runs.begin[row];
    const std::int32_t* const end = runs.offsets + runs.end[row];
    const Scalar* value = values + runs.begin[row];
    Scalar* const out_row = out + row * out_stride;
    if (accumulate && offset == end) continue;
    V sum[kUnroll][kVectors] = {};
    if (accumulate) {
      for (int t = 0; t < kVectors; ++t) sum[0][t] = load<Scalar, kLanes>(out_row + t * kLanes);
    } else if (bias != nullptr) {
      for (int t = 0; t < kVectors; ++t) sum[0][t] = sum[0][t] + bias[row];
    }
    for (; end - offset >= kUnroll; offset += kUnroll, value += kUnroll) {
      for (int u = 0; u < kUnroll; ++u) {
        const Scalar* const plane = in + offset[u];
        for (int t = 0; t < kVectors; ++t) sum[u][t] += load<Scalar, kLanes>(plane + t * kLanes) * value[u];
      }
    }
    for (; offset < end; ++offset, ++value) {
      const Scalar* const plane = in + *offset;
      for (int t = 0; t < kVectors; ++t) sum[0][t] += load<Scalar, kLanes>(plane + t * kLanes) * *value;
    }
    for (int t = 0; t < kVectors; ++t) {
      V total = sum[0][t];
      for (int u = 1; u < kUnroll; ++u) total += sum[u][t];
      store<Scalar, kLanes>(out_row + t * kLanes, total);
    }
  }
}

template <class Scalar, int kWidth>
void dot_images(const EntryRuns& runs, const Scalar* rows, std::int64_t row_stride, const Scalar* in, Scalar* gradient,
                bool accumulate) {
  constexpr int kLanes = ImageTile<Scalar, kWidth>::kLanes;
  constexpr int kVectors = ImageTile<Scalar, kWidth>::kVectors;
  using V = Vector<Scalar, kLanes>;
  for (std::int64_t row = 0; row < runs.num_rows; ++row) {
    const std::int32_t* offset = runs.offsets + runs.begin[row];
    std::int64_t left = static_cast<std::int64_t>(runs.end[row]) - runs.begin[row];
    if (left == 0) continue;
    Scalar* target = gradient + runs.begin[row];
    V mine[kVectors];
    for (int t = 0; t < kVectors; ++t) mine[t] = load<Scalar, kLanes>(rows + row * row_stride + t * kLanes);
    for (; left > 0; left -= 4, offset += 4, target += 4) {
      const int num = left < 4 ? static_cast<int>(left) : 4;
      // A short last group repeats its first entry: cheaper than a loop of another length.
      const std::int32_t at[4] = {offset[0], offset[num > 1 ? 1 : 0], offset[num > 2 ? 2 : 0], offset[num > 3 ? 3 : 0]};
      V sum[4];
      for (int i = 0; i < 4; ++i) sum[i] = mine[0] * load<Scalar, kLanes>(in + at[i]);
      for (int t = 1; t < kVectors; ++t) {
        for (int i = 0; i < 4; ++i) sum[i] += mine[t] * load<Scalar, kLanes>(in + at[i] + t * kLanes);
      }
      const auto sums = horizontal_sums<Scalar, kLanes>(sum[0], sum[1], sum[2], sum[3]);
      if (num == 4) {
        store<Scalar, 4>(target, accumulate ? sums + load<Scalar, 4>(target) : sums);
      } else {
        for (int i = 0; i < num; ++i) target[i] = accumulate ? target[i] + sums[i] : sums[i];
      }
    }
  }
}

/// Transposes squares of 8 that lie side by side in eight vectors, each for itself: one in 8 lanes, two in 16.
template <int kLanes>
inline void transpose_squares(Vector<float, kLanes> (&r)[8]) {
  Vector<float, kLanes> a[8];
  Vector<float, kLanes> b[8];
  if constexpr (kLanes == 16) {
    for (int i = 0; i < 8; i += 2) {
      a[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
      a[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    }
    for (int i = 0; i < 8; i += 4) {
      b[i] = __builtin_shufflevector(a[i], a[i + 2], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      b[i + 1] = __builtin_shufflevector(a[i], a[i + 2], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
      b[i + 2] = __builtin_shufflevector(a[i + 1], a[i + 3], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      b[i + 3] =
          __builtin_shufflevector(a[i + 1], a[i + 3], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
    for (int i = 0; i < 4; ++i) {
      r[i] = __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
      r[i + 4] = __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
    }
  } else {
    static_assert(kLanes == 8);
    for (int i = 0; i < 8; i += 2) {
      a[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
      a[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4) {
      b[i] = __builtin_shufflevector(a[i], a[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      b[i + 1] = __builtin_shufflevector(a[i], a[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
      b[i + 2] = __builtin_shufflevector(a[i + 1], a[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
      b[i + 3] = __builtin_shufflevector(a[i + 1], a[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (int i = 0; i < 4; ++i) {
      r[i] = __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
      r[i + 4] = __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
  }
}

/// to[j][i] = from[i][at + j] for a square of 8.
inline void transpose_square(const float* const* from, std::int64_t at, float* to) {
  Vector<float, 8> r[8];
  for (int i = 0; i < 8; ++i) r[i] = load<float, 8>(from[i] + at);
  transpose_squares<8>(r);
  for (int i = 0; i < 8; ++i) store<float, 8>(to + i * 8, r[i]);
}

inline void transpose_square(const double* const* from, std::int64_t at, double* to) {
  for (int j = 0; j < 8; ++j) {
    for (int i = 0; i < 8; ++i) to[j * 8 + i] = from[i][at + j];
  }
}

/// Whether two squares at once fit the registers: a whole cache line of each image.
template <class Scalar>
constexpr bool kPairsSquares = kVectorBytes == 64 && sizeof(Scalar) == 4;

template <class Scalar>
void interleave_images(const Scalar* const* images, std::int64_t count, Scalar* packed) {
  if (count < kImages) {
    for (std::int64_t p = 0; p < count; ++p) {
      for (int i = 0; i < kImages; ++i) packed[p * kImages + i] = images[i][p];
    }
    return;
  }
  const Scalar* from[kImages];
  for (int i = 0; i < kImages; ++i) from[i] = images[i];
  std::int64_t p = 0;
  if constexpr (kPairsSquares<Scalar>) {
    for (; p + 2 * kImages <= count; p += 2 * kImages) {
      Vector<float, 16> r[8];
      for (int i = 0; i < 8; ++i) r[i] = load<float, 16>(from[i] + p);
      transpose_squares<16>(r);
      for (int j = 0; j < 8; ++j) {
        store<float, 8>(packed + (p + j) * kImages, __builtin_shufflevector(r[j], r[j], 0, 1, 2, 3, 4, 5, 6, 7));
        store<float, 8>(packed + (p + j + 8) * kImages,
                        __builtin_shufflevector(r[j], r[j], 8, 9, 10, 11, 12, 13, 14, 15));
      }
    }
  }
  // A last square that overlaps the one before costs less than single elements.
  for (; p < count; p += kImages) {
    const std::int64_t at = p + kImages <= count ? p : count - kImages;
    transpose_square(from, at, packed + at * kImages);
  }
}

template <class Scalar>
void separate_images(const Scalar* packed, std::int64_t count, Scalar* const* images) {
  if (count < kImages) {
    for (std::int64_t p = 0; p < count; ++p) {
      for (int i = 0; i < kImages && images[i] != nullptr; ++i) images[i][p] = packed[p * kImages + i];
    }
    return;
  }
  // Images are often a multiple of 4 KiB apart, in the same set of the first-level cache: two squares write a line of
  // each before the next image's takes its place.
  std::int64_t p = 0;
  if constexpr (kPairsSquares<Scalar>) {
    Scalar* to[kImages];
    for (int i = 0; i < kImages; ++i) to[i] = images[i];
    for (; to[kImages - 1] != nullptr && p + 2 * kImages <= count; p += 2 * kImages) {
      Vector<float, 16> r[8];
      for (int j = 0; j < 8; ++j) {
        const auto first = load<float, 8>(packed + (p + j) * kImages);
        const auto second = load<float, 8>(packed + (p + j + 8) * kImages);
        r[j] = __builtin_shufflevector(first, second, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      }
      transpose_squares<16>(r);
      for (int i = 0; i < 8; ++i) store<float, 16>(to[i] + p, r[i]);
    }
  }
  Scalar squares[2][kImages * kImages];
  for (; p < count; p += 2 * kImages) {
    const int num_squares = p + kImages < count ? 2 : 1;
    std::int64_t at[2] = {};
    for (int q = 0; q < num_squares; ++q) {
      const std::int64_t start = p + q * kImages;
      at[q] = start + kImages <= count ? start : count - kImages;
      const Scalar* rows[kImages];
      for (int i = 0; i < kImages; ++i) rows[i] = packed + (at[q] + i) * kImages;
      transpose_square(rows, 0, squares[q]);
    }
    for (int i = 0; i < kImages && images[i] != nullptr; ++i) {
      for (int q = 0; q < num_squares; ++q) {
        __builtin_memcpy(images[i] + at[q], squares[q] + i * kImages, kImages * sizeof(Scalar));
      }
    }
  }
}

template <class Scalar, int kIndex>
void fill_images(SparseImageKernels<Scalar>& table) {
  constexpr int kWidth = kTileWidths[kIndex];
  constexpr int kVectors = ImageTile<Scalar, kWidth>::kVectors;
  // A broadcast value, and four sums of a dot product, need registers as well.
  if constexpr (kVectors + 2 <= kRegisters) {
    table.multiply[kIndex] = multiply_images<Scalar, kWidth>;
    table.num_multiply_widths = kIndex + 1;
  }
  if constexpr (kVectors + 5 <= kRegisters) {
    table.dot[kIndex] = dot_images<Scalar, kWidth>;
    table.num_dot_widths = kIndex + 1;
  }
  if constexpr (fits_both_gradients(kVectors)) {
    table.multiply_and_dot[kIndex] = multiply_and_dot<Scalar, ImageTile<Scalar, kWidth>::kLanes, kVectors>;
    table.num_multiply_and_dot_widths = kIndex + 1;
  }
  if constexpr (kIndex + 1 < kNumTileWidths) fill_images<Scalar, kIndex + 1>(table);
}

template <class Scalar>
SparseImageKernels<Scalar> make_image_table() {
  SparseImageKernels<Scalar> table;
  fill_images<Scalar, 0>(table);
  table.interleave = interleave_images<Scalar>;
  table.separate = separate_images<Scalar>;
  return table;
}

}  // namespace

template <class Scalar>
const SparseImageKernels<Scalar>& sparse_image_kernel_table() {
  static const SparseImageKernels<Scalar> table = make_image_table<Scalar>();
  return table;
}

template const SparseImageKernels<float>& sparse_image_kernel_table<float>();
template const SparseImageKernels<double>& sparse_image_kernel_table<double>();

}  // namespace itop::cpu::ITOP_SPARSE_NAMESPACE
