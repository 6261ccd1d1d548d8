// The GPU's sparse products, run by the simulator, against the dense reference and the CPU's kernels.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

#include "cuda/sparse_kernels.hpp"
#include "itop/sparse_linear.hpp"
#include "support/simt_simulator.hpp"
#include "support/sparse_case.hpp"

namespace itop::cuda {
namespace {

using simt::Schedule;
using simt::simulate;
using testing::random_values;
using testing::SparseCase;

template <class Element>
std::vector<typename Element::Stored> stored(const std::vector<double>& values) {
  std::vector<typename Element::Stored> result;
  for (const double value : values) {
    result.push_back(Element::narrow(static_cast<typename Element::Sum>(value)));
  }
  return result;
}

template <class Element>
std::vector<double> widened(const std::vector<typename Element::Stored>& values) {
  std::vector<double> result;
  for (const auto value : values) result.push_back(static_cast<double>(Element::widen(value)));
  return result;
}

template <class Element>
typename Element::Stored poison() {
  return Element::narrow(std::numeric_limits<typename Element::Sum>::quiet_NaN());
}

/// [rows, columns] to [columns, rows].
template <class T>
std::vector<T> transposed(const std::vector<T>& from, std::int64_t num_rows, std::int64_t num_columns) {
  std::vector<T> to(from.size());
  for (std::int64_t row = 0; row < num_rows; ++row) {
    for (std::int64_t column = 0; column < num_columns; ++column) {
      to[static_cast<std::size_t>(column * num_rows + row)] =
          from[static_cast<std::size_t>(row * num_columns + column)];
    }
  }
  return to;
}

/// A matrix in both orders.
struct Orders {
  std::vector<std::int64_t> column_pointers;
  std::vector<std::int32_t> row_of;
  std::vector<std::uint32_t> permutation;
  DeviceSparseRows rows;
  DeviceSparseRows columns;

  Orders(const SparseCase& c, ThreadPool& pool)
      : column_pointers(static_cast<std::size_t>(c.num_columns) + 1),
        row_of(c.columns.size()),
        permutation(c.columns.size()) {
    const auto num_entries = static_cast<std::int64_t>(c.columns.size());
    transpose_pattern(c.num_rows, c.num_columns, c.row_pointers.data(), c.columns.data(), column_pointers.data(),
                      row_of.data(), permutation.data(), pool);
    rows = {c.num_rows, num_entries, c.row_pointers.data(), c.columns.data(), nullptr};
    columns = {c.num_columns, num_entries, column_pointers.data(), row_of.data(), permutation.data()};
  }
};

template <class Value, class Activation>
std::vector<typename Activation::Stored> multiply(const DeviceSparseRows& rows,
                                                  const std::vector<typename Value::Stored>& values,
                                                  const std::vector<typename Activation::Stored>& in,
                                                  std::int64_t batch, const typename Value::Stored* bias,
                                                  Schedule schedule = Schedule::kForward) {
  std::vector<typename Activation::Stored> out(static_cast<std::size_t>(rows.num_rows * batch), poison<Activation>());
  simulate(sparse_multiply_blocks(rows.num_rows, batch), kStreamThreads, schedule,
           [&] { sparse_multiply<Value, Activation>(rows, values.data(), in.data(), batch, bias, out.data()); });
  return out;
}

template <class Value, class Activation>
std::vector<typename Value::Stored> gradient(const DeviceSparseRows& rows,
                                             const std::vector<typename Activation::Stored>& in,
                                             const std::vector<typename Activation::Stored>& output_gradient,
                                             std::int64_t batch, Schedule schedule = Schedule::kForward) {
  std::vector<typename Value::Stored> result(static_cast<std::size_t>(rows.num_entries), poison<Value>());
  simulate(sparse_gradient_blocks(rows.num_entries), kStreamThreads, schedule,
           [&] { sparse_gradient<Value, Activation>(rows, in.data(), output_gradient.data(), batch, result.data()); });
  return result;
}

void expect_near(const std::vector<double>& got, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], tolerance * (1.0 + std::abs(expected[i]))) << "at " << i;
  }
}

using ShapeAndBatch = std::tuple<std::int64_t, std::int64_t, double, std::int64_t>;

class CudaSparse : public ::testing::TestWithParam<ShapeAndBatch> {
 protected:
  /// All products for one pair of types, against sums in double of the rounded operands.
  template <class Value, class Activation>
  void agrees_with_dense(double tolerance) const {
    const auto [num_rows, num_columns, density, batch] = GetParam();
    ThreadPool pool(2);
    const SparseCase c(num_rows, num_columns, density, 64, pool);
    const Orders orders(c, pool);
    const auto values = stored<Value>(c.values);
    const auto bias = stored<Value>(random_values(static_cast<std::size_t>(num_rows), 3));
    const auto x = stored<Activation>(random_values(static_cast<std::size_t>(num_columns * batch), 1));
    const auto g = stored<Activation>(random_values(static_cast<std::size_t>(num_rows * batch), 2));
    const auto wide_values = widened<Value>(values);
    const auto wide_bias = widened<Value>(bias);
    const auto wide_x = widened<Activation>(x);
    const auto wide_g = widened<Activation>(g);

    std::vector<double> y(g.size());
    std::vector<double> input(x.size(), 0.0);
    std::vector<double> of_values(values.size(), 0.0);
    for (std::int64_t row = 0; row < num_rows; ++row) {
      for (std::int64_t sample = 0; sample < batch; ++sample) {
        const auto at_row = static_cast<std::size_t>(row * batch + sample);
        y[at_row] = wide_bias[static_cast<std::size_t>(row)];
        for (std::int64_t entry = c.row_pointers[static_cast<std::size_t>(row)];
             entry < c.row_pointers[static_cast<std::size_t>(row) + 1]; ++entry) {
          const auto e = static_cast<std::size_t>(entry);
          const auto at_column = static_cast<std::size_t>(c.columns[e] * batch + sample);
          y[at_row] += wide_values[e] * wide_x[at_column];
          input[at_column] += wide_values[e] * wide_g[at_row];
          of_values[e] += wide_g[at_row] * wide_x[at_column];
        }
      }
    }
    expect_near(widened<Activation>(multiply<Value, Activation>(orders.rows, values, x, batch, bias.data())), y,
                tolerance);
    expect_near(widened<Activation>(multiply<Value, Activation>(orders.columns, values, g, batch, nullptr)), input,
                tolerance);
    expect_near(widened<Value>(gradient<Value, Activation>(orders.rows, x, g, batch)), of_values, tolerance);
  }
};

// Sums of at most 300 products of numbers below one: relative to 1 + |sum|, float32 rounds to some 1e-6 and a bfloat16
// result to 2^-9.
TEST_P(CudaSparse, Float32ProductsAgreeWithDense) { agrees_with_dense<Float32Element, Float32Element>(2e-5); }
TEST_P(CudaSparse, Float64ProductsAgreeWithDense) { agrees_with_dense<Float64Element, Float64Element>(1e-13); }
TEST_P(CudaSparse, BFloat16ProductsAgreeWithDense) { agrees_with_dense<BFloat16Element, BFloat16Element>(4e-3); }
TEST_P(CudaSparse, BFloat16ActivationsOnFloat32Values) { agrees_with_dense<Float32Element, BFloat16Element>(4e-3); }
TEST_P(CudaSparse, BFloat16ValuesOnFloat32Activations) { agrees_with_dense<BFloat16Element, Float32Element>(4e-3); }

TEST_P(CudaSparse, ResultsDoNotDependOnTheOrderOfThreads) {
  const auto [num_rows, num_columns, density, batch] = GetParam();
  ThreadPool pool(2);
  const SparseCase c(num_rows, num_columns, density, 64, pool);
  const Orders orders(c, pool);
  const auto values = stored<Float32Element>(c.values);
  const auto x = stored<Float32Element>(random_values(static_cast<std::size_t>(num_columns * batch), 1));
  const auto g = stored<Float32Element>(random_values(static_cast<std::size_t>(num_rows * batch), 2));
  const auto forward = [&](Schedule schedule) {
    return multiply<Float32Element, Float32Element>(orders.rows, values, x, batch, nullptr, schedule);
  };
  const auto backward = [&](Schedule schedule) {
    return gradient<Float32Element, Float32Element>(orders.rows, x, g, batch, schedule);
  };
  EXPECT_EQ(forward(Schedule::kForward), forward(Schedule::kBackward));
  EXPECT_EQ(backward(Schedule::kForward), backward(Schedule::kBackward));
}

TEST_P(CudaSparse, AgreesWithTheCpuKernels) {
  const auto [num_rows, num_columns, density, batch] = GetParam();
  ThreadPool pool(2);
  const SparseCase c(num_rows, num_columns, density, 64, pool);
  const Orders orders(c, pool);
  const auto x = random_values(static_cast<std::size_t>(num_columns * batch), 1);  // [batch, features]
  const auto g = random_values(static_cast<std::size_t>(num_rows * batch), 2);
  std::vector<double> y(g.size());
  std::vector<double> of_values(c.values.size());
  const SparsePattern pattern = c.pattern();
  sparse_linear_forward(pattern, c.values.data(), ValueType::kFloat64, {x.data(), ValueType::kFloat64, batch}, nullptr,
                        y.data(), pool);
  sparse_linear_backward(pattern, nullptr, c.values.data(), ValueType::kFloat64, {x.data(), ValueType::kFloat64, batch},
                         {g.data(), ValueType::kFloat64, batch}, {nullptr, of_values.data(), nullptr}, pool);
  const auto features = transposed(x, batch, num_columns);
  expect_near(transposed(multiply<Float64Element, Float64Element>(orders.rows, c.values, features, batch, nullptr),
                         num_rows, batch),
              y, 1e-13);
  expect_near(gradient<Float64Element, Float64Element>(orders.rows, features, transposed(g, batch, num_rows), batch),
              of_values, 1e-13);
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaSparse,
                         ::testing::Values(ShapeAndBatch{1, 1, 1.0, 1}, ShapeAndBatch{7, 5, 0.5, 3},
                                           ShapeAndBatch{33, 100, 0.9, 32}, ShapeAndBatch{70, 300, 0.3, 33},
                                           ShapeAndBatch{9, 40, 0.2, 129}, ShapeAndBatch{40, 64, 0.05, 300},
                                           ShapeAndBatch{6, 6, 0.0, 4}));

// The dense operand is not there as a whole: only the two features that the matrix reads, as far apart as 2^31 samples
// and more.
TEST(CudaSparseOffsets, ReachBeyond32Bits) {
  constexpr std::int64_t kBatch = 3;
  constexpr std::int32_t kLastColumn = std::numeric_limits<std::int32_t>::max();
  std::vector<float> far{1.0F, 2.0F, 3.0F};
  const std::vector<std::int64_t> pointers{0, 1};
  const std::vector<std::int32_t> columns{kLastColumn};
  const DeviceSparseRows rows{1, 1, pointers.data(), columns.data(), nullptr};
  const float value = 2.0F;
  std::vector<float> out(kBatch);
  // An address that feature 2^31 - 1 brings back to `far`; what lies between is never touched.
  const auto offset = static_cast<std::uintptr_t>(kLastColumn) * kBatch * sizeof(float);
  const auto* const in = reinterpret_cast<const float*>(reinterpret_cast<std::uintptr_t>(far.data()) - offset);
  simulate(sparse_multiply_blocks(1, kBatch), kStreamThreads, Schedule::kForward,
           [&] { sparse_multiply<Float32Element, Float32Element>(rows, &value, in, kBatch, nullptr, out.data()); });
  EXPECT_EQ(out, (std::vector<float>{2.0F, 4.0F, 6.0F}));

  const std::vector<float> g{1.0F, 10.0F, 100.0F};
  float result = 0.0F;
  simulate(sparse_gradient_blocks(1), kStreamThreads, Schedule::kForward,
           [&] { sparse_gradient<Float32Element, Float32Element>(rows, in, g.data(), kBatch, &result); });
  EXPECT_EQ(result, 321.0F);
}

}  // namespace
}  // namespace itop::cuda
