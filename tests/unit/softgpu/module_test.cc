// Code: loading, logs, functions, libraries, linking, launches.
#include "software_driver.h"

using Module = SoftwareGpu;

TEST_F(Module, FindsFunctionsAndVariables) {
  CUfunction found;
  EXPECT_CU(CUDA_ERROR_NOT_FOUND, CU(cuModuleGetFunction)(&found, module, "nothing"));
  unsigned count = 0;
  ASSERT_OK(CU(cuModuleGetFunctionCount)(&count, module));
  EXPECT_EQ(5u, count);
  const char* name;
  ASSERT_OK(CU(cuFuncGetName)(&name, function("add_to")));
  EXPECT_STREQ("add_to", name);
  size_t offset = 9, bytes = 9;
  ASSERT_OK(CU(cuFuncGetParamInfo)(function("add_to"), 2, &offset, &bytes));
  EXPECT_EQ(12u, offset);
  EXPECT_EQ(4u, bytes);
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuFuncGetParamInfo)(function("add_to"), 3, &offset, &bytes));
  CUdeviceptr counter, table;
  ASSERT_OK(CU(cuModuleGetGlobal_v2)(&counter, &bytes, module, "counter"));
  EXPECT_EQ(4u, bytes);
  EXPECT_EQ(5u, read(counter));
  ASSERT_OK(CU(cuModuleGetGlobal_v2)(&table, &bytes, module, "table"));
  EXPECT_EQ(16u, bytes);
  EXPECT_CU(CUDA_ERROR_NOT_FOUND, CU(cuModuleGetGlobal_v2)(&table, &bytes, module, "nothing"));
  ASSERT_OK(CU(cuModuleUnload)(module));
  EXPECT_CU(CUDA_ERROR_INVALID_HANDLE, CU(cuModuleGetFunction)(&found, module, "store"));
}

TEST_F(Module, PutsTheReasonInTheErrorLog) {
  char log[512] = "";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, (void*)sizeof log};
  CUmodule bad;
  const char* text = ".version 8.0\n.target sm_70\n.address_size 64\n.visible .entry k() { frobnicate.u32 %r1; }\n";
  EXPECT_CU(CUDA_ERROR_INVALID_PTX, CU(cuModuleLoadDataEx)(&bad, text, 2, options, values));
  EXPECT_NE(nullptr, strstr(log, "frobnicate")) << log;
  EXPECT_EQ(strlen(log), size_t(values[1]));
}

TEST_F(Module, RefusesImagesWithoutPtx) {
  unsigned char elf[64] = {0x7f, 'E', 'L', 'F', 2, 1, 1};
  elf[52] = 64;  // header size
  CUmodule bad;
  CUresult result = CU(cuModuleLoadData)(&bad, elf);
  EXPECT_TRUE(result == CUDA_ERROR_NO_BINARY_FOR_GPU || result == CUDA_ERROR_INVALID_IMAGE) << result;
  EXPECT_CU(CUDA_ERROR_FILE_NOT_FOUND, CU(cuModuleLoad)(&bad, "/nowhere/at/all"));
}

TEST_F(Module, ChecksLaunches) {
  CUfunction f = function("small");
  auto try_launch = [&](CUfunction k, unsigned gx, unsigned gy, unsigned bx, unsigned bz, unsigned shared) {
    return CU(cuLaunchKernel)(k, gx, gy, 1, bx, 1, bz, shared, nullptr, nullptr, nullptr);
  };
  EXPECT_CU(0, try_launch(f, 1, 1, 64, 1, 0));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, try_launch(f, 0, 1, 1, 1, 0));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, try_launch(f, 1, 1, 0, 1, 0));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, try_launch(f, 1, 1, 2048, 1, 0));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, try_launch(f, 1, 1, 1, 65, 0));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, try_launch(f, 1, 65536, 1, 1, 0));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, try_launch(f, 1, 1, 65, 1, 0));  // past .maxntid
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, try_launch(f, 1, 1, 1, 1, 48 * 1024 + 1));
  ASSERT_OK(CU(cuFuncSetAttribute)(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100 * 1024));
  EXPECT_CU(0, try_launch(f, 1, 1, 1, 1, 100 * 1024));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE,
            CU(cuFuncSetAttribute)(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 164 * 1024));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, try_launch(function("store"), 1, 1, 1, 1, 0));  // no arguments given
  EXPECT_CU(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
            CU(cuLaunchCooperativeKernel)(f, 1 << 20, 1, 1, 64, 1, 1, 0, nullptr, nullptr));
  ASSERT_OK(CU(cuCtxSynchronize)());
}

TEST_F(Module, TakesArgumentsFromABuffer) {
  CUdeviceptr data = allocate(4);
  ASSERT_OK(CU(cuMemsetD32_v2)(data, 1, 1));
  struct {
    CUdeviceptr data;
    unsigned count, by;
  } buffer{data, 1, 20};
  size_t bytes = sizeof buffer;
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, &buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  ASSERT_OK(CU(cuLaunchKernel)(function("add_to"), 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra));
  EXPECT_EQ(21u, read(data));
  bytes = 8;
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE,
            CU(cuLaunchKernel)(function("add_to"), 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra));
}

TEST_F(Module, LibrariesWorkInEveryContext) {
  CUlibrary library;
  ASSERT_OK(CU(cuLibraryLoadData)(&library, kTestPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  CUkernel kernel;
  ASSERT_OK(CU(cuLibraryGetKernel)(&kernel, library, "add_to"));
  unsigned count = 0;
  ASSERT_OK(CU(cuLibraryGetKernelCount)(&count, library));
  EXPECT_EQ(5u, count);
  CUcontext other;
  ASSERT_OK(CU(cuCtxCreate_v2)(&other, 0, 1));
  for (CUcontext current : {context, other}) {
    ASSERT_OK(CU(cuCtxSetCurrent)(current));
    CUdeviceptr data = allocate(4), counter = 0;
    unsigned n = 1, by = 6;
    ASSERT_OK(CU(cuMemsetD32_v2)(data, 0, 1));
    void* arguments[] = {&data, &n, &by};
    ASSERT_OK(CU(cuLaunchKernel)((CUfunction)kernel, 1, 1, 1, 1, 1, 1, 0, nullptr, arguments, nullptr));
    EXPECT_EQ(6u, read(data));
    size_t bytes;
    ASSERT_OK(CU(cuLibraryGetGlobal)(&counter, &bytes, library, "counter"));
    EXPECT_EQ(5u, read(counter));
    ASSERT_OK(CU(cuMemsetD32_v2)(counter, 1, 1));  // each context has its own
  }
  ASSERT_OK(CU(cuKernelSetAttribute)(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 60000, kernel, 1));
  int value = 0;
  CUfunction in_other;
  ASSERT_OK(CU(cuKernelGetFunction)(&in_other, kernel));
  ASSERT_OK(CU(cuFuncGetAttribute)(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, in_other));
  EXPECT_EQ(60000, value);
  ASSERT_OK(CU(cuKernelGetAttribute)(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel, 0));
  EXPECT_EQ(49152, value);
  ASSERT_OK(CU(cuLibraryUnload)(library));
  EXPECT_CU(CUDA_ERROR_INVALID_HANDLE, CU(cuLibraryGetKernel)(&kernel, library, "add_to"));
  ASSERT_OK(CU(cuCtxDestroy_v2)(other));
  ASSERT_OK(CU(cuCtxSetCurrent)(context));
}

TEST_F(Module, LinksUnits) {
  const char* callee =
      ".version 8.0\n.target sm_70\n.address_size 64\n"
      ".visible .func (.param .u32 out) twice(.param .u32 in) {\n"
      " .reg .b32 %r<2>;\n ld.param.u32 %r0, [in];\n add.u32 %r1, %r0, %r0;\n st.param.u32 [out], %r1;\n ret;\n}\n";
  const char* caller =
      ".version 8.0\n.target sm_70\n.address_size 64\n"
      ".extern .func (.param .u32 out) twice(.param .u32 in);\n"
      ".visible .entry run(.param .u64 to) {\n .reg .b32 %r<2>; .reg .b64 %d<1>;\n ld.param.u64 %d0, [to];\n"
      " mov.u32 %r0, 21;\n {\n .param .u32 a; .param .u32 b;\n st.param.u32 [a], %r0;\n"
      " call (b), twice, (a);\n ld.param.u32 %r1, [b];\n }\n st.global.u32 [%d0], %r1;\n ret;\n}\n";
  CUlinkState state;
  ASSERT_OK(CU(cuLinkCreate_v2)(0, nullptr, nullptr, &state));
  ASSERT_OK(CU(cuLinkAddData_v2)(state, CU_JIT_INPUT_PTX, (void*)caller, strlen(caller) + 1, "a", 0, nullptr, nullptr));
  ASSERT_OK(CU(cuLinkAddData_v2)(state, CU_JIT_INPUT_PTX, (void*)callee, strlen(callee) + 1, "b", 0, nullptr, nullptr));
  void* image;
  size_t bytes;
  ASSERT_OK(CU(cuLinkComplete)(state, &image, &bytes));
  CUmodule linked;
  ASSERT_OK(CU(cuModuleLoadData)(&linked, image));
  ASSERT_OK(CU(cuLinkDestroy)(state));
  CUfunction run;
  ASSERT_OK(CU(cuModuleGetFunction)(&run, linked, "run"));
  CUdeviceptr to = allocate(4);
  void* arguments[] = {&to};
  ASSERT_OK(CU(cuLaunchKernel)(run, 1, 1, 1, 1, 1, 1, 0, nullptr, arguments, nullptr));
  EXPECT_EQ(42u, read(to));
}

TEST_F(Module, AnswersAboutOccupancy) {
  int blocks = 0, grid = 0, block = 0;
  ASSERT_OK(CU(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&blocks, function("add_to"), 1024, 0));
  EXPECT_EQ(2, blocks);
  ASSERT_OK(CU(cuOccupancyMaxActiveBlocksPerMultiprocessor)(&blocks, function("small"), 65, 0));
  EXPECT_EQ(0, blocks);
  ASSERT_OK(CU(cuOccupancyMaxPotentialBlockSize)(&grid, &block, function("add_to"), nullptr, 0, 0));
  EXPECT_EQ(1024, block);
  EXPECT_EQ(216, grid);
}
