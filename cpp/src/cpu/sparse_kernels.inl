// The inner loops of sparse products, compiled once per instruction set. The including file defines
// ITOP_SPARSE_NAMESPACE. Nothing here may call an inline function of the standard library: the linker would keep one
// copy for the whole program, perhaps one with instructions the processor lacks.

#include <cstdint>

#include "cpu/sparse_kernels.hpp"
#include "cpu/vectors.inl"

namespace itop::cpu::ITOP_SPARSE_NAMESPACE {
namespace {

constexpr int kMaxVectors = 8;  ///< of samples at a time

/// A whole register, past the caches where the processor can.
template <class Scalar, int kLanes>
inline void stream(Scalar* to, Vector<Scalar, kLanes> value) {
#if defined(__SSE2__)
  typedef float Bits __attribute__((vector_size(kVectorBytes)));
  static_assert(sizeof(value) == sizeof(Bits));
  auto* const target = reinterpret_cast<float*>(to);
#if defined(__AVX512F__)
  __builtin_ia32_movntps512(target, reinterpret_cast<Bits>(value));
#elif defined(__AVX2__)
  __builtin_ia32_movntps256(target, reinterpret_cast<Bits>(value));
#else
  __builtin_ia32_movntps(target, reinterpret_cast<Bits>(value));
#endif
#else
  store<Scalar, kLanes>(to, value);
#endif
}

inline void finish_streams() {
#if defined(__SSE2__)
  __builtin_ia32_sfence();
#endif
}

/// How a tile of kSamples is cut into registers.
template <class Scalar, int kSamples>
struct Tile {
  static constexpr int kFullLanes = kVectorBytes / static_cast<int>(sizeof(Scalar));
  static constexpr int kLanes = kSamples < kFullLanes ? kSamples : kFullLanes;
  static constexpr int kVectors = kSamples / kLanes;
};

template <class Scalar, int kSamples, int kStride, bool kStreams = false>
void multiply(const EntryRuns& runs, const Scalar* values, std::uint32_t value_base, const Scalar* in, Scalar* out,
              std::int64_t out_stride, const Scalar* bias, bool accumulate) {
  constexpr int kLanes = Tile<Scalar, kSamples>::kLanes;
  constexpr int kVectors = Tile<Scalar, kSamples>::kVectors;
  // A narrow tile needs several sums in flight to hide the latency of a fused multiply-add.
  constexpr int kUnroll = kVectors >= 4 ? 1 : 4 / kVectors;
  using V = Vector<Scalar, kLanes>;
  for (std::int64_t row = 0; row < runs.num_rows; ++row) {
    const std::int32_t* offset = runs.offsets + runs.begin[row];
    const std::int32_t* const end = runs.offsets + runs.end[row];
    const Scalar* value = values + (runs.begin[row] - value_base);
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
        const Scalar* const column = in + static_cast<std::int64_t>(offset[u]) * kStride;
        for (int t = 0; t < kVectors; ++t) sum[u][t] += load<Scalar, kLanes>(column + t * kLanes) * value[u];
      }
    }
    for (; offset < end; ++offset, ++value) {
      const Scalar* const column = in + static_cast<std::int64_t>(*offset) * kStride;
      for (int t = 0; t < kVectors; ++t) sum[0][t] += load<Scalar, kLanes>(column + t * kLanes) * *value;
    }
    for (int t = 0; t < kVectors; ++t) {
      V total = sum[0][t];
      for (int u = 1; u < kUnroll; ++u) total += sum[u][t];
      if constexpr (kStreams) {
        stream<Scalar, kLanes>(out_row + t * kLanes, total);
      } else {
        store<Scalar, kLanes>(out_row + t * kLanes, total);
      }
    }
  }
}

template <class Scalar, int kLanes>
inline Scalar horizontal_sum(Vector<Scalar, kLanes> v) {
  if constexpr (kLanes == 1) {
    return v;
  } else {
    Vector<Scalar, kLanes / 2> low;
    Vector<Scalar, kLanes / 2> high;
    if constexpr (kLanes == 2) {
      return v[0] + v[1];
    } else {
      __builtin_memcpy(&low, &v, sizeof(low));
      __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low), sizeof(high));
      return horizontal_sum<Scalar, kLanes / 2>(low + high);
    }
  }
}

/// Sums of four vectors at once: lanes are transposed while they are added, a third of the work of four single sums.
template <class Scalar, int kLanes>
inline Vector<Scalar, 4> horizontal_sums(Vector<Scalar, kLanes> a, Vector<Scalar, kLanes> b, Vector<Scalar, kLanes> c,
                                         Vector<Scalar, kLanes> d) {
  if constexpr (sizeof(Scalar) == 4 && kLanes == 16) {
    const auto ab = __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
                    __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    const auto cd = __builtin_shufflevector(c, d, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29) +
                    __builtin_shufflevector(c, d, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    const auto all = __builtin_shufflevector(ab, cd, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                     __builtin_shufflevector(ab, cd, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    const auto half = __builtin_shufflevector(all, all, 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(all, all, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
  } else if constexpr (sizeof(Scalar) == 4 && kLanes == 8) {
    const auto ab = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13) +
                    __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    const auto cd = __builtin_shufflevector(c, d, 0, 8, 1, 9, 4, 12, 5, 13) +
                    __builtin_shufflevector(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
    const auto all = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                     __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
    return __builtin_shufflevector(all, all, 0, 1, 2, 3) + __builtin_shufflevector(all, all, 4, 5, 6, 7);
  } else if constexpr (kLanes == 4) {
    const auto ab = __builtin_shufflevector(a, b, 0, 4, 1, 5) + __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const auto cd = __builtin_shufflevector(c, d, 0, 4, 1, 5) + __builtin_shufflevector(c, d, 2, 6, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  } else {
    return Vector<Scalar, 4>{horizontal_sum<Scalar, kLanes>(a), horizontal_sum<Scalar, kLanes>(b),
                             horizontal_sum<Scalar, kLanes>(c), horizontal_sum<Scalar, kLanes>(d)};
  }
}

template <class Scalar, int kSamples, int kStride>
void dot(const EntryRuns& runs, const Scalar* rows, std::int64_t row_stride, const Scalar* in, Scalar* gradient,
         std::uint32_t value_base, bool accumulate) {
  constexpr int kLanes = Tile<Scalar, kSamples>::kLanes;
  constexpr int kVectors = Tile<Scalar, kSamples>::kVectors;
  using V = Vector<Scalar, kLanes>;
  for (std::int64_t row = 0; row < runs.num_rows; ++row) {
    const std::int32_t* offset = runs.offsets + runs.begin[row];
    std::int64_t left = static_cast<std::int64_t>(runs.end[row]) - runs.begin[row];
    if (left == 0) continue;
    Scalar* target = gradient + (runs.begin[row] - value_base);
    V mine[kVectors];
    for (int t = 0; t < kVectors; ++t) mine[t] = load<Scalar, kLanes>(rows + row * row_stride + t * kLanes);
    for (; left > 0; left -= 4, offset += 4, target += 4) {
      V sum[4];
      const int num = left < 4 ? static_cast<int>(left) : 4;
      // A short last group repeats its first entry: cheaper than a loop of another length.
      const std::int32_t at[4] = {offset[0], offset[num > 1 ? 1 : 0], offset[num > 2 ? 2 : 0], offset[num > 3 ? 3 : 0]};
      for (int i = 0; i < 4; ++i) {
        const Scalar* const column = in + static_cast<std::int64_t>(at[i]) * kStride;
        sum[i] = mine[0] * load<Scalar, kLanes>(column);
        for (int t = 1; t < kVectors; ++t) sum[i] += mine[t] * load<Scalar, kLanes>(column + t * kLanes);
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

#if defined(__AVX512F__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

/// A load for two products is done once: the compiler would fold it into either.
template <class V>
inline void keep_in_register([[maybe_unused]] V& value) {
#if defined(__AVX512F__)
  __asm__("" : "+v"(value));
#elif defined(__AVX2__)
  __asm__("" : "+x"(value));
#endif
}

/// Whether both gradients of a tile fit the registers: its sums, four sums of dot products, what was read and a value.
constexpr bool fits_both_gradients(int num_vectors) { return num_vectors + 6 <= kRegisters; }

/// Sums over a tile, one a row, stay in registers, and so does what is left room for of the rows of the dot products.
template <class Scalar, int kLanes, int kVectors>
void multiply_and_dot(const EntryRuns& runs, const GradientTile<Scalar>& tile) {
  constexpr int kFree = kRegisters - kVectors - 7;
  constexpr int kHeld = kFree < kVectors ? kFree : kVectors;
  using V = Vector<Scalar, kLanes>;
  for (std::int64_t row = 0; row < runs.num_rows; ++row) {
    const std::int32_t* offset = runs.offsets + runs.begin[row];
    std::int64_t left = static_cast<std::int64_t>(runs.end[row]) - runs.begin[row];
    if (left == 0 && tile.accumulates_out) continue;
    const Scalar* value = tile.values + runs.begin[row];
    Scalar* target = tile.gradient + runs.begin[row];
    Scalar* const out_row = tile.out + row * tile.out_stride;
    const Scalar* const mine = tile.rows + row * tile.row_stride;
    V total[kVectors] = {};
    if (tile.accumulates_out) {
      for (int t = 0; t < kVectors; ++t) total[t] = load<Scalar, kLanes>(out_row + t * kLanes);
    }
    V held[kHeld];
    for (int t = 0; t < kHeld; ++t) held[t] = load<Scalar, kLanes>(mine + t * kLanes);
    const auto add = [&](int entry) {
      const Scalar* const plane = tile.in + offset[entry];
      V sum{};
#pragma GCC unroll 16
      for (int t = 0; t < kVectors; ++t) {
        V read = load<Scalar, kLanes>(plane + t * kLanes);
        keep_in_register(read);
        total[t] += read * value[entry];
        sum += read * (t < kHeld ? held[t] : load<Scalar, kLanes>(mine + t * kLanes));
      }
      return sum;
    };
    for (; left >= 4; left -= 4, offset += 4, value += 4, target += 4) {
      const V a = add(0);
      const V b = add(1);
      const V c = add(2);
      const V d = add(3);
      const auto sums = horizontal_sums<Scalar, kLanes>(a, b, c, d);
      store<Scalar, 4>(target, tile.accumulates_gradient ? sums + load<Scalar, 4>(target) : sums);
    }
    for (int entry = 0; entry < left; ++entry) {
      const Scalar sum = horizontal_sum<Scalar, kLanes>(add(entry));
      target[entry] = tile.accumulates_gradient ? target[entry] + sum : sum;
    }
    if constexpr (sizeof(V) == kVectorBytes) {
      if (tile.streams_out) {
        for (int t = 0; t < kVectors; ++t) stream<Scalar, kLanes>(out_row + t * kLanes, total[t]);
        continue;
      }
    }
    for (int t = 0; t < kVectors; ++t) store<Scalar, kLanes>(out_row + t * kLanes, total[t]);
  }
}

template <class Scalar, int kSamples, int kStride>
void scatter(const EntryRuns& runs, const Scalar* values, std::uint32_t value_base, const Scalar* rows,
             std::int64_t row_stride, Scalar* out) {
  constexpr int kLanes = Tile<Scalar, kSamples>::kLanes;
  constexpr int kVectors = Tile<Scalar, kSamples>::kVectors;
  using V = Vector<Scalar, kLanes>;
  for (std::int64_t row = 0; row < runs.num_rows; ++row) {
    if (runs.begin[row] == runs.end[row]) continue;
    V mine[kVectors];
    for (int t = 0; t < kVectors; ++t) mine[t] = load<Scalar, kLanes>(rows + row * row_stride + t * kLanes);
    for (std::uint32_t entry = runs.begin[row]; entry < runs.end[row]; ++entry) {
      Scalar* const column = out + static_cast<std::int64_t>(runs.offsets[entry]) * kStride;
      const Scalar value = values[entry - value_base];
      for (int t = 0; t < kVectors; ++t) {
        store<Scalar, kLanes>(column + t * kLanes, load<Scalar, kLanes>(column + t * kLanes) + mine[t] * value);
      }
    }
  }
}

/// A row in pieces of kPiece scalars, of which the last may overlap the one before.
template <class Scalar, int kPiece>
inline void copy_row(const Scalar* from, std::int64_t width, Scalar* to) {
  std::int64_t x = 0;
  for (; x + kPiece <= width; x += kPiece) store<Scalar, kPiece>(to + x, load<Scalar, kPiece>(from + x));
  if (x < width) store<Scalar, kPiece>(to + width - kPiece, load<Scalar, kPiece>(from + width - kPiece));
}

template <class Scalar, int kPiece>
void copy_rows_in_pieces(const Scalar* from, std::int64_t from_stride, std::int64_t num_rows, std::int64_t width,
                         Scalar* to, std::int64_t to_stride, std::int64_t num_zeros) {
  for (std::int64_t row = 0; row < num_rows; ++row, from += from_stride, to += to_stride) {
    copy_row<Scalar, kPiece>(from, width, to);
    for (std::int64_t zero = 0; zero < num_zeros; zero += 16) {
      store<Scalar, 16>(to + width + zero, Vector<Scalar, 16>{});
    }
  }
}

template <class Scalar>
void copy_rows(const Scalar* from, std::int64_t from_stride, std::int64_t num_rows, std::int64_t width, Scalar* to,
               std::int64_t to_stride, std::int64_t num_zeros) {
  const auto copy = width >= 16  ? copy_rows_in_pieces<Scalar, 16>
                    : width >= 8 ? copy_rows_in_pieces<Scalar, 8>
                    : width >= 4 ? copy_rows_in_pieces<Scalar, 4>
                                 : copy_rows_in_pieces<Scalar, 1>;
  copy(from, from_stride, num_rows, width, to, to_stride, num_zeros);
}

/// Sums of two vectors a row: as many as leave registers for the operands.
constexpr int kProductRows = kVectorBytes == 64 ? 8 : 4;

template <class Scalar>
void product(const Scalar* rows, const Scalar* columns, std::int64_t depth, Scalar* out, std::int64_t out_stride,
             bool accumulate) {
  constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Scalar));
  using V = Vector<Scalar, kLanes>;
  V sum[kProductRows][2];
#pragma GCC unroll 8
  for (int r = 0; r < kProductRows; ++r) {
    sum[r][0] = accumulate ? load<Scalar, kLanes>(out + r * out_stride) : V{};
    sum[r][1] = accumulate ? load<Scalar, kLanes>(out + r * out_stride + kLanes) : V{};
  }
  for (std::int64_t s = 0; s < depth; ++s) {
    const V first = load<Scalar, kLanes>(columns);
    const V second = load<Scalar, kLanes>(columns + kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kProductRows; ++r) {
      sum[r][0] += first * rows[r];
      sum[r][1] += second * rows[r];
    }
    rows += kProductRows;
    columns += 2 * kLanes;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kProductRows; ++r) {
    store<Scalar, kLanes>(out + r * out_stride, sum[r][0]);
    store<Scalar, kLanes>(out + r * out_stride + kLanes, sum[r][1]);
  }
}

template <class Scalar>
void sum_rows(const Scalar* rows, std::int64_t row_stride, std::int64_t num_rows, int num_samples, Scalar* out,
              bool accumulate) {
  for (std::int64_t row = 0; row < num_rows; ++row) {
    Scalar partial[8] = {};
    int s = 0;
    for (; s + 8 <= num_samples; s += 8) {
      for (int i = 0; i < 8; ++i) partial[i] += rows[row * row_stride + s + i];
    }
    for (; s < num_samples; ++s) partial[s & 7] += rows[row * row_stride + s];
    const Scalar total = ((partial[0] + partial[4]) + (partial[2] + partial[6])) +
                         ((partial[1] + partial[5]) + (partial[3] + partial[7]));
    out[row] = accumulate ? out[row] + total : total;
  }
}

/// A transpose reads at as many places at once as it has rows, more than the hardware follows: it asks for what it will
/// come to so far ahead. Into the second level: rows a multiple of 4 KiB apart share one set of the first.
constexpr std::int64_t kScalarsAhead = 32;

/// to[j][i] = from[i][j], i < num_rows, j < num_columns.
template <class Scalar>
void transpose(const Scalar* from, std::int64_t from_stride, std::int64_t num_rows, std::int64_t num_columns,
               Scalar* to, std::int64_t to_stride) {
  const std::int64_t whole_rows = num_rows & ~std::int64_t{7};
  std::int64_t column = 0;
  for (; column + 16 <= num_columns; column += 16) {
    for (std::int64_t row = 0; row < num_rows; ++row) {
      __builtin_prefetch(from + row * from_stride + column + kScalarsAhead, 0, 2);
    }
    transpose_line(from + column, from_stride, whole_rows, to + column * to_stride, to_stride);
    for (std::int64_t row = whole_rows; row < num_rows; ++row) {
      for (std::int64_t j = column; j < column + 16; ++j) to[j * to_stride + row] = from[row * from_stride + j];
    }
  }
  for (; column < num_columns; ++column) {
    for (std::int64_t row = 0; row < num_rows; ++row) to[column * to_stride + row] = from[row * from_stride + column];
  }
}

template <class Scalar>
void pack(const Scalar* dense, std::int64_t dense_stride, int num_samples, std::int64_t num_features, Scalar* packed,
          int tile) {
  transpose(dense, dense_stride, num_samples, num_features, packed, tile);
  if (num_samples == tile) return;
  for (std::int64_t f = 0; f < num_features; ++f) {
    for (int s = num_samples; s < tile; ++s) packed[f * tile + s] = 0;
  }
}

template <class Scalar>
void unpack(const Scalar* packed, int tile, int num_samples, std::int64_t num_features, Scalar* dense,
            std::int64_t dense_stride) {
  // Samples are often a multiple of 4 KiB apart, in the same set of the first-level cache: a line is written whole
  // before the next sample's takes its place. All samples of some features before the next: their lines are neighbours.
  const std::int64_t whole_features = num_features & ~std::int64_t{15};
  const int whole_samples = num_samples & ~7;
  for (std::int64_t f = 0; f < whole_features; f += 16) {
    int sample = 0;
#if defined(__AVX512F__)
    if constexpr (sizeof(Scalar) == 4) {
      for (; sample + 16 <= num_samples; sample += 16) {
        transpose_16x16(packed + f * tile + sample, tile, dense + sample * dense_stride + f, dense_stride);
      }
    }
#endif
    for (; sample < whole_samples; sample += 8) {
      transpose_8x8(packed + f * tile + sample, tile, dense + sample * dense_stride + f, dense_stride);
      transpose_8x8(packed + (f + 8) * tile + sample, tile, dense + sample * dense_stride + f + 8, dense_stride);
    }
  }
  for (int s = 0; s < num_samples; ++s) {
    for (std::int64_t f = s < whole_samples ? whole_features : 0; f < num_features; ++f) {
      dense[s * dense_stride + f] = packed[f * tile + s];
    }
  }
}

constexpr int log2_of(int value) { return value <= 1 ? 0 : 1 + log2_of(value / 2); }

template <class Scalar, int kLog2>
void fill(SparseKernels<Scalar>& table) {
  constexpr int kSamples = 1 << kLog2;
  table.multiply_columns[kLog2] = multiply<Scalar, kSamples, kSamples>;
  table.dot_columns[kLog2] = dot<Scalar, kSamples, kSamples>;
  table.scatter_columns[kLog2] = scatter<Scalar, kSamples, kSamples>;
  if constexpr (kLog2 > 0) fill<Scalar, kLog2 - 1>(table);
}

template <class Scalar, int kIndex>
void fill_positions(SparseKernels<Scalar>& table) {
  constexpr int kWidth = kRunWidths[kIndex];
  constexpr int kVectors = Tile<Scalar, kWidth>::kVectors;
  // A broadcast value, and four sums of a dot product, need registers as well.
  if constexpr (kVectors <= 14 && kVectors + 2 <= kRegisters) {
    table.multiply_positions[kIndex] = multiply<Scalar, kWidth, 1>;
    table.multiply_positions_streamed[kIndex] = multiply<Scalar, kWidth, 1, true>;
    table.num_multiply_widths = kIndex + 1;
  }
  if constexpr (kVectors <= 14 && kVectors + 5 <= kRegisters) {
    table.dot_positions[kIndex] = dot<Scalar, kWidth, 1>;
    table.num_dot_widths = kIndex + 1;
  }
  if constexpr (kVectors <= 14 && fits_both_gradients(kVectors)) {
    table.multiply_and_dot_positions[kIndex] = multiply_and_dot<Scalar, Tile<Scalar, kWidth>::kLanes, kVectors>;
    table.num_multiply_and_dot_widths = kIndex + 1;
  }
  if constexpr (kIndex + 1 < kNumRunWidths) fill_positions<Scalar, kIndex + 1>(table);
}

template <class Scalar>
SparseKernels<Scalar> make_table() {
  constexpr int kMaxLog2 = log2_of(kMaxVectors * kVectorBytes / static_cast<int>(sizeof(Scalar)));
  static_assert(kMaxLog2 < kNumTileSizes);
  SparseKernels<Scalar> table;
  table.max_tile_log2 = kMaxLog2;
  fill<Scalar, kMaxLog2>(table);
  fill_positions<Scalar, 0>(table);
  table.finish_streams = finish_streams;
  table.copy_rows = copy_rows<Scalar>;
  table.product = product<Scalar>;
  table.product_rows = kProductRows;
  table.product_columns = 2 * kVectorBytes / static_cast<int>(sizeof(Scalar));
  table.sum_rows = sum_rows<Scalar>;
  table.pack = pack<Scalar>;
  table.unpack = unpack<Scalar>;
  return table;
}

}  // namespace

template <class Scalar>
const SparseKernels<Scalar>& sparse_kernel_table() {
  static const SparseKernels<Scalar> table = make_table<Scalar>();
  return table;
}

template const SparseKernels<float>& sparse_kernel_table<float>();
template const SparseKernels<double>& sparse_kernel_table<double>();

}  // namespace itop::cpu::ITOP_SPARSE_NAMESPACE
