#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/sparse_kernels.hpp"

namespace itop::cpu {
namespace {

enum class InstructionSet { kPortable, kAvx2, kAvx512 };

bool supports(InstructionSet set) {
#if defined(__x86_64__)
  switch (set) {
    case InstructionSet::kPortable:
      return true;
    case InstructionSet::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    case InstructionSet::kAvx512:
      return supports(InstructionSet::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("avx512dq");
  }
  return false;
#else
  return set == InstructionSet::kPortable;
#endif
}

InstructionSet choose() {
  const char* text = std::getenv("ITOP_CPU_ISA");
  if (text == nullptr || *text == '\0') {
    if (supports(InstructionSet::kAvx512)) return InstructionSet::kAvx512;
    return supports(InstructionSet::kAvx2) ? InstructionSet::kAvx2 : InstructionSet::kPortable;
  }
  const std::string name = text;
  const InstructionSet set = name == "portable" ? InstructionSet::kPortable
                             : name == "avx2"   ? InstructionSet::kAvx2
                             : name == "avx512" ? InstructionSet::kAvx512
                                                : throw std::invalid_argument(
                                                      "ITOP_CPU_ISA must be portable, avx2 or avx512, got " + name);
  if (!supports(set)) throw std::invalid_argument("this processor lacks what ITOP_CPU_ISA asks for: " + name);
  return set;
}

InstructionSet chosen() {
  static const InstructionSet set = choose();
  return set;
}

}  // namespace

template <class Scalar>
const SparseKernels<Scalar>& sparse_kernels() {
  switch (chosen()) {
    case InstructionSet::kAvx512:
      return avx512::sparse_kernel_table<Scalar>();
    case InstructionSet::kAvx2:
      return avx2::sparse_kernel_table<Scalar>();
    case InstructionSet::kPortable:
      break;
  }
  return portable::sparse_kernel_table<Scalar>();
}

template const SparseKernels<float>& sparse_kernels<float>();
template const SparseKernels<double>& sparse_kernels<double>();

const char* sparse_kernels_name() {
  switch (chosen()) {
    case InstructionSet::kAvx512:
      return "avx512";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kPortable:
      break;
  }
  return "portable";
}

}  // namespace itop::cpu
