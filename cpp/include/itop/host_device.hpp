#pragma once

/// Marks the arithmetic that CPU and CUDA share, so that masks are identical by construction.
#if defined(__CUDACC__)
#define ITOP_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ITOP_HOST_DEVICE inline
#endif
