#define ITOP_SPARSE_NAMESPACE avx512
#include "cpu/sparse_kernels.inl"
