// NVRTC and nvJitLink: PTX, machine code and LTO code made at run time, linked, loaded through the driver and run.
#include <cuda.h>
#include <nvJitLink.h>
#include <nvrtc.h>

#include "cases.h"

namespace {

const char* const kKernel = R"(
extern "C" __device__ int twice(int);
extern "C" __global__ void fill(int* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = twice(i) + 1;
})";
const char* const kTwice = R"(extern "C" __device__ int twice(int x) { return 2 * x; })";
const char* const kWhole = R"(
template <typename T, int Step> __global__ void count(T* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = T(i * Step);
}
__constant__ int offset = 5;
extern "C" __global__ void fill(int* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = 2 * i + offset - 4;
})";
constexpr int kCount = 1000;

std::string architecture(const char* prefix) {
  int major, minor;
  NEED(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  NEED(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0));
  return prefix + std::to_string(major * 10 + minor);
}

enum class Form { kPtx, kCubin, kLto };

std::vector<char> compile(const char* source, Form form, bool separate) {
  nvrtcProgram program;
  NEED(nvrtcCreateProgram(&program, source, "source.cu", 0, nullptr, nullptr));
  std::string target = "--gpu-architecture=" + architecture(form == Form::kCubin ? "sm_" : "compute_");
  std::vector<const char*> options{target.c_str()};
  if (separate) options.push_back("--relocatable-device-code=true");
  if (form == Form::kLto) options.push_back("-dlto");
  NEED(nvrtcCompileProgram(program, int(options.size()), options.data()));
  size_t size = 0;
  auto of = form == Form::kPtx ? nvrtcGetPTXSize : form == Form::kCubin ? nvrtcGetCUBINSize : nvrtcGetLTOIRSize;
  auto get = form == Form::kPtx ? nvrtcGetPTX : form == Form::kCubin ? nvrtcGetCUBIN : nvrtcGetLTOIR;
  NEED(of(program, &size));
  std::vector<char> code(size);
  NEED(get(program, code.data()));
  NEED(nvrtcDestroyProgram(&program));
  return code;
}

Result run(const std::vector<char>& image) {
  CUmodule module;
  CUfunction function;
  DeviceArray<int> out(kCount);
  int count = kCount;
  int* pointer = out.get();
  void* arguments[] = {&pointer, &count};
  NEED(cuModuleLoadData(&module, image.data()));
  NEED(cuModuleGetFunction(&function, module, "fill"));
  NEED(cuLaunchKernel(function, (kCount + 127) / 128, 1, 1, 128, 1, 1, 0, nullptr, arguments, nullptr));
  auto got = out.host();
  NEED(cuModuleUnload(module));
  bool right = true;
  for (int i = 0; i < kCount; i++) right &= got[i] == 2 * i + 1;
  return {right, hash_of(got)};
}

Result linked(Form form, nvJitLinkInputType type) {
  nvJitLinkHandle link;
  std::string target = architecture("-arch=sm_");
  std::vector<const char*> options{target.c_str()};
  if (form == Form::kLto) options.push_back("-lto");
  NEED(nvJitLinkCreate(&link, uint32_t(options.size()), options.data()));
  for (const char* source : {kKernel, kTwice}) {
    auto code = compile(source, form, true);
    NEED(nvJitLinkAddData(link, type, code.data(), code.size(), "part"));
  }
  NEED(nvJitLinkComplete(link));
  size_t size = 0;
  NEED(nvJitLinkGetLinkedCubinSize(link, &size));
  std::vector<char> image(size);
  NEED(nvJitLinkGetLinkedCubin(link, image.data()));
  NEED(nvJitLinkDestroy(&link));
  return run(image);
}

Result linked_by_the_driver() {
  CUlinkState link;
  void* image;
  size_t size = 0;
  NEED(cuLinkCreate(0, nullptr, nullptr, &link));
  for (const char* source : {kKernel, kTwice}) {
    auto code = compile(source, Form::kPtx, true);
    NEED(cuLinkAddData(link, CU_JIT_INPUT_PTX, code.data(), code.size(), "part", 0, nullptr, nullptr));
  }
  NEED(cuLinkComplete(link, &image, &size));
  std::vector<char> copy(static_cast<char*>(image), static_cast<char*>(image) + size);
  NEED(cuLinkDestroy(link));
  return run(copy);
}

Result mangled_name() {
  nvrtcProgram program;
  const char* lowered = nullptr;
  std::string target = architecture("--gpu-architecture=compute_");
  const char* options[] = {target.c_str()};
  NEED(nvrtcCreateProgram(&program, kWhole, "source.cu", 0, nullptr, nullptr));
  NEED(nvrtcAddNameExpression(program, "count<float, 3>"));
  NEED(nvrtcCompileProgram(program, 1, options));
  NEED(nvrtcGetLoweredName(program, "count<float, 3>", &lowered));
  size_t size = 0;
  NEED(nvrtcGetPTXSize(program, &size));
  std::vector<char> ptx(size);
  NEED(nvrtcGetPTX(program, ptx.data()));
  CUlibrary library;
  CUkernel kernel;
  DeviceArray<float> out(kCount);
  int count = kCount;
  float* pointer = out.get();
  void* arguments[] = {&pointer, &count};
  NEED(cuLibraryLoadData(&library, ptx.data(), nullptr, nullptr, 0, nullptr, nullptr, 0));
  NEED(cuLibraryGetKernel(&kernel, library, lowered));
  NEED(cuLaunchKernel(reinterpret_cast<CUfunction>(kernel), (kCount + 127) / 128, 1, 1, 128, 1, 1, 0, nullptr, arguments, nullptr));
  auto got = out.host();
  NEED(cuLibraryUnload(library));
  NEED(nvrtcDestroyProgram(&program));
  bool right = true;
  for (int i = 0; i < kCount; i++) right &= got[i] == 3 * i;
  return {right, hash_of(got)};
}

Result compiler_error() {
  nvrtcProgram program;
  NEED(nvrtcCreateProgram(&program, "__global__ void k() { nonsense; }", "source.cu", 0, nullptr, nullptr));
  int status = nvrtcCompileProgram(program, 0, nullptr);
  size_t size = 0;
  NEED(nvrtcGetProgramLogSize(program, &size));
  std::string log(size, 0);
  NEED(nvrtcGetProgramLog(program, log.data()));
  NEED(nvrtcDestroyProgram(&program));
  return {status == NVRTC_ERROR_COMPILATION && log.find("nonsense") != log.npos, hash_of(log.data(), size)};
}

Result driver_error_log() {
  char log[4096] = "";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log)};
  CUmodule module;
  CUresult status = cuModuleLoadDataEx(&module, ".version 7.0\n.target sm_75\n.address_size 64\n.visible .entry k() { nonsense.u32 %r1; }\n", 2, options, values);
  return {status == CUDA_ERROR_INVALID_PTX && log[0] != 0, hash_of(log, reinterpret_cast<size_t>(values[1]) % sizeof log)};
}

Result module_globals() {
  auto code = compile(kWhole, Form::kCubin, false);
  CUmodule module;
  CUdeviceptr address;
  size_t size = 0;
  int value = 0;
  NEED(cuModuleLoadData(&module, code.data()));
  NEED(cuModuleGetGlobal(&address, &size, module, "offset"));
  NEED(cuMemcpyDtoH(&value, address, sizeof value));
  NEED(cuModuleUnload(module));
  return {size == sizeof value && value == 5, uint64_t(value)};
}

}  // namespace

int main() {
  cudaFree(nullptr);  // makes the context that the driver's functions use
  run_case("ptx", [] { return run(compile(kWhole, Form::kPtx, false)); });
  run_case("machine code", [] { return run(compile(kWhole, Form::kCubin, false)); });
  run_case("names of template instances", mangled_name);
  run_case("variables of a module", module_globals);
  run_case("two parts as machine code, nvJitLink", [] { return linked(Form::kCubin, NVJITLINK_INPUT_CUBIN); });
  run_case("two parts as ptx, nvJitLink", [] { return linked(Form::kPtx, NVJITLINK_INPUT_PTX); });
  run_case("two parts optimised at link time", [] { return linked(Form::kLto, NVJITLINK_INPUT_LTOIR); });
  run_case("two parts linked by the driver", linked_by_the_driver);
  run_case("a compiler error and its log", compiler_error);
  run_case("the driver's error log", driver_error_log);
}
