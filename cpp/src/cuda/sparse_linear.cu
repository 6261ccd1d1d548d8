#include <stdexcept>

#include "cuda/cuda_check.hpp"
#include "cuda/cuda_runtime_info.hpp"
#include "cuda/launch.hpp"
#include "cuda/sparse_kernels.hpp"

namespace itop {
namespace cuda {
namespace {

template <class Value, class Activation>
__global__ void __launch_bounds__(kStreamThreads)
    multiply_kernel(DeviceSparseRows rows, const typename Value::Stored* values, const typename Activation::Stored* in,
                    std::int64_t batch, const typename Value::Stored* bias, typename Activation::Stored* out) {
  sparse_multiply<Value, Activation>(rows, values, in, batch, bias, out);
}

template <class Value, class Activation>
__global__ void __launch_bounds__(kStreamThreads)
    gradient_kernel(DeviceSparseRows rows, const typename Activation::Stored* in,
                    const typename Activation::Stored* output_gradient, std::int64_t batch,
                    typename Value::Stored* gradient) {
  sparse_gradient<Value, Activation>(rows, in, output_gradient, batch, gradient);
}

/// Calls `body` with the element types of values and activations.
template <class Body>
void with_types(ValueType values, ValueType activations, Body&& body) {
  if ((values == ValueType::kFloat64) != (activations == ValueType::kFloat64)) {
    throw std::invalid_argument("values and activations must both be float64 or neither");
  }
  if (values == ValueType::kFloat64) return body(Float64Element{}, Float64Element{});
  const auto with_activations = [&](auto value) {
    if (activations == ValueType::kBFloat16) return body(value, BFloat16Element{});
    return body(value, Float32Element{});
  };
  if (values == ValueType::kBFloat16) return with_activations(BFloat16Element{});
  return with_activations(Float32Element{});
}

}  // namespace
}  // namespace cuda

void device_sparse_multiply(int device_index, const DeviceSparseRows& rows, const void* values, ValueType value_type,
                            const FeatureView& in, const void* bias, void* out, StreamHandle stream) {
  static_cast<void>(cuda_backend(device_index));  // says what is missing where there is none
  if (rows.num_rows == 0 || in.batch == 0) return;
  const cuda::DeviceGuard guard(device_index);
  cuda::with_types(value_type, in.type, [&](auto value, auto activation) {
    using Value = decltype(value);
    using Activation = decltype(activation);
    using Weight = typename Value::Stored;
    using Sample = typename Activation::Stored;
    cuda::launch("sparse_multiply", cuda::multiply_kernel<Value, Activation>,
                 cuda::sparse_multiply_blocks(rows.num_rows, in.batch), cuda::kStreamThreads, cuda::stream_of(stream),
                 rows, static_cast<const Weight*>(values), static_cast<const Sample*>(in.data), in.batch,
                 static_cast<const Weight*>(bias), static_cast<Sample*>(out));
  });
}

void device_sparse_gradient(int device_index, const DeviceSparseRows& rows, const FeatureView& in,
                            const void* output_gradient, void* gradient, ValueType value_type, StreamHandle stream) {
  static_cast<void>(cuda_backend(device_index));
  if (rows.num_entries == 0) return;
  const cuda::DeviceGuard guard(device_index);
  cuda::with_types(value_type, in.type, [&](auto value, auto activation) {
    using Value = decltype(value);
    using Activation = decltype(activation);
    using Sample = typename Activation::Stored;
    cuda::launch("sparse_gradient", cuda::gradient_kernel<Value, Activation>,
                 cuda::sparse_gradient_blocks(rows.num_entries), cuda::kStreamThreads, cuda::stream_of(stream), rows,
                 static_cast<const Sample*>(in.data), static_cast<const Sample*>(output_gradient), in.batch,
                 static_cast<typename Value::Stored*>(gradient));
  });
}

}  // namespace itop
