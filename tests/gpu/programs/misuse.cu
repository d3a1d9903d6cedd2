// What a program hears when it asks for nonsense: each line is a call, the error it returned, and the error that
// cudaGetLastError() has kept after it. Nothing here ends the context, so that all of it fits one process; no call is given
// a wrong handle, which the vendor's libraries would follow.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

__global__ void kernel(int* data) {
  if (data) *data = 1;
}
__device__ int variable[4];
__constant__ int constant = 3;

const char* name_of(cudaError_t error) { return cudaGetErrorName(error); }
const char* name_of(CUresult result) {
  const char* name = nullptr;
  return cuGetErrorName(result, &name) == CUDA_SUCCESS ? name : "unrecognised";
}

template <class Code>
void report(const char* call, Code code) {
  const char* name = name_of(code);
  std::printf("case %s: %s, kept %s\n", call, name, name_of(cudaGetLastError()));
  std::fflush(stdout);
}
#define TRY(call) report(#call, call)

void* const kNowhere = reinterpret_cast<void*>(0x1230);
char g_host[4096];
void* g_memory;  // 4096 bytes on the device
cudaStream_t g_stream;
cudaEvent_t g_event, g_untimed;

void memory() {
  void* p = nullptr;
  size_t pitch = 0;
  cudaPointerAttributes attributes;
  TRY(cudaMalloc(nullptr, 16));
  TRY(cudaMalloc(&p, 0));
  TRY(cudaMalloc(&p, size_t(1) << 60));
  TRY(cudaFree(nullptr));
  TRY(cudaFree(kNowhere));
  TRY(cudaFree(g_host));
  TRY(cudaFree(static_cast<char*>(g_memory) + 256));
  TRY(cudaMallocHost(nullptr, 16));
  TRY(cudaHostAlloc(&p, 16, 0xff00));
  TRY(cudaFreeHost(kNowhere));
  TRY(cudaFreeHost(g_memory));
  TRY(cudaHostRegister(nullptr, 16, 0));
  TRY(cudaHostRegister(g_host, 0, 0));
  TRY(cudaHostRegister(g_host, 16, 0x8000));
  TRY(cudaHostUnregister(g_host));
  TRY(cudaHostGetDevicePointer(&p, kNowhere, 0));
  TRY(cudaMallocPitch(nullptr, &pitch, 16, 16));
  TRY(cudaMallocPitch(&p, nullptr, 16, 16));
  TRY(cudaMallocManaged(&p, 16, 0x70));
  TRY(cudaMallocManaged(&p, 0));
  TRY(cudaPointerGetAttributes(nullptr, g_memory));
  TRY(cudaPointerGetAttributes(&attributes, nullptr));
  TRY(cudaMemGetInfo(nullptr, nullptr));
  TRY(cudaMemPrefetchAsync(g_memory, 4096, cudaMemLocation{cudaMemLocationTypeDevice, 0}, 0));
  TRY(cudaMemAdvise(g_memory, 4096, static_cast<cudaMemoryAdvise>(99), cudaMemLocation{cudaMemLocationTypeDevice, 0}));
}

void copies() {
  TRY(cudaMemcpy(nullptr, g_host, 16, cudaMemcpyHostToDevice));
  TRY(cudaMemcpy(g_memory, nullptr, 16, cudaMemcpyHostToDevice));
  TRY(cudaMemcpy(g_memory, g_host, 16, cudaMemcpyKind(99)));
  TRY(cudaMemcpy(g_memory, g_host, 0, cudaMemcpyHostToDevice));
  TRY(cudaMemcpy(kNowhere, g_host, 16, cudaMemcpyHostToDevice));
  TRY(cudaMemcpy(g_host, kNowhere, 16, cudaMemcpyDeviceToHost));
  TRY(cudaMemcpy(g_memory, g_memory, size_t(1) << 40, cudaMemcpyDeviceToDevice));
  TRY(cudaMemcpyAsync(g_memory, g_host, 16, cudaMemcpyKind(99), g_stream));
  TRY(cudaMemset(nullptr, 0, 16));
  TRY(cudaMemset(kNowhere, 0, 16));
  TRY(cudaMemset(g_memory, 0, size_t(1) << 40));
  TRY(cudaMemcpy2D(g_memory, 4, g_host, 16, 8, 2, cudaMemcpyHostToDevice));
  TRY(cudaMemcpy2D(g_memory, 16, g_host, 4, 8, 2, cudaMemcpyHostToDevice));
  TRY(cudaMemset2D(g_memory, 4, 0, 8, 2));
  TRY(cudaMemcpy3D(nullptr));
  TRY(cudaMemcpyPeer(g_memory, 0, g_memory, 99, 16));
  TRY(cudaMemcpyToSymbol(variable, g_host, 17));
  TRY(cudaMemcpyToSymbol(variable, g_host, 4, 14));
  TRY(cudaMemcpyFromSymbol(g_host, constant, 8));
  TRY(cudaMemcpyToSymbol(kNowhere, g_host, 4));
  void* p;
  size_t size;
  TRY(cudaGetSymbolAddress(&p, kNowhere));
  TRY(cudaGetSymbolSize(&size, kNowhere));
}

void devices() {
  int value, device;
  char text[64];
  size_t size;
  cudaDeviceProp properties;
  TRY(cudaSetDevice(-1));
  TRY(cudaSetDevice(99));
  TRY(cudaGetDevice(nullptr));
  TRY(cudaGetDeviceCount(nullptr));
  TRY(cudaGetDeviceProperties(&properties, 99));
  TRY(cudaDeviceGetAttribute(&value, cudaDeviceAttr(9999), 0));
  TRY(cudaDeviceGetAttribute(&value, cudaDevAttrWarpSize, 99));
  TRY(cudaDeviceGetAttribute(nullptr, cudaDevAttrWarpSize, 0));
  TRY(cudaDeviceGetLimit(&size, cudaLimit(77)));
  TRY(cudaDeviceSetLimit(cudaLimit(77), 1));
  TRY(cudaDeviceGetPCIBusId(text, 1, 0));
  TRY(cudaDeviceGetPCIBusId(text, 64, 99));
  TRY(cudaDeviceGetByPCIBusId(&device, "zz"));
  TRY(cudaDeviceCanAccessPeer(&value, 0, 99));
  TRY(cudaDeviceEnablePeerAccess(0, 0));
  TRY(cudaDeviceEnablePeerAccess(99, 0));
  TRY(cudaDeviceDisablePeerAccess(99));
  TRY(cudaDriverGetVersion(nullptr));
  TRY(cudaRuntimeGetVersion(nullptr));
  TRY(cudaSetDeviceFlags(0x7000));
}

void streams_and_events() {
  cudaStream_t stream;
  cudaEvent_t event;
  float milliseconds;
  TRY(cudaStreamCreate(nullptr));
  TRY(cudaStreamCreateWithFlags(&stream, 0x55));
  TRY(cudaStreamDestroy(nullptr));
  TRY(cudaStreamGetFlags(g_stream, nullptr));
  TRY(cudaStreamWaitEvent(g_stream, nullptr, 0));
  TRY(cudaStreamWaitEvent(g_stream, g_event, 0x40));
  TRY(cudaStreamAddCallback(g_stream, nullptr, nullptr, 0));
  TRY(cudaLaunchHostFunc(g_stream, nullptr, nullptr));
  TRY(cudaStreamAttachMemAsync(g_stream, g_memory, 0, 0x40));
  TRY(cudaEventCreate(nullptr));
  TRY(cudaEventCreateWithFlags(&event, 0x1000));
  TRY(cudaEventCreateWithFlags(&event, cudaEventInterprocess));
  TRY(cudaEventDestroy(nullptr));
  TRY(cudaEventRecord(nullptr, g_stream));
  TRY(cudaEventRecordWithFlags(g_event, g_stream, 0x40));
  TRY(cudaEventQuery(nullptr));
  TRY(cudaEventSynchronize(nullptr));
  TRY(cudaEventElapsedTime(&milliseconds, g_event, g_event));
  TRY(cudaEventRecord(g_event, g_stream));
  TRY(cudaEventRecord(g_untimed, g_stream));
  TRY(cudaStreamSynchronize(g_stream));
  TRY(cudaEventElapsedTime(&milliseconds, g_event, g_untimed));
  TRY(cudaEventElapsedTime(&milliseconds, g_event, nullptr));
  TRY(cudaEventElapsedTime(nullptr, g_event, g_event));
}

void launches() {
  cudaFuncAttributes attributes;
  int blocks;
  int* pointer = nullptr;
  void* arguments[] = {&pointer};
  TRY((kernel<<<0, 1>>>(nullptr), cudaPeekAtLastError()));
  TRY((kernel<<<1, 0>>>(nullptr), cudaPeekAtLastError()));
  TRY((kernel<<<1, 2048>>>(nullptr), cudaPeekAtLastError()));
  TRY((kernel<<<dim3(1, 70000), 1>>>(nullptr), cudaPeekAtLastError()));
  TRY((kernel<<<1, dim3(1, 1, 65)>>>(nullptr), cudaPeekAtLastError()));
  TRY((kernel<<<1, 1, 1 << 20>>>(nullptr), cudaPeekAtLastError()));
  TRY(cudaLaunchKernel(static_cast<const void*>(nullptr), 1, 1, arguments, 0, g_stream));
  TRY(cudaLaunchCooperativeKernel(kernel, 1 << 20, 1024, arguments, 0, g_stream));
  TRY(cudaFuncGetAttributes(&attributes, static_cast<const void*>(nullptr)));
  TRY(cudaFuncGetAttributes(nullptr, kernel));
  TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 10 << 20));
  TRY(cudaFuncSetAttribute(kernel, cudaFuncAttribute(99), 1));
  TRY(cudaFuncSetCacheConfig(kernel, cudaFuncCache(9)));
  TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, 0, 0));
  TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(nullptr, kernel, 32, 0));
}

void graphs() {
  cudaGraph_t graph, none = nullptr;
  cudaGraphExec_t exec;
  cudaGraphNode_t node;
  TRY(cudaGraphCreate(nullptr, 0));
  TRY(cudaGraphCreate(&graph, 7));
  TRY(cudaGraphCreate(&graph, 0));
  TRY(cudaGraphInstantiate(&exec, none, 0));
  TRY(cudaGraphInstantiate(nullptr, graph, 0));
  TRY(cudaGraphLaunch(nullptr, g_stream));
  TRY(cudaGraphDestroy(nullptr));
  TRY(cudaGraphExecDestroy(nullptr));
  TRY(cudaGraphAddKernelNode(&node, graph, nullptr, 0, nullptr));
  TRY(cudaGraphAddEmptyNode(nullptr, graph, nullptr, 0));
  TRY(cudaGraphAddEmptyNode(&node, graph, nullptr, 1));
  TRY(cudaGraphAddEmptyNode(&node, graph, nullptr, 0));
  TRY(cudaGraphAddDependencies(graph, &node, &node, nullptr, 1));
  TRY(cudaGraphClone(nullptr, graph));
  TRY(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeGlobal));
  TRY(cudaStreamBeginCapture(g_stream, cudaStreamCaptureMode(9)));
  TRY(cudaStreamEndCapture(g_stream, &graph));
  TRY(cudaStreamBeginCapture(g_stream, cudaStreamCaptureModeGlobal));
  TRY(cudaStreamBeginCapture(g_stream, cudaStreamCaptureModeGlobal));
  TRY(cudaStreamSynchronize(g_stream));
  TRY(cudaStreamEndCapture(g_stream, &graph));
}

void arrays_and_pools() {
  cudaArray_t array;
  cudaMemPool_t pool;
  cudaTextureObject_t texture;
  cudaChannelFormatDesc channels = cudaCreateChannelDesc<float>(), none{};
  cudaMemPoolProps props{};
  void* p;
  TRY(cudaMallocArray(nullptr, &channels, 16, 16));
  TRY(cudaMallocArray(&array, &channels, 0, 16));
  TRY(cudaMallocArray(&array, &none, 16, 16));
  TRY(cudaMallocArray(&array, &channels, 1 << 20, 1 << 20));
  TRY(cudaFreeArray(nullptr));
  TRY(cudaCreateTextureObject(&texture, nullptr, nullptr, nullptr));
  TRY(cudaMallocAsync(nullptr, 16, g_stream));
  TRY(cudaMallocAsync(&p, size_t(1) << 60, g_stream));
  TRY(cudaFreeAsync(g_host, g_stream));
  TRY(cudaMemPoolCreate(&pool, &props));
  TRY(cudaMemPoolDestroy(nullptr));
  TRY(cudaDeviceSetMemPool(0, nullptr));
  TRY(cudaDeviceGetDefaultMemPool(&pool, 99));
}

void driver() {
  CUmodule module;
  CUfunction function;
  CUdeviceptr address;
  CUmemGenericAllocationHandle handle;
  CUmemAllocationProp prop{};
  CUdevice device;
  CUlibrary library;
  size_t size;
  unsigned value;
  void* entry;
  TRY(cuDeviceGet(&device, 99));
  TRY(cuDeviceGet(nullptr, 0));
  TRY(cuModuleLoadData(&module, nullptr));
  TRY(cuModuleLoadData(&module, "this is no module"));
  TRY(cuLibraryLoadData(&library, "this is no library", nullptr, nullptr, 0, nullptr, nullptr, 0));
  TRY(cuModuleLoadData(&module, ".version 7.0\n.target sm_75\n.address_size 64\n.visible .entry k() { ret; }\n"));
  TRY(cuModuleGetFunction(&function, module, "nothing"));
  TRY(cuModuleGetFunction(&function, module, nullptr));
  TRY(cuModuleGetGlobal(&address, &size, module, "nothing"));
  TRY(cuModuleGetFunction(&function, module, "k"));
  TRY(cuLaunchKernel(function, 0, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr));
  TRY(cuLaunchKernel(function, 1, 1, 1, 4096, 1, 1, 0, nullptr, nullptr, nullptr));
  TRY(cuFuncGetAttribute(nullptr, CU_FUNC_ATTRIBUTE_NUM_REGS, function));
  TRY(cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_NUM_REGS, 3));
  TRY(cuModuleUnload(module));
  TRY(cuMemAlloc(&address, 0));
  TRY(cuMemFree(12345));
  TRY(cuMemcpyHtoD(16, g_host, 16));
  TRY(cuMemsetD32(CUdeviceptr(g_memory) + 2, 0, 4));
  TRY(cuMemGetAddressRange(&address, &size, CUdeviceptr(g_host)));
  TRY(cuPointerGetAttribute(&value, CUpointer_attribute(99), CUdeviceptr(g_memory)));
  TRY(cuMemAddressReserve(&address, 5, 0, 0, 0));
  TRY(cuMemCreate(&handle, size_t(2) << 20, &prop, 0));
  TRY(cuMemUnmap(CUdeviceptr(kNowhere), 4096));
  TRY(cuStreamWaitValue32(g_stream, CUdeviceptr(g_memory) + 1, 1, 0));
  TRY(cuCtxSetLimit(CUlimit(77), 1));
  TRY(cuCtxSetCacheConfig(CUfunc_cache(9)));
  TRY(cuGetProcAddress("cuNoSuchFunction", &entry, 13000, 0, nullptr));
  TRY(cuMemMap(CUdeviceptr(g_memory), size_t(2) << 20, 0, 0, 0));
}

}  // namespace

int main() {
  cudaMalloc(&g_memory, 4096);
  cudaStreamCreate(&g_stream);
  cudaEventCreate(&g_event);
  cudaEventCreateWithFlags(&g_untimed, cudaEventDisableTiming);
  memory();
  copies();
  devices();
  streams_and_events();
  launches();
  graphs();
  arrays_and_pools();
  driver();
  std::printf("case and all is well after that: %s\n", name_of(cudaDeviceSynchronize()));
}
