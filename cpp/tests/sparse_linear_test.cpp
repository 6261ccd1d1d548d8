#include "itop/sparse_linear.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "itop/thread_pool.hpp"
#include "support/sparse_case.hpp"

namespace itop {
namespace {

using testing::random_values;
using testing::SparseCase;

template <class T>
std::vector<T> as(const std::vector<double>& values) {
  return std::vector<T>(values.begin(), values.end());
}

/// Everything a layer computes, for one scalar type and number of threads.
template <class T>
struct Products {
  std::vector<T> y, input, scattered, values, bias;

  bool operator==(const Products&) const = default;
};

template <class T>
Products<T> compute(const SparseCase& c, std::int64_t batch, ThreadPool& pool) {
  const ValueType type = sizeof(T) == 8 ? ValueType::kFloat64 : ValueType::kFloat32;
  const auto values = as<T>(c.values);
  const auto x = as<T>(random_values(static_cast<std::size_t>(batch * c.num_columns), 1));
  const auto g = as<T>(random_values(static_cast<std::size_t>(batch * c.num_rows), 2));
  const auto bias = as<T>(random_values(static_cast<std::size_t>(c.num_rows), 3));

  std::vector<std::int64_t> column_pointers(static_cast<std::size_t>(c.num_columns) + 1);
  std::vector<std::int32_t> rows(c.columns.size());
  std::vector<std::uint32_t> permutation(c.columns.size());
  transpose_pattern(c.num_rows, c.num_columns, c.row_pointers.data(), c.columns.data(), column_pointers.data(),
                    rows.data(), permutation.data(), pool);
  const auto starts = SparseCase::starts_of(c.num_columns, c.num_rows, column_pointers, rows, c.block_width, pool);
  const SparsePattern transposed{c.num_columns, c.num_rows,  c.block_width,
                                 starts.data(), rows.data(), permutation.data()};

  Products<T> result;
  const T poison = std::numeric_limits<T>::quiet_NaN();  // every element must be written
  result.y.assign(g.size(), poison);
  result.input.assign(x.size(), poison);
  result.scattered.assign(x.size(), poison);
  result.values.assign(values.size(), poison);
  result.bias.assign(bias.size(), poison);
  const SparsePattern pattern = c.pattern();
  sparse_linear_forward(pattern, values.data(), type, {x.data(), type, batch}, bias.data(), result.y.data(), pool);
  sparse_linear_backward(pattern, &transposed, values.data(), type, {x.data(), type, batch}, {g.data(), type, batch},
                         {result.input.data(), result.values.data(), result.bias.data()}, pool);
  sparse_linear_backward(pattern, nullptr, values.data(), type, {x.data(), type, batch}, {g.data(), type, batch},
                         {result.scattered.data(), nullptr, nullptr}, pool);
  return result;
}

using Parameters = std::tuple<std::int64_t, std::int64_t, std::int64_t, double>;

class SparseLinearOf : public ::testing::TestWithParam<Parameters> {};

template <class T>
void expect_dense_products(const SparseCase& c, std::int64_t batch, double tolerance) {
  ThreadPool pool(2);
  const Products<T> products = compute<T>(c, batch, pool);
  const auto x = random_values(static_cast<std::size_t>(batch * c.num_columns), 1);
  const auto g = random_values(static_cast<std::size_t>(batch * c.num_rows), 2);
  const auto bias = random_values(static_cast<std::size_t>(c.num_rows), 3);
  const auto at = [](const auto& matrix, std::int64_t width, std::int64_t row, std::int64_t column) {
    return static_cast<double>(matrix[static_cast<std::size_t>(row * width + column)]);
  };
  for (std::int64_t s = 0; s < batch; ++s) {
    for (std::int64_t row = 0; row < c.num_rows; ++row) {
      double expected = bias[static_cast<std::size_t>(row)];
      for (std::int64_t k = 0; k < c.num_columns; ++k) {
        expected += at(x, c.num_columns, s, k) * at(c.dense, c.num_columns, row, k);
      }
      ASSERT_NEAR(at(products.y, c.num_rows, s, row), expected, tolerance);
    }
    for (std::int64_t column = 0; column < c.num_columns; ++column) {
      double expected = 0;
      for (std::int64_t k = 0; k < c.num_rows; ++k) {
        expected += at(g, c.num_rows, s, k) * at(c.dense, c.num_columns, k, column);
      }
      ASSERT_NEAR(at(products.input, c.num_columns, s, column), expected, tolerance);
      ASSERT_NEAR(at(products.scattered, c.num_columns, s, column), expected, tolerance);
    }
  }
  for (std::int64_t row = 0; row < c.num_rows; ++row) {
    double bias_gradient = 0;
    for (std::int64_t s = 0; s < batch; ++s) bias_gradient += at(g, c.num_rows, s, row);
    ASSERT_NEAR(static_cast<double>(products.bias[static_cast<std::size_t>(row)]), bias_gradient, tolerance);
    for (std::int64_t e = c.row_pointers[static_cast<std::size_t>(row)];
         e < c.row_pointers[static_cast<std::size_t>(row) + 1]; ++e) {
      double expected = 0;
      for (std::int64_t s = 0; s < batch; ++s) {
        expected += at(g, c.num_rows, s, row) * at(x, c.num_columns, s, c.columns[static_cast<std::size_t>(e)]);
      }
      ASSERT_NEAR(static_cast<double>(products.values[static_cast<std::size_t>(e)]), expected, tolerance);
    }
  }
}

TEST_P(SparseLinearOf, EqualsTheDenseProducts) {
  const auto [rows, columns, batch, density] = GetParam();
  ThreadPool pool(2);
  for (const std::int64_t block : {7, 1000}) {
    const SparseCase c(rows, columns, density, block, pool);
    expect_dense_products<float>(c, batch, 1e-4);
    expect_dense_products<double>(c, batch, 1e-12);
  }
}

TEST_P(SparseLinearOf, GivesTheSameBitsForAnyNumberOfThreads) {
  const auto [rows, columns, batch, density] = GetParam();
  ThreadPool one(1);
  const SparseCase c(rows, columns, density, 16, one);
  const Products<float> expected = compute<float>(c, batch, one);
  for (const int num_threads : {2, 3, 8}) {
    ThreadPool pool(num_threads);
    EXPECT_TRUE(compute<float>(c, batch, pool) == expected) << num_threads << " threads";
  }
}

// Batches around every tile size, and matrices with one row, one column, nothing, everything.
INSTANTIATE_TEST_SUITE_P(Shapes, SparseLinearOf,
                         ::testing::Values(Parameters{1, 1, 1, 1.0}, Parameters{31, 50, 1, 0.2},
                                           Parameters{31, 50, 2, 0.2}, Parameters{31, 50, 3, 0.2},
                                           Parameters{17, 64, 7, 0.5}, Parameters{17, 64, 13, 0.5},
                                           Parameters{40, 33, 31, 0.1}, Parameters{40, 33, 64, 0.1},
                                           Parameters{64, 40, 130, 0.05}, Parameters{9, 70, 200, 1.0},
                                           Parameters{20, 20, 16, 0.0}, Parameters{1, 90, 33, 0.3},
                                           Parameters{90, 1, 33, 0.9}));

TEST(SparseLinear, ManySamplesPassInGroups) {
  ThreadPool pool(2);
  const SparseCase c(12, 20, 0.3, 8, pool);
  expect_dense_products<float>(c, 1500, 1e-3);
}

TEST(SparseLinear, GradientsOfNoSamplesAreZero) {
  ThreadPool pool(2);
  const SparseCase c(6, 8, 0.5, 8, pool);
  const Products<float> products = compute<float>(c, 0, pool);
  for (const float gradient : products.values) EXPECT_EQ(gradient, 0.0F);
  for (const float gradient : products.bias) EXPECT_EQ(gradient, 0.0F);
}

TEST(SparseLinear, BFloat16IsStorageOnlySumsAreFloat32) {
  ThreadPool pool(1);
  // One row of 300 ones times ones: 300 is a bfloat16, but 257 is not, so a bfloat16 sum would stop at 256.
  constexpr std::int64_t kColumns = 300;
  const std::uint16_t one = 0x3f80;
  std::vector<std::int64_t> pointers{0, kColumns};
  std::vector<std::int32_t> columns(kColumns);
  for (std::int64_t i = 0; i < kColumns; ++i) columns[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(i);
  const auto starts = SparseCase::starts_of(1, kColumns, pointers, columns, kColumns, pool);
  const SparsePattern pattern{1, kColumns, kColumns, starts.data(), columns.data(), nullptr};
  const std::vector<std::uint16_t> values(kColumns, one);
  std::uint16_t y = 0;
  sparse_linear_forward(pattern, values.data(), ValueType::kBFloat16, {values.data(), ValueType::kBFloat16, 1}, nullptr,
                        &y, pool);
  EXPECT_EQ(std::bit_cast<float>(static_cast<std::uint32_t>(y) << 16), 300.0F);
}

TEST(SparseLinear, RefusesToMixFloat64WithOtherTypes) {
  ThreadPool pool(1);
  const SparseCase c(2, 2, 1.0, 2, pool);
  const float x[2] = {1, 2};
  float y[2];
  EXPECT_THROW(sparse_linear_forward(c.pattern(), c.values.data(), ValueType::kFloat64, {x, ValueType::kFloat32, 1},
                                     nullptr, y, pool),
               std::invalid_argument);
}

}  // namespace
}  // namespace itop
