#include "cpu/cpu_features.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace itop::cpu {
namespace {

bool has(InstructionSet set) {
#if defined(__x86_64__)
  switch (set) {
    case InstructionSet::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && has(InstructionSet::kAvx2);
    case InstructionSet::kAvx2:
      // Every processor with AVX2 has F16C; compilers before GCC 14 cannot ask for it by name.
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    case InstructionSet::kPortable:
      return true;
  }
  return false;
#else
  return set == InstructionSet::kPortable;
#endif
}

InstructionSet choose() {
  if (const char* wanted = std::getenv("ITOP_CPU_ISA"); wanted != nullptr && *wanted != '\0') {
    for (const InstructionSet set : {InstructionSet::kPortable, InstructionSet::kAvx2, InstructionSet::kAvx512}) {
      if (std::string(wanted) != name_of(set)) continue;
      if (!has(set))
        throw std::invalid_argument(std::string("ITOP_CPU_ISA=") + wanted + ", but this processor lacks it");
      return set;
    }
    throw std::invalid_argument(std::string("ITOP_CPU_ISA must be portable, avx2 or avx512, got ") + wanted);
  }
  if (has(InstructionSet::kAvx512)) return InstructionSet::kAvx512;
  if (has(InstructionSet::kAvx2)) return InstructionSet::kAvx2;
  return InstructionSet::kPortable;
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

bool multiplies_bytes() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

const char* name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::kPortable:
      return "portable";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kAvx512:
      return "avx512";
  }
  return "?";
}

}  // namespace itop::cpu
