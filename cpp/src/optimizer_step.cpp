#include "itop/optimizer_step.hpp"

#include <algorithm>

#include "cpu/cpu_features.hpp"
#include "cpu/optimizer_kernels.hpp"

namespace itop {
namespace {

constexpr std::int64_t kChunkWords = 512;

const cpu::OptimizerKernels& kernels() {
#if defined(__x86_64__)
  switch (cpu::instruction_set()) {
    case cpu::InstructionSet::kAvx512:
      return cpu::kAvx512OptimizerKernels;
    case cpu::InstructionSet::kAvx2:
      return cpu::kAvx2OptimizerKernels;
    case cpu::InstructionSet::kPortable:
      break;
  }
#endif
  return cpu::kPortableOptimizerKernels;
}

struct Chunk {
  const StepTensor* tensor;
  std::int64_t begin_word;
  std::int64_t end_word;
};

template <class Options, class Kernel>
void step(std::span<const StepTensor> tensors, const Options& options, ThreadPool& threads, Kernel kernel) {
  std::vector<Chunk> chunks;
  for (const StepTensor& tensor : tensors) {
    const std::int64_t words = words_for(tensor.numel);
    for (std::int64_t begin = 0; begin < words; begin += kChunkWords) {
      chunks.push_back({&tensor, begin, std::min(begin + kChunkWords, words)});
    }
  }
  threads.parallel_for(static_cast<std::int64_t>(chunks.size()), [&](std::int64_t i) {
    const Chunk& chunk = chunks[static_cast<std::size_t>(i)];
    kernel(*chunk.tensor, options, chunk.begin_word, chunk.end_word);
  });
}

}  // namespace

void sgd_step(std::span<const StepTensor> tensors, const SgdOptions& options, ThreadPool& threads) {
  step(tensors, options, threads, kernels().sgd);
}

void adam_step(std::span<const StepTensor> tensors, const AdamOptions& options, ThreadPool& threads) {
  step(tensors, options, threads, kernels().adam);
}

}  // namespace itop
