#define ITOP_SPARSE_NAMESPACE avx2
#include "cpu/sparse_kernels.inl"

#include "cpu/sparse_image_kernels.inl"
