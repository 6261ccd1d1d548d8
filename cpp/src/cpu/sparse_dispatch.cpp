#include "cpu/cpu_features.hpp"
#include "cpu/product_screen_kernels.hpp"
#include "cpu/sparse_image_kernels.hpp"
#include "cpu/sparse_kernels.hpp"

namespace itop::cpu {

template <class Scalar>
const SparseKernels<Scalar>& sparse_kernels() {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return avx512::sparse_kernel_table<Scalar>();
    case InstructionSet::kAvx2:
      return avx2::sparse_kernel_table<Scalar>();
    case InstructionSet::kPortable:
      break;
  }
  return portable::sparse_kernel_table<Scalar>();
}

template <class Scalar>
const SparseImageKernels<Scalar>& sparse_image_kernels() {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return avx512::sparse_image_kernel_table<Scalar>();
    case InstructionSet::kAvx2:
      return avx2::sparse_image_kernel_table<Scalar>();
    case InstructionSet::kPortable:
      break;
  }
  return portable::sparse_image_kernel_table<Scalar>();
}

const ProductScreenKernels* product_screen_kernels() {
  static const ProductScreenKernels* const table = instruction_set() == InstructionSet::kAvx512 && multiplies_bytes()
                                                       ? avx512::product_screen_kernel_table()
                                                       : nullptr;
  return table;
}

template const SparseKernels<float>& sparse_kernels<float>();
template const SparseKernels<double>& sparse_kernels<double>();
template const SparseImageKernels<float>& sparse_image_kernels<float>();
template const SparseImageKernels<double>& sparse_image_kernels<double>();

}  // namespace itop::cpu
