#pragma once

#include <cstdint>

#include "itop/sparse_convolution.hpp"
#include "itop/thread_pool.hpp"
#include "sparse_planes.hpp"
#include "sparse_slices.hpp"

namespace itop {

/// The forward pass over groups of interleaved images: `sparse_convolution_forward` with the values in the order of
/// `pattern.forward`.
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
