#pragma once

#include "itop/optimizer_step.hpp"

namespace itop::cpu {

/// The words [begin_word, end_word) of one tensor, one table per instruction set.
struct OptimizerKernels {
  void (*sgd)(const StepTensor&, const SgdOptions&, std::int64_t begin_word, std::int64_t end_word);
  void (*adam)(const StepTensor&, const AdamOptions&, std::int64_t begin_word, std::int64_t end_word);
};

extern const OptimizerKernels kPortableOptimizerKernels;
extern const OptimizerKernels kAvx2OptimizerKernels;
extern const OptimizerKernels kAvx512OptimizerKernels;

}  // namespace itop::cpu
