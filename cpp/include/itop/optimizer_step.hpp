#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "itop/bitset.hpp"
#include "itop/thread_pool.hpp"

namespace itop {

/// One parameter in a fused optimiser step: float32 tensors [numel] in one memory order, on the CPU.
///
/// Only weights whose bit is set take part: their gradient counts, that of the others is taken for zero. With weight
/// and state zero where inactive, they stay zero. Sixteen weights without an active one are not even read.
struct StepTensor {
  std::int64_t numel = 0;
  const Word* active = nullptr;  ///< null: every weight takes part
  float* weight = nullptr;
  const float* gradient = nullptr;
  float* first_moment = nullptr;   ///< momentum buffer of SGD (null without momentum), exp_avg of AdamW
  float* second_moment = nullptr;  ///< exp_avg_sq of AdamW
  bool is_first_step = false;      ///< SGD: the momentum buffer starts as the gradient
  double step = 0;                 ///< AdamW: steps this parameter took, the present one included
};

/// torch.optim.SGD's options.
struct SgdOptions {
  double learning_rate = 0;
  double momentum = 0;
  double dampening = 0;
  double weight_decay = 0;
  bool nesterov = false;
  bool maximize = false;
};

/// torch.optim.Adam's and AdamW's options.
struct AdamOptions {
  double learning_rate = 0;
  double beta1 = 0;
  double beta2 = 0;
  double epsilon = 0;
  double weight_decay = 0;
  bool decoupled_weight_decay = true;  ///< AdamW; false: Adam's L2 term
  bool maximize = false;
};

void sgd_step(std::span<const StepTensor> tensors, const SgdOptions& options, ThreadPool& threads);
void adam_step(std::span<const StepTensor> tensors, const AdamOptions& options, ThreadPool& threads);

}  // namespace itop
