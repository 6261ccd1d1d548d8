#if defined(__x86_64__)

#define ITOP_OPTIMIZER_KERNELS kAvx512OptimizerKernels
#include "cpu/optimizer_kernels.inl"

#endif
