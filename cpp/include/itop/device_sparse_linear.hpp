#pragma once

#include <cstdint>

#include "itop/device.hpp"
#include "itop/sparse_matrix.hpp"

namespace itop {

/// A sparse matrix `[num_rows, num_columns]` in row order, in a GPU's memory; a view that owns nothing.
struct DeviceSparseRows {
  std::int64_t num_rows = 0;
  std::int64_t num_entries = 0;
  const std::int64_t* row_pointers = nullptr;  ///< [num_rows + 1]
  const std::int32_t* columns = nullptr;       ///< [num_entries]
  /// Where an entry's value lies in the array of values; null: entry e at e. The transposed matrix has one, so that
  /// both orders share the values.
  const std::uint32_t* permutation = nullptr;  ///< [num_entries] or null
};

/// Dense activations `[features, batch]`, in a GPU's memory: neighbouring lanes read neighbouring samples.
struct FeatureView {
  const void* data = nullptr;
  ValueType type = ValueType::kFloat32;
  std::int64_t batch = 0;
};

/// out = W in + bias on a GPU, for a sparse W. With the transposed matrix this is the input gradient.
///
/// Every element of `out` is summed by one thread in the order of its row's entries: the same bits in every run.
/// @param values [num_entries] in `value_type`; float64 if and only if the activations are
/// @param bias   [num_rows] in `value_type`, or null
/// @param out    [num_rows, batch] in `in.type`, written
/// @throws BackendUnavailableError if CUDA was not compiled, has no driver, or has no such device
void device_sparse_multiply(int device_index, const DeviceSparseRows& rows, const void* values, ValueType value_type,
                            const FeatureView& in, const void* bias, void* out, StreamHandle stream);

/// The gradient of the active weights on a GPU: for the entry at (row, column) the sum over samples of
/// `output_gradient[row] * in[column]`, in one fixed order.
/// @param rows            without permutation
/// @param in              [num_columns, batch]
/// @param output_gradient [num_rows, batch], the type and batch of `in`
/// @param gradient        [num_entries] in `value_type`, written
/// @throws BackendUnavailableError if CUDA was not compiled, has no driver, or has no such device
void device_sparse_gradient(int device_index, const DeviceSparseRows& rows, const FeatureView& in,
                            const void* output_gradient, void* gradient, ValueType value_type, StreamHandle stream);

}  // namespace itop
