#include "cpu/lanes_portable.hpp"

#define ITOP_LANES lanes_portable
#define ITOP_PATTERN_KERNELS kPortablePatternKernels
#include "cpu/pattern_kernels.inl"
