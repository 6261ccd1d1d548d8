// Fused optimiser steps, compiled once per instruction set. ITOP_OPTIMIZER_KERNELS names the table.
//
// Every product that is added is a fused multiply-add, written out, and nothing else is contracted: all instruction
// sets give the same bits.

#include <cmath>
#include <type_traits>

#include "cpu/optimizer_kernels.hpp"

namespace itop::cpu {
namespace {

constexpr int kLanes = 16;

/// The bits of sixteen neighbours.
inline std::uint32_t group_bits(const StepTensor& tensor, std::int64_t word, int group) {
  const Word bits = tensor.active != nullptr ? tensor.active[word] : valid_bits(word, tensor.numel);
  return static_cast<std::uint32_t>(bits >> (group * kLanes)) & 0xFFFFu;
}

/// Calls `body(first, count, gradients)` for every sixteen weights with an active one; gradients of inactive ones are
/// zero.
template <class Body>
void for_active_groups(const StepTensor& tensor, std::int64_t begin_word, std::int64_t end_word, Body&& body) {
  alignas(64) float gradients[kLanes];
  for (std::int64_t word = begin_word; word < end_word; ++word) {
    for (int group = 0; group < kWordBits / kLanes; ++group) {
      const std::uint32_t bits = group_bits(tensor, word, group);
      if (bits == 0) continue;
      const std::int64_t first = word * kWordBits + group * kLanes;
      if (tensor.numel - first >= kLanes) [[likely]] {
        const float* source = tensor.gradient + first;
        for (int i = 0; i < kLanes; ++i) gradients[i] = (bits >> i) & 1u ? source[i] : 0.0f;
        body(first, std::integral_constant<int, kLanes>{}, gradients);
      } else {
        const int count = static_cast<int>(tensor.numel - first);
        for (int i = 0; i < count; ++i) gradients[i] = (bits >> i) & 1u ? tensor.gradient[first + i] : 0.0f;
        body(first, count, gradients);
      }
    }
  }
}

template <bool kMomentum, bool kNesterov>
void sgd_with(const StepTensor& tensor, const SgdOptions& options, std::int64_t begin_word, std::int64_t end_word) {
  const auto sign = options.maximize ? -1.0f : 1.0f;
  const auto decay = static_cast<float>(options.weight_decay);
  const auto momentum = static_cast<float>(options.momentum);
  const float kept = tensor.is_first_step ? 0.0f : momentum;
  const float added = tensor.is_first_step ? 1.0f : static_cast<float>(1.0 - options.dampening);
  const auto rate = static_cast<float>(-options.learning_rate);
  for_active_groups(tensor, begin_word, end_word, [&](std::int64_t first, auto count, const float* gradients) {
    float* __restrict weight = tensor.weight + first;
    float* __restrict buffer = kMomentum ? tensor.first_moment + first : nullptr;
    for (int i = 0; i < count; ++i) {
      float direction = __builtin_fmaf(decay, weight[i], sign * gradients[i]);
      if constexpr (kMomentum) {
        const float gradient = direction;
        buffer[i] = __builtin_fmaf(added, gradient, kept * buffer[i]);
        direction = kNesterov ? __builtin_fmaf(momentum, buffer[i], gradient) : buffer[i];
      }
      weight[i] = __builtin_fmaf(rate, direction, weight[i]);
    }
  });
}

void sgd(const StepTensor& tensor, const SgdOptions& options, std::int64_t begin_word, std::int64_t end_word) {
  if (tensor.first_moment == nullptr) return sgd_with<false, false>(tensor, options, begin_word, end_word);
  if (options.nesterov) return sgd_with<true, true>(tensor, options, begin_word, end_word);
  sgd_with<true, false>(tensor, options, begin_word, end_word);
}

void adam(const StepTensor& tensor, const AdamOptions& options, std::int64_t begin_word, std::int64_t end_word) {
  const auto sign = options.maximize ? -1.0f : 1.0f;
  const auto l2 = static_cast<float>(options.decoupled_weight_decay ? 0.0 : options.weight_decay);
  const auto shrink =
      static_cast<float>(options.decoupled_weight_decay ? 1.0 - options.learning_rate * options.weight_decay : 1.0);
  const auto beta1 = static_cast<float>(options.beta1);
  const auto beta2 = static_cast<float>(options.beta2);
  const auto one_minus_beta1 = static_cast<float>(1.0 - options.beta1);
  const auto one_minus_beta2 = static_cast<float>(1.0 - options.beta2);
  const double correction1 = 1.0 - std::pow(options.beta1, tensor.step);
  const double correction2 = 1.0 - std::pow(options.beta2, tensor.step);
  const auto rate = static_cast<float>(-options.learning_rate / correction1);
  const auto scale = static_cast<float>(1.0 / std::sqrt(correction2));
  const auto epsilon = static_cast<float>(options.epsilon);
  for_active_groups(tensor, begin_word, end_word, [&](std::int64_t first, auto count, const float* gradients) {
    float* __restrict weight = tensor.weight + first;
    float* __restrict mean = tensor.first_moment + first;
    float* __restrict square = tensor.second_moment + first;
    for (int i = 0; i < count; ++i) {
      const float gradient = __builtin_fmaf(l2, weight[i], sign * gradients[i]);
      mean[i] = __builtin_fmaf(one_minus_beta1, gradient, beta1 * mean[i]);
      square[i] = __builtin_fmaf(one_minus_beta2 * gradient, gradient, beta2 * square[i]);
      const float denominator = __builtin_fmaf(__builtin_sqrtf(square[i]), scale, epsilon);
      weight[i] = __builtin_fmaf(rate, mean[i] / denominator, shrink * weight[i]);
    }
  });
}

}  // namespace

const OptimizerKernels ITOP_OPTIMIZER_KERNELS = {sgd, adam};

}  // namespace itop::cpu
