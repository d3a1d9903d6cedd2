// What needs a process of its own: configuration, injected faults, fork, exit. Each body runs in a forked child; this
// process itself never calls cuInit.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "software_driver.h"

namespace {

void in_child(const std::vector<std::pair<const char*, const char*>>& environment, const std::function<bool()>& body) {
  fflush(nullptr);
  pid_t child = fork();
  if (child == 0) {
    for (auto& [name, value] : environment) setenv(name, value, 1);
    exit(body() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(child, waitpid(child, &status, 0));
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(0, WEXITSTATUS(status));
}

#define REQUIRE(condition) \
  if (!(condition)) return fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition), false

bool make_context(CUcontext* context) { return CU(cuInit)(0) == 0 && CU(cuCtxCreate_v2)(context, 0, 0) == 0; }

}  // namespace

TEST(Process, NeedsInit) {
  in_child({}, [] {
    int count = 0;
    REQUIRE(CU(cuDeviceGetCount)(&count) == CUDA_ERROR_NOT_INITIALIZED);
    REQUIRE(CU(cuInit)(1) == CUDA_ERROR_INVALID_VALUE);
    REQUIRE(CU(cuDriverGetVersion)(&count) == 0);
    return true;
  });
}

TEST(Process, HonoursVisibleDevices) {
  in_child({{"BF_SOFTGPU_COUNT", "4"}, {"CUDA_VISIBLE_DEVICES", "2,0,7,1"}}, [] {
    int count = 0, bus = 0;
    REQUIRE(CU(cuInit)(0) == 0);
    REQUIRE(CU(cuDeviceGetCount)(&count) == 0 && count == 2);
    REQUIRE(CU(cuDeviceGetAttribute)(&bus, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, 0) == 0 && bus == 0x12);
    return true;
  });
  in_child({{"BF_SOFTGPU_COUNT", "4"}, {"CUDA_VISIBLE_DEVICES", "GPU-bf50f769-7075-4000-8000-bacf1e1d0003"}}, [] {
    int count = 0, bus = 0;
    REQUIRE(CU(cuInit)(0) == 0);
    REQUIRE(CU(cuDeviceGetCount)(&count) == 0 && count == 1);
    REQUIRE(CU(cuDeviceGetAttribute)(&bus, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, 0) == 0 && bus == 0x13);
    return true;
  });
  in_child({{"CUDA_VISIBLE_DEVICES", ""}}, [] { return CU(cuInit)(0) == CUDA_ERROR_NO_DEVICE; });
}

TEST(Process, RunsOutOfMemoryWhereToldTo) {
  in_child({{"BF_SOFTGPU_FAULTS", "oom-after=33554432"}}, [] {
    CUcontext context;
    CUdeviceptr pointer;
    REQUIRE(make_context(&context));
    REQUIRE(CU(cuMemAlloc_v2)(&pointer, 24 << 20) == 0);
    REQUIRE(CU(cuMemAlloc_v2)(&pointer, 1 << 20) == CUDA_ERROR_OUT_OF_MEMORY);
    return true;
  });
}

TEST(Process, FaultsAfterSoManyLaunches) {
  in_child({{"BF_SOFTGPU_FAULTS", "sticky-after-launches=2"}}, [] {
    CUcontext context;
    CUmodule module;
    CUfunction function;
    REQUIRE(make_context(&context));
    REQUIRE(CU(cuModuleLoadData)(&module, kTestPtx) == 0);
    REQUIRE(CU(cuModuleGetFunction)(&function, module, "small") == 0);
    for (int i = 0; i < 3; i++) {
      REQUIRE(CU(cuLaunchKernel)(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr) == 0);
      REQUIRE(CU(cuCtxSynchronize)() == (i < 2 ? CUDA_SUCCESS : CUDA_ERROR_ILLEGAL_ADDRESS));
    }
    return true;
  });
}

TEST(Process, FallsOffTheBus) {
  in_child({{"BF_SOFTGPU_FAULTS", "lost-after-calls=3"}}, [] {
    int count;
    REQUIRE(CU(cuInit)(0) == 0);
    for (int i = 0; i < 3; i++) REQUIRE(CU(cuDeviceGetCount)(&count) == 0);
    REQUIRE(CU(cuDeviceGetCount)(&count) == CUDA_ERROR_DEVICE_UNAVAILABLE);
    return true;
  });
}

TEST(Process, AForkedChildMustStartAnew) {
  in_child({}, [] {
    CUcontext context;
    REQUIRE(make_context(&context));
    pid_t child = fork();
    if (child == 0) {
      CUdeviceptr pointer;
      _exit(CU(cuMemAlloc_v2)(&pointer, 4) == CUDA_ERROR_NOT_INITIALIZED && CU(cuInit)(0) == CUDA_ERROR_NOT_INITIALIZED
                ? 0
                : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    return status == 0;
  });
}

namespace {
CUstream g_stream;
void after_exit() {
  CUdeviceptr pointer;
  // Registered before cuInit, so it runs after the driver's own exit handler.
  if (CU(cuMemAlloc_v2)(&pointer, 4) != CUDA_ERROR_DEINITIALIZED) _exit(3);
  if (CU(cuStreamSynchronize)(g_stream) != CUDA_ERROR_DEINITIALIZED) _exit(4);
}
}  // namespace

TEST(Process, AnswersDeinitialisedAfterExit) {
  in_child({}, [] {
    atexit(after_exit);
    CUcontext context;
    REQUIRE(make_context(&context));
    REQUIRE(CU(cuStreamCreate)(&g_stream, 0) == 0);
    // Work that never ends must not keep the process.
    REQUIRE(CU(cuLaunchHostFunc)(
                g_stream, [](void*) { pause(); }, nullptr) == 0);
    return true;
  });
}
