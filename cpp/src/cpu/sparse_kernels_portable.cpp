#define ITOP_SPARSE_NAMESPACE portable
#include "cpu/sparse_kernels.inl"

#include "cpu/sparse_image_kernels.inl"
