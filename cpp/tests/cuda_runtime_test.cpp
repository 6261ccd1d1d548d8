#include <gtest/gtest.h>

#include <string>

#include "itop/backend.hpp"
#include "itop/build_info.hpp"
#include "itop/error.hpp"

namespace itop {
namespace {

std::string refusal(int device_index) {
  try {
    backend_for({DeviceType::kCuda, device_index});
  } catch (const BackendUnavailableError& error) {
    return error.what();
  }
  return "";
}

TEST(CudaRuntime, ARefusalSaysWhichOfThreeThingsIsMissing) {
  const BuildInfo info = build_info();
  if (!info.cuda_compiled) {
    EXPECT_NE(refusal(0).find("this build of itop has no CUDA backend"), std::string::npos) << refusal(0);
    EXPECT_EQ(info.cuda_status, "not compiled");
  } else if (info.num_cuda_devices == 0) {
    EXPECT_NE(refusal(0).find(info.cuda_status), std::string::npos) << refusal(0);
    EXPECT_TRUE(info.cuda_status.starts_with("no usable driver: ") || info.cuda_status.starts_with("no device: "));
  } else {
    EXPECT_EQ(refusal(0), "");
    EXPECT_NE(refusal(4711).find("a tensor is on cuda:4711, but this machine has "), std::string::npos)
        << refusal(4711);
    EXPECT_EQ(info.cuda_status, "ok");
  }
}

TEST(CudaRuntime, ACompiledBuildNamesItsArchitectures) {
  const BuildInfo info = build_info();
  EXPECT_EQ(info.cuda_architectures.empty(), !info.cuda_compiled);
  EXPECT_EQ(info.cuda_version.empty(), !info.cuda_compiled);
}

}  // namespace
}  // namespace itop
