#include <gtest/gtest.h>

#include <cstdio>
#include <stdexcept>

#include "cpu/cpu_features.hpp"

namespace {

/// What ctest takes for "skipped" (SKIP_RETURN_CODE).
constexpr int kSkipped = 77;

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  try {
    itop::cpu::instruction_set();
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "skipped: %s\n", error.what());
    return kSkipped;
  }
  return RUN_ALL_TESTS();
}
