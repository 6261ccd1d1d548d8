#pragma once

#include <cstdint>

#include "itop/sparse_matrix.hpp"

namespace itop {

/// Dense activations `[batch, features]`, row-major, borrowed for one call.
struct ActivationView {
  const void* data = nullptr;
  ValueType type = ValueType::kFloat32;
  std::int64_t batch = 0;
};

/// y = x W^T + bias, with W sparse `[out, in]` in row order.
///
/// Every element of `y` is summed by one thread in the order of its row's entries: the result does not depend on the
/// number of threads. With a transposed pattern (rows = in features) this is the input gradient, g W.
/// @param pattern  [out, in]
/// @param values   [num_entries] in `value_type`, through `pattern.permutation` where there is one
/// @param x        [batch, in]; float64 if and only if the values are
/// @param bias     [out] in `value_type`, or null
/// @param y        [batch, out] in `x.type`, written
void sparse_linear_forward(const SparsePattern& pattern, const void* values, ValueType value_type,
                           const ActivationView& x, const void* bias, void* y, ThreadPool& pool);

/// The input gradient in row order: each thread owns blocks of columns and adds value * g there. No transposed pattern
/// is needed; slower than `sparse_linear_forward` of one, save where batches are small or memory decides.
/// @param pattern     [out, in] without permutation
/// @param output_gradient [batch, out]
/// @param input_gradient  [batch, in] in the type of `output_gradient`, written
void sparse_linear_scatter(const SparsePattern& pattern, const void* values, ValueType value_type,
                           const ActivationView& output_gradient, void* input_gradient, ThreadPool& pool);

/// The gradient of the active weights only, and of the bias.
/// @param x               [batch, in]
/// @param output_gradient [batch, out], the type of `x`
/// @param value_gradient  [num_entries] in `value_type`, written
/// @param bias_gradient   [out] in `value_type`, written; may be null
void sparse_linear_weight_gradient(const SparsePattern& pattern, const ActivationView& x,
                                   const ActivationView& output_gradient, ValueType value_type, void* value_gradient,
                                   void* bias_gradient, ThreadPool& pool);

}  // namespace itop
