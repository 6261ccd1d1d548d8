// Sparse products against their floors: the fused-multiply-add peak does not move, the second-level cache feeds it.
// Usage: sparse_benchmark [rows columns batch repeats block-width density]

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <vector>

#include "itop/build_info.hpp"
#include "itop/sparse_linear.hpp"
#include "itop/sparse_matrix.hpp"
#include "itop/thread_pool.hpp"

namespace {

struct Matrix {
  std::int64_t num_rows;
  std::int64_t num_columns;
  std::vector<std::int64_t> row_pointers;
  std::vector<std::int32_t> columns;
  std::vector<float> values;
};

Matrix random_matrix(std::int64_t num_rows, std::int64_t num_columns, double density) {
  std::mt19937_64 generator(7);
  std::geometric_distribution<std::int64_t> gap(density);
  Matrix matrix{num_rows, num_columns, {0}, {}, {}};
  for (std::int64_t row = 0; row < num_rows; ++row) {
    for (std::int64_t column = gap(generator); column < num_columns; column += 1 + gap(generator)) {
      matrix.columns.push_back(static_cast<std::int32_t>(column));
    }
    matrix.row_pointers.push_back(static_cast<std::int64_t>(matrix.columns.size()));
  }
  matrix.values.assign(matrix.columns.size(), 0.5F);
  return matrix;
}

template <class Body>
double best_seconds(int repeats, Body&& body) {
  double best = std::numeric_limits<double>::max();
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t num_rows = argc > 1 ? std::atoll(argv[1]) : 4096;
  const std::int64_t num_columns = argc > 2 ? std::atoll(argv[2]) : 4096;
  const std::int64_t batch = argc > 3 ? std::atoll(argv[3]) : 128;
  const int repeats = argc > 4 ? std::atoi(argv[4]) : 10;
  const std::int64_t width = argc > 5 ? std::atoll(argv[5]) : 1024;
  std::vector<double> densities{0.3, 0.1, 0.05, 0.02, 0.01};
  if (argc > 6) densities = {std::atof(argv[6])};
  auto& pool = itop::ThreadPool::global();
  std::printf("%s, %d threads, [%lld, %lld], batch %lld\n", itop::build_info().instruction_set.c_str(),
              pool.num_threads(), static_cast<long long>(num_rows), static_cast<long long>(num_columns),
              static_cast<long long>(batch));
  std::printf("density   forward    input    scatter   weights   (ms)        GFLOP/s   transpose  blocks   step\n");
  for (const double density : densities) {
    Matrix matrix = random_matrix(num_rows, num_columns, density);
    const auto num_entries = matrix.columns.size();
    std::vector<std::int64_t> column_pointers(num_columns + 1);
    std::vector<std::int32_t> rows(num_entries);
    std::vector<std::uint32_t> permutation(num_entries);
    const double transposing = best_seconds(2, [&] {
      itop::transpose_pattern(num_rows, num_columns, matrix.row_pointers.data(), matrix.columns.data(),
                              column_pointers.data(), rows.data(), permutation.data(), pool);
    });
    const std::int64_t row_width = width;
    std::vector<std::uint32_t> starts((num_columns / row_width + 2) * num_rows);
    std::vector<std::uint32_t> transposed_starts((num_rows / row_width + 2) * num_columns);
    const double blocking = best_seconds(2, [&] {
      itop::fill_block_starts(num_rows, num_columns, matrix.row_pointers.data(), matrix.columns.data(), row_width,
                              starts.data(), pool);
    });
    itop::fill_block_starts(num_columns, num_rows, column_pointers.data(), rows.data(), row_width,
                            transposed_starts.data(), pool);
    const itop::SparsePattern pattern{num_rows, num_columns, row_width, starts.data(), matrix.columns.data(), nullptr};
    const itop::SparsePattern transposed{num_columns, num_rows,          row_width, transposed_starts.data(),
                                         rows.data(), permutation.data()};
    std::vector<float> x(batch * num_columns, 1.0F);
    std::vector<float> y(batch * num_rows, 1.0F);
    std::vector<float> gradient(num_entries);
    std::vector<float> bias(num_rows);
    const auto f32 = itop::ValueType::kFloat32;
    const itop::ActivationView x_view{x.data(), f32, batch};
    const itop::ActivationView y_view{y.data(), f32, batch};
    const auto backward = [&](const itop::SparsePattern* other, const itop::LinearGradients& gradients) {
      return best_seconds(repeats, [&] {
        itop::sparse_linear_backward(pattern, other, matrix.values.data(), f32, x_view, y_view, gradients, pool);
      });
    };
    const double forward = best_seconds(repeats, [&] {
      itop::sparse_linear_forward(pattern, matrix.values.data(), f32, x_view, bias.data(), y.data(), pool);
    });
    const double input = backward(&transposed, {x.data(), nullptr, nullptr});
    const double scattering = backward(nullptr, {x.data(), nullptr, nullptr});
    const double weights = backward(nullptr, {nullptr, gradient.data(), bias.data()});
    const double both = backward(&transposed, {x.data(), gradient.data(), bias.data()});
    const double flops = 2e-9 * static_cast<double>(num_entries) * static_cast<double>(batch);
    std::printf("%6.4f %9.3f %9.3f %9.3f %9.3f   %5.1f %5.1f %5.1f %5.1f  %9.3f %9.3f %9.3f\n", density, forward * 1e3,
                input * 1e3, scattering * 1e3, weights * 1e3, flops / forward, flops / input, flops / scattering,
                flops / weights, transposing * 1e3, blocking * 1e3, (forward + both) * 1e3);
  }
  return 0;
}
