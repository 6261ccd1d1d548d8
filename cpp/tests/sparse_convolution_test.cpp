#include "itop/sparse_convolution.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "itop/thread_pool.hpp"
#include "support/sparse_case.hpp"

namespace itop {
namespace {

using testing::random_values;
using testing::SparseCase;

struct Products {
  std::vector<double> y, input, values, bias;

  bool operator==(const Products&) const = default;
};

struct Images {
  std::vector<double> x, g, bias;

  Images(const ConvolutionShape& s, std::int64_t batch)
      : x(random_values(static_cast<std::size_t>(batch * s.in_channels * s.in_height * s.in_width), 1)),
        g(random_values(static_cast<std::size_t>(batch * s.out_channels * s.out_height() * s.out_width()), 2)),
        bias(random_values(static_cast<std::size_t>(s.out_channels), 3)) {}
};

Products compute(const ConvolutionShape& shape, PlaneLayout layout, const SparseCase& c, std::int64_t batch,
                 ThreadPool& pool) {
  std::vector<std::int32_t> shifts(c.columns.size());
  fill_convolution_shifts(shape, layout, c.row_pointers.data(), c.columns.data(), shifts.data());
  const std::int64_t num_planes = num_convolution_planes(shape);
  std::vector<std::int64_t> plane_pointers(static_cast<std::size_t>(num_planes) + 1);
  std::vector<std::int32_t> out_channels(c.columns.size());
  std::vector<std::int32_t> back_shifts(c.columns.size());
  std::vector<std::uint32_t> permutation(c.columns.size());
  transpose_convolution(shape, layout, c.row_pointers.data(), c.columns.data(), plane_pointers.data(),
                        out_channels.data(), permutation.data(), back_shifts.data());
  const auto starts = SparseCase::starts_of(num_planes, shape.out_channels, plane_pointers, out_channels, 3, pool);
  SparsePattern forward = c.pattern();
  forward.columns = shifts.data();
  const SparsePattern transposed{num_planes,    shape.out_channels, 3,
                                 starts.data(), back_shifts.data(), permutation.data()};
  const ConvolutionPattern pattern{shape, layout, forward, transposed};

  const Images images(shape, batch);
  const double poison = std::numeric_limits<double>::quiet_NaN();
  Products result;
  result.y.assign(images.g.size(), poison);
  result.input.assign(images.x.size(), poison);
  result.values.assign(c.values.size(), poison);
  result.bias.assign(images.bias.size(), poison);
  const auto type = ValueType::kFloat64;
  sparse_convolution_forward(pattern, c.values.data(), type, images.x.data(), type, batch, images.bias.data(),
                             result.y.data(), pool);
  sparse_convolution_backward(pattern, c.values.data(), type, images.x.data(), images.g.data(), type, batch,
                              {result.input.data(), result.values.data(), result.bias.data()}, pool);
  return result;
}

/// The definition, one product at a time.
Products reference(const ConvolutionShape& s, const SparseCase& c, std::int64_t batch) {
  const Images images(s, batch);
  Products result;
  result.input.assign(images.x.size(), 0.0);
  result.values.assign(c.values.size(), 0.0);
  result.bias.assign(images.bias.size(), 0.0);
  result.y.assign(images.g.size(), 0.0);
  const std::int64_t area = s.kernel_height * s.kernel_width;
  for (std::int64_t n = 0; n < batch; ++n) {
    for (std::int64_t o = 0; o < s.out_channels; ++o) {
      for (std::int64_t oy = 0; oy < s.out_height(); ++oy) {
        for (std::int64_t ox = 0; ox < s.out_width(); ++ox) {
          const auto out =
              static_cast<std::size_t>(((n * s.out_channels + o) * s.out_height() + oy) * s.out_width() + ox);
          result.y[out] = images.bias[static_cast<std::size_t>(o)];
          result.bias[static_cast<std::size_t>(o)] += images.g[out];
        }
      }
      for (std::int64_t e = c.row_pointers[static_cast<std::size_t>(o)];
           e < c.row_pointers[static_cast<std::size_t>(o) + 1]; ++e) {
        const auto entry = static_cast<std::size_t>(e);
        const std::int64_t column = c.columns[entry];
        const std::int64_t channel = o / (s.out_channels / s.groups) * (s.in_channels / s.groups) + column / area;
        for (std::int64_t oy = 0; oy < s.out_height(); ++oy) {
          for (std::int64_t ox = 0; ox < s.out_width(); ++ox) {
            const std::int64_t iy =
                oy * s.stride_height - s.padding_height + column % area / s.kernel_width * s.dilation_height;
            const std::int64_t ix =
                ox * s.stride_width - s.padding_width + column % area % s.kernel_width * s.dilation_width;
            if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) continue;
            const auto in =
                static_cast<std::size_t>(((n * s.in_channels + channel) * s.in_height + iy) * s.in_width + ix);
            const auto out =
                static_cast<std::size_t>(((n * s.out_channels + o) * s.out_height() + oy) * s.out_width() + ox);
            result.y[out] += c.values[entry] * images.x[in];
            result.input[in] += c.values[entry] * images.g[out];
            result.values[entry] += images.g[out] * images.x[in];
          }
        }
      }
    }
  }
  return result;
}

void expect_near(const std::vector<double>& actual, const std::vector<double>& expected, const char* what) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected[i], 1e-11) << what << " " << i;
}

using Parameters = std::tuple<ConvolutionShape, std::int64_t>;

class SparseConvolutionOf : public ::testing::TestWithParam<Parameters> {};

TEST_P(SparseConvolutionOf, EqualsItsDefinitionInEveryLayoutForAnyNumberOfThreads) {
  const auto& [shape, batch] = GetParam();
  ThreadPool one(1);
  const SparseCase c(shape.out_channels, shape.num_columns(), 0.5, 5, one);
  const Products expected = reference(shape, c, batch);
  for (const PlaneLayout layout : {PlaneLayout::kPositions, PlaneLayout::kInterleaved}) {
    const Products products = compute(shape, layout, c, batch, one);
    expect_near(products.y, expected.y, "output");
    expect_near(products.input, expected.input, "input gradient");
    expect_near(products.values, expected.values, "value gradient");
    expect_near(products.bias, expected.bias, "bias gradient");
    for (const int num_threads : {2, 7}) {
      ThreadPool pool(num_threads);
      EXPECT_TRUE(compute(shape, layout, c, batch, pool) == products) << num_threads << " threads";
    }
  }
}

//                in out groups  h   w  kernel stride padding dilation
INSTANTIATE_TEST_SUITE_P(
    Shapes, SparseConvolutionOf,
    ::testing::Values(Parameters{{4, 6, 1, 7, 7, 3, 3, 1, 1, 1, 1, 1, 1}, 3},     // a ResNet's block
                      Parameters{{4, 6, 1, 8, 8, 3, 3, 2, 2, 1, 1, 1, 1}, 2},     // its first, with stride
                      Parameters{{4, 6, 1, 9, 8, 1, 1, 2, 2, 0, 0, 1, 1}, 3},     // its shortcut: inputs nobody reads
                      Parameters{{5, 7, 1, 7, 7, 1, 1, 1, 1, 0, 0, 1, 1}, 4},     // pointwise: read in place
                      Parameters{{5, 7, 1, 3, 2, 1, 1, 1, 1, 0, 0, 1, 1}, 4},     // pointwise, smaller than a run
                      Parameters{{3, 4, 1, 12, 10, 7, 7, 2, 2, 3, 3, 1, 1}, 2},   // a stem
                      Parameters{{6, 6, 6, 6, 9, 3, 3, 1, 1, 1, 1, 1, 1}, 2},     // depthwise
                      Parameters{{8, 4, 2, 9, 9, 3, 3, 1, 2, 0, 2, 2, 1}, 2},     // groups, dilation, uneven everything
                      Parameters{{2, 3, 1, 6, 7, 2, 4, 3, 1, 2, 5, 1, 1}, 18},    // padding wider than the kernel
                      Parameters{{2, 3, 1, 4, 4, 3, 3, 1, 1, 1, 1, 1, 1}, 37},    // more images than interleave
                      Parameters{{3, 4, 1, 5, 29, 3, 3, 1, 1, 1, 1, 1, 1}, 9},    // tiles of 14 and 1, a group of one
                      Parameters{{3, 5, 1, 4, 15, 1, 3, 1, 1, 0, 1, 1, 1}, 8},    // tiles of 8 and 7, no row above
                      Parameters{{3, 5, 1, 14, 13, 3, 3, 2, 2, 1, 1, 1, 1}, 17},  // stride over odd sizes
                      Parameters{{2, 9, 1, 6, 4, 5, 1, 1, 1, 2, 0, 1, 1}, 7},     // tall kernel, narrow images
                      Parameters{{1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1}, 1}));

TEST(SparseConvolution, RefusesShapesThatAreNone) {
  ConvolutionShape shape{4, 6, 1, 5, 5, 3, 3, 1, 1, 0, 0, 1, 1};
  EXPECT_EQ(num_convolution_planes(shape), 4);
  const auto refused = [&](auto&& change) {
    ConvolutionShape changed = shape;
    change(changed);
    EXPECT_THROW(num_convolution_planes(changed), std::invalid_argument);
  };
  refused([](ConvolutionShape& s) { s.groups = 3; });
  refused([](ConvolutionShape& s) { s.stride_width = 0; });
  refused([](ConvolutionShape& s) { s.padding_height = -1; });
  refused([](ConvolutionShape& s) { s.dilation_height = 3; });  // reaches over 7 of 5 rows
  refused([](ConvolutionShape& s) { s.in_channels = 0; });
}

}  // namespace
}  // namespace itop
