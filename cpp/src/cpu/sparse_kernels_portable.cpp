#define ITOP_SPARSE_NAMESPACE portable
#include "cpu/sparse_kernels.inl"
