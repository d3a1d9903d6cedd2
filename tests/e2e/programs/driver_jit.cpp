// Loading PTX with JIT options: logs are written where asked and stay within their buffers.
#include "driver.h"

static void load(const char* text) {
  char info[4096], error[4096];
  std::memset(info, '#', sizeof(info));
  std::memset(error, '#', sizeof(error));
  float wall = 0;
  CUjit_option options[] = {CU_JIT_INFO_LOG_BUFFER,  CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
                            CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
                            CU_JIT_LOG_VERBOSE,      CU_JIT_WALL_TIME,
                            CU_JIT_MAX_REGISTERS};
  void* values[] = {info, (void*)2000, error, (void*)2000, (void*)1, &wall, (void*)64};
  CUmodule module;
  CUresult result = cuModuleLoadDataEx(&module, text, 7, options, values);
  std::printf("%s; error log %s; buffers kept: %d\n", name_of(result),
              error[0] == '#' || error[0] == 0 ? "empty" : "written", info[2001] == '#' && error[2001] == '#');
  if (result == CUDA_SUCCESS) CHECK(cuModuleUnload(module));
}

int main() {
  use_device(0);
  load(kPtx);
  load(".version 6.4\n.target sm_75\n.address_size 64\n.visible .entry broken() { add.u32 %r1, %r2; ret; }\n");
  load(".version 6.4\n.target sm_75\n.address_size 64\n.visible .entry missing(\n");
  char path[] = "/tmp/bf_e2e_XXXXXX";
  int fd = mkstemp(path);
  if (fd < 0) return 1;
  FILE* file = fdopen(fd, "w");
  std::fputs(kPtx, file);
  std::fclose(file);
  CUmodule module;
  CUfunction function;
  CHECK(cuModuleLoad(&module, path));
  SHOW(cuModuleGetFunction(&function, module, "fill"));
  std::remove(path);
}
