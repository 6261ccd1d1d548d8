#pragma once

#include <cstdint>

namespace itop::cpu {

enum class InstructionSet : std::uint8_t { kPortable, kAvx2, kAvx512 };

/// The widest set this processor has, or the one ITOP_CPU_ISA (portable, avx2, avx512) asks for; read once.
/// @throws std::invalid_argument if ITOP_CPU_ISA names no set or one the processor lacks
InstructionSet instruction_set();

/// Whether the processor has AVX-512's sums of four products of bytes.
bool multiplies_bytes();

const char* name_of(InstructionSet set);

}  // namespace itop::cpu
