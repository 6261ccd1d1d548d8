#if defined(__x86_64__)

#include "cpu/lanes_avx2.hpp"

#define ITOP_LANES lanes_avx2
#define ITOP_PATTERN_KERNELS kAvx2PatternKernels
#include "cpu/pattern_kernels.inl"

#endif
