// Handles in structs and the rules of handle arguments, on tables that know a few objects only.
#include "api/struct_handles.h"

#include <gtest/gtest.h>

#include <map>

#include "api/dispatch.h"
#include "proto/api/launch_attributes.h"

namespace bf::server {
namespace {

constexpr uint64_t value(HandleKind kind, uint32_t index) {
  return Handle{kind, HandleMaker::kClient, 1, index}.pack();
}

class Tables : public Call {
 public:
  Tables() : Call(nullptr, api_) {}
  bool resolve(HandleKind kind, uint64_t v, uint64_t& real) override {
    if (Handle::unpack(v).kind != kind || !known.contains(v)) return false;
    real = known[v];
    return true;
  }
  bool register_new(HandleKind, uint64_t, uint64_t) override { return true; }
  void drop_transfer(uint64_t) override {}
  void erase(HandleKind, uint64_t) override {}
  uint64_t value_of(HandleKind, uint64_t real) override {
    for (auto [v, r] : known)
      if (r == real) return v;
    return 0;
  }
  std::map<uint64_t, uint64_t> known{{value(HandleKind::kArray, 1), 0xa1},
                                     {value(HandleKind::kStream, 1), 0x51},
                                     {value(HandleKind::kEvent, 1), 0xe1},
                                     {value(HandleKind::kKernel, 1), 0xf1},
                                     {value(HandleKind::kMipmappedArray, 1), 0xb1}};

 private:
  DriverApi api_;
};

TEST(HandleArguments, SpecialValuesKindsAndStrangers) {
  Tables call;
  auto stream = reinterpret_cast<CUstream>(value(HandleKind::kStream, 1));
  EXPECT_EQ(to_real(call, HandleKind::kStream, stream), CUDA_SUCCESS);
  EXPECT_EQ(uint64_t(stream), 0x51u);
  for (uint64_t special : {0, 1, 2}) {
    stream = reinterpret_cast<CUstream>(special);
    EXPECT_EQ(to_real(call, HandleKind::kStream, stream), CUDA_SUCCESS);
    EXPECT_EQ(uint64_t(stream), special);
  }
  auto event = reinterpret_cast<CUevent>(uint64_t(1));  // only streams have special numbers
  EXPECT_EQ(to_real(call, HandleKind::kEvent, event), CUDA_ERROR_INVALID_HANDLE);
  event = reinterpret_cast<CUevent>(value(HandleKind::kStream, 1));
  EXPECT_EQ(to_real(call, HandleKind::kEvent, event), CUDA_ERROR_INVALID_HANDLE);
  auto context = reinterpret_cast<CUcontext>(0x7fff12345678);
  EXPECT_EQ(to_real(call, HandleKind::kContext, context), CUDA_ERROR_INVALID_CONTEXT);
  auto function = reinterpret_cast<CUfunction>(value(HandleKind::kKernel, 1));  // cudart launches kernels as functions
  EXPECT_EQ(to_real(call, HandleKind::kFunction, function), CUDA_SUCCESS);
  EXPECT_EQ(uint64_t(function), 0xf1u);
}

TEST(StructHandles, CopiesTranslateOnlyTheArraysTheyName) {
  Tables call;
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
  copy.srcArray = reinterpret_cast<CUarray>(value(HandleKind::kArray, 1));
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstArray = reinterpret_cast<CUarray>(0xdeadbeef);  // left over in the program's struct
  copy.srcHost = &copy;
  copy.dstHost = &copy;
  EXPECT_EQ(structs_to_real(call, &copy, 1), CUDA_SUCCESS);
  EXPECT_EQ(uint64_t(copy.srcArray), 0xa1u);
  EXPECT_EQ(copy.srcHost, nullptr);
  EXPECT_EQ(copy.dstHost, nullptr);
  copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
  EXPECT_EQ(structs_to_real(call, &copy, 1), CUDA_ERROR_INVALID_HANDLE);
}

TEST(StructHandles, UnionsFollowTheirTag) {
  Tables call;
  CUDA_RESOURCE_DESC desc{};
  desc.resType = CU_RESOURCE_TYPE_MIPMAPPED_ARRAY;
  desc.res.mipmap.hMipmappedArray = reinterpret_cast<CUmipmappedArray>(value(HandleKind::kMipmappedArray, 1));
  EXPECT_EQ(structs_to_real(call, &desc, 1), CUDA_SUCCESS);
  EXPECT_EQ(uint64_t(desc.res.mipmap.hMipmappedArray), 0xb1u);
  structs_to_value(call, &desc, 1);
  EXPECT_EQ(uint64_t(desc.res.mipmap.hMipmappedArray), value(HandleKind::kMipmappedArray, 1));
  desc.resType = CU_RESOURCE_TYPE_LINEAR;
  desc.res.linear.devPtr = 0x7f0000000000;  // an address stays what it is
  EXPECT_EQ(structs_to_real(call, &desc, 1), CUDA_SUCCESS);
  EXPECT_EQ(desc.res.linear.devPtr, 0x7f0000000000u);

  CUlaunchAttributeValue attribute{};
  attribute.launchCompletionEvent.event = reinterpret_cast<CUevent>(value(HandleKind::kEvent, 1));
  EXPECT_EQ(structs_to_real(call, &attribute, 1, CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT), CUDA_SUCCESS);
  EXPECT_EQ(uint64_t(attribute.launchCompletionEvent.event), 0xe1u);
  attribute = {};
  attribute.priority = -3;
  EXPECT_EQ(structs_to_real(call, &attribute, 1, CU_LAUNCH_ATTRIBUTE_PRIORITY), CUDA_SUCCESS);
  EXPECT_EQ(attribute.priority, -3);
}

TEST(LaunchAttributes, AreCheckedAndTranslated) {
  Tables call;
  CUlaunchAttribute attributes[2]{};
  attributes[0].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  attributes[0].value.clusterDim = {2, 1, 1};
  attributes[1].id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT;
  attributes[1].value.programmaticEvent.event = reinterpret_cast<CUevent>(value(HandleKind::kEvent, 1));
  CUlaunchConfig config{};
  config.numAttrs = 2;
  ASSERT_EQ(take_launch_attributes(call, std::as_bytes(std::span(attributes)), config), CUDA_SUCCESS);
  EXPECT_EQ(config.attrs[0].value.clusterDim.x, 2u);
  EXPECT_EQ(uint64_t(config.attrs[1].value.programmaticEvent.event), 0xe1u);
  config.numAttrs = 3;  // more than came
  EXPECT_EQ(take_launch_attributes(call, std::as_bytes(std::span(attributes)), config), CUDA_ERROR_INVALID_VALUE);
  config.numAttrs = 7;
  EXPECT_EQ(take_launch_attributes(call, {}, config), CUDA_SUCCESS);
  EXPECT_EQ(config.numAttrs, 0u);
}

}  // namespace
}  // namespace bf::server
