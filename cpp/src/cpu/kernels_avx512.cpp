#if defined(__x86_64__)

#include "cpu/lanes_avx512.hpp"

#define ITOP_LANES lanes_avx512
#define ITOP_KERNELS kAvx512Kernels
#include "cpu/kernels.inl"

#endif
