// Vectors of one instruction set and their transposes, for the inner loops of products. The including file defines
// ITOP_SPARSE_NAMESPACE. Nothing here may call an inline function of the standard library: the linker would keep one
// copy for the whole program, perhaps one with instructions the processor lacks.

#include <cstdint>

namespace itop::cpu::ITOP_SPARSE_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class Scalar, int kLanes>
struct VectorOf {
  typedef Scalar type __attribute__((vector_size(kLanes * sizeof(Scalar))));
  typedef Scalar unaligned __attribute__((vector_size(kLanes * sizeof(Scalar)), aligned(alignof(Scalar)), may_alias));
};
template <class Scalar>
struct VectorOf<Scalar, 1> {
  using type = Scalar;
  using unaligned = Scalar;
};

template <class Scalar, int kLanes>
using Vector = typename VectorOf<Scalar, kLanes>::type;

template <class Scalar, int kLanes>
inline Vector<Scalar, kLanes> load(const Scalar* from) {
  return *reinterpret_cast<const typename VectorOf<Scalar, kLanes>::unaligned*>(from);
}

template <class Scalar, int kLanes>
inline void store(Scalar* to, Vector<Scalar, kLanes> value) {
  *reinterpret_cast<typename VectorOf<Scalar, kLanes>::unaligned*>(to) = value;
}

/// to[j][i] = from[i][j] for a square of 8 floats.
inline void transpose_8x8(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride) {
  using V = Vector<float, 8>;
  V r[8];
  for (int i = 0; i < 8; ++i) r[i] = load<float, 8>(from + i * from_stride);
  V a[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    a[2 * i + 1] = __builtin_shufflevector(r[2 * i], r[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  V b[8];
  for (int i = 0; i < 2; ++i) {
    b[4 * i + 0] = __builtin_shufflevector(a[4 * i], a[4 * i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    b[4 * i + 1] = __builtin_shufflevector(a[4 * i], a[4 * i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    b[4 * i + 2] = __builtin_shufflevector(a[4 * i + 1], a[4 * i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    b[4 * i + 3] = __builtin_shufflevector(a[4 * i + 1], a[4 * i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int i = 0; i < 4; ++i) {
    store<float, 8>(to + i * to_stride, __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11));
    store<float, 8>(to + (i + 4) * to_stride, __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15));
  }
}

inline void transpose_8x8(const double* from, std::int64_t from_stride, double* to, std::int64_t to_stride) {
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }
}

/// to[j][i] = from[i][j] for num_rows rows, a multiple of 8, of 16: a cache line of each.
template <class Scalar>
void transpose_line(const Scalar* from, std::int64_t from_stride, std::int64_t num_rows, Scalar* to,
                    std::int64_t to_stride) {
  for (std::int64_t row = 0; row < num_rows; row += 8) {
    transpose_8x8(from + row * from_stride, from_stride, to + row, to_stride);
    transpose_8x8(from + row * from_stride + 8, from_stride, to + 8 * to_stride + row, to_stride);
  }
}

#if defined(__AVX512F__)
/// Sixteen lines of sixteen become their columns.
inline void transpose_square(Vector<float, 16> (&lines)[16]) {
  using V = Vector<float, 16>;
  V a[16];
  for (int i = 0; i < 8; ++i) {  // pairs of lines
    const V even = lines[2 * i];
    const V odd = lines[2 * i + 1];
    a[2 * i] = __builtin_shufflevector(even, odd, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    a[2 * i + 1] = __builtin_shufflevector(even, odd, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  }
  V b[16];  // lane k of b[4 i + c]: column 4 k + c of lines 4 i to 4 i + 3
  for (int i = 0; i < 4; ++i) {
    for (int half = 0; half < 2; ++half) {
      const V low = a[4 * i + half];
      const V high = a[4 * i + 2 + half];
      b[4 * i + 2 * half] =
          __builtin_shufflevector(low, high, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
      b[4 * i + 2 * half + 1] =
          __builtin_shufflevector(low, high, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    }
  }
  for (int c = 0; c < 4; ++c) {
    V u[2][2];  // [lanes 0 and 1, 2 and 3][lines 0 to 7, 8 to 15]
    for (int rows = 0; rows < 2; ++rows) {
      const V low = b[8 * rows + c];
      const V high = b[8 * rows + 4 + c];
      u[0][rows] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
      u[1][rows] = __builtin_shufflevector(low, high, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    }
    for (int half = 0; half < 2; ++half) {
      const V low = u[half][0];
      const V high = u[half][1];
      lines[8 * half + c] =
          __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
      lines[8 * half + 4 + c] =
          __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
  }
}

/// to[j][i] = from[i][j] for a square of 16: every line is read and written once, at one go.
inline void transpose_16x16(const float* from, std::int64_t from_stride, float* to, std::int64_t to_stride) {
  Vector<float, 16> lines[16];
  for (int i = 0; i < 16; ++i) lines[i] = load<float, 16>(from + i * from_stride);
  transpose_square(lines);
  for (int i = 0; i < 16; ++i) store<float, 16>(to + i * to_stride, lines[i]);
}

inline void transpose_line(const float* from, std::int64_t from_stride, std::int64_t num_rows, float* to,
                           std::int64_t to_stride) {
  std::int64_t row = 0;
  for (; row + 16 <= num_rows; row += 16) transpose_16x16(from + row * from_stride, from_stride, to + row, to_stride);
  if (row < num_rows) transpose_line<float>(from + row * from_stride, from_stride, num_rows - row, to + row, to_stride);
}
#endif

}  // namespace
}  // namespace itop::cpu::ITOP_SPARSE_NAMESPACE
