#define ITOP_OPTIMIZER_KERNELS kPortableOptimizerKernels
#include "cpu/optimizer_kernels.inl"
