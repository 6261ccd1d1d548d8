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

/// What a backward pass is asked for; a null pointer leaves it out.
struct LinearGradients {
  void* input = nullptr;   ///< [batch, in] in the type of the output gradient
  void* values = nullptr;  ///< [num_entries] in the type of the values: the active weights only
  void* bias = nullptr;    ///< [out] in the type of the values
};

/// The gradients of `sparse_linear_forward`, written to `gradients`; the result does not depend on the number of
/// threads.
/// @param pattern         [out, in] in row order, without permutation
/// @param transposed      [in, out] with permutation: the input gradient at the speed of the forward pass. Null: in row
///                        order, each thread adding value * gradient inside its own blocks of columns; slower, but it
///                        needs no second set of indices and reads the values in order, which decides where layers are
///                        huge and batches small
/// @param x               [batch, in]; needed for the gradient of the values only
/// @param output_gradient [batch, out], the type of `x`
void sparse_linear_backward(const SparsePattern& pattern, const SparsePattern* transposed, const void* values,
                            ValueType value_type, const ActivationView& x, const ActivationView& output_gradient,
                            const LinearGradients& gradients, ThreadPool& pool);

}  // namespace itop
