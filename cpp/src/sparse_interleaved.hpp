#pragma once

#include <cstdint>

#include "itop/sparse_convolution.hpp"
#include "itop/thread_pool.hpp"
#include "sparse_planes.hpp"
#include "sparse_slices.hpp"

namespace itop {

/// The forward pass over groups of interleaved images: `sparse_convolution_forward` with the values in the order of
/// `pattern.forward`.
///
/// A group goes through its images a strip of rows at a time: rows are packed when the first tap reaches them and
/// results unpacked while they are in the second-level cache.
/// @param bias [out_channels] or null
template <class Scalar>
void interleaved_forward(const PlaneGrid& grid, const ConvolutionPattern& pattern, const Scalar* values,
                         const Scalar* x, std::int64_t batch, const Scalar* bias, Scalar* y, ThreadPool& pool);

/// The gradients, likewise.
/// @param values         in the order of `pattern.transposed`; unused where `input_gradient` is null
/// @param input_gradient the shape of x, or null
/// @param sums           the other gradients' sums; what is not wanted is null
template <class Scalar>
void interleaved_backward(const PlaneGrid& grid, const ConvolutionPattern& pattern, const Scalar* values,
                          const Scalar* x, const Scalar* output_gradient, std::int64_t batch, Scalar* input_gradient,
                          const SliceSums<Scalar>& sums, ThreadPool& pool);

}  // namespace itop
