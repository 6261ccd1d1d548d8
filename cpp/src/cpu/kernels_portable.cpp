#include "cpu/lanes_portable.hpp"

#define ITOP_LANES lanes_portable
#define ITOP_KERNELS kPortableKernels
#include "cpu/kernels.inl"

#include "cpu/cpu_features.hpp"

namespace itop::cpu {

#if !defined(__x86_64__)
const Kernels kAvx2Kernels = kPortableKernels;
const Kernels kAvx512Kernels = kPortableKernels;
#endif

const Kernels& kernels() {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return kAvx512Kernels;
    case InstructionSet::kAvx2:
      return kAvx2Kernels;
    case InstructionSet::kPortable:
      break;
  }
  return kPortableKernels;
}

}  // namespace itop::cpu
