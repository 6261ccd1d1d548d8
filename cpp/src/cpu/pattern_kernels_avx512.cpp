#if defined(__x86_64__)

#include "cpu/lanes_avx512.hpp"

#define ITOP_LANES lanes_avx512
#define ITOP_PATTERN_KERNELS kAvx512PatternKernels
#include "cpu/pattern_kernels.inl"

#endif
