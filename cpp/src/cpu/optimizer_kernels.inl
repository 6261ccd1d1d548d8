// Fused optimiser steps, compiled once per instruction set. ITOP_OPTIMIZER_KERNELS names the table.
//
// Every product that is added is a fused multiply-add, written out, and nothing else is contracted: all instruction
// sets give the same bits.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "cpu/optimizer_kernels.hpp"

namespace itop::cpu {
namespace {

constexpr int kLanes = 16;

/// The gradients of active weights, zeros for the others.
[[gnu::always_inline]] inline void masked_gradients(const float* source, std::uint32_t bits, int count, float* target) {
  for (int i = 0; i < count; ++i) {
    const std::uint32_t is_active = 0u - ((bits >> i) & 1u);
    target[i] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(source[i]) & is_active);
  }
}

/// Words that are stepped, or left out, together.
constexpr std::int64_t kWordsTogether = 8;

/// Calls `body(first, count, gradients)` for groups of sixteen weights; gradients of inactive ones are zero.
///
/// Only stretches of words without any active weight are left out: which words or groups are empty is nothing a branch
/// could foresee, and the step of an empty one leaves the zeros it finds.
template <class Body>
[[gnu::always_inline]] inline void for_active_groups(const StepTensor& tensor, std::int64_t begin_word,
                                                     std::int64_t end_word, Body&& body) {
  alignas(64) float gradients[kLanes];
  const auto step_word = [&](std::int64_t word, Word active) __attribute__((always_inline)) {
    const std::int64_t first = word * kWordBits;
    if (tensor.numel - first >= kWordBits) [[likely]] {
#pragma GCC unroll 4
      for (int begin = 0; begin < kWordBits; begin += kLanes) {
        masked_gradients(tensor.gradient + first + begin, static_cast<std::uint32_t>(active >> begin), kLanes,
                         gradients);
        body(first + begin, std::integral_constant<int, kLanes>{}, gradients);
      }
      return;
    }
    for (int begin = 0; begin < tensor.numel - first; begin += kLanes) {
      const int count = static_cast<int>(std::min<std::int64_t>(kLanes, tensor.numel - first - begin));
      masked_gradients(tensor.gradient + first + begin, static_cast<std::uint32_t>(active >> begin), count, gradients);
      body(first + begin, count, gradients);
    }
  };
  if (tensor.active == nullptr) {
    for (std::int64_t word = begin_word; word < end_word; ++word) step_word(word, ~Word{0});
    return;
  }
  for (std::int64_t stretch = begin_word; stretch < end_word; stretch += kWordsTogether) {
    const std::int64_t end = std::min(stretch + kWordsTogether, end_word);
    Word any = 0;
    for (std::int64_t word = stretch; word < end; ++word) any |= tensor.active[word];
    if (any == 0) continue;
    for (std::int64_t word = stretch; word < end; ++word) step_word(word, tensor.active[word]);
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
