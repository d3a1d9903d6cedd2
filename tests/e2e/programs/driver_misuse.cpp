// What the driver answers to mistakes, one after another: the code and nothing else. A child process does the cases in
// order; if one kills it, the parent says so and a new child goes on behind it, so that one crash hides no other answer.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cudaProfiler.h>

#include "driver.h"

namespace {

// What the cases misuse.
CUdevice device;
CUcontext context;
CUdeviceptr memory;  // 1 MiB
constexpr size_t kBytes = 1 << 20;
CUmodule module;
CUlibrary library;
CUfunction fill;
CUkernel kernel;
CUstream stream;
CUevent event, untimed, unrecorded;
CUarray array;  // 16 x 16 floats
CUgraph graph;
CUgraphNode empty, kernel_node, memset_node;
CUgraphExec exec;
CUmemoryPool pool;
char host[4096];
void* parameters[3];
CUdeviceptr argument;
unsigned value = 1, count = 64;

// Where answers go that nobody reads.
int number;
unsigned word;
size_t bytes;
float milliseconds;
CUdeviceptr address;
CUcontext made_context;
CUstream made_stream;
CUevent made_event;
CUmodule made_module;
CUlibrary made_library;
CUfunction made_function;
CUkernel made_kernel;
CUgraph made_graph;
CUgraphNode made_node;
CUgraphExec made_exec;
CUarray made_array;
CUmipmappedArray made_mipmapped;
CUtexObject texture;
CUsurfObject surface;
CUmemoryPool made_pool;
CUmemGenericAllocationHandle physical;
CUstreamCaptureStatus capturing;
CUlinkState link_state;
CUuserObject user_object;
void* pointer;
const char* text;

CUDA_MEMCPY3D copy3d() {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = memory;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = memory + 65536;
  copy.WidthInBytes = 64;
  copy.Height = 4;
  copy.Depth = 2;
  copy.srcPitch = copy.dstPitch = 64;
  copy.srcHeight = copy.dstHeight = 4;
  return copy;
}

CUDA_MEMCPY2D copy2d() {
  CUDA_MEMCPY2D copy{};
  copy.srcMemoryType = CU_MEMORYTYPE_HOST;
  copy.srcHost = host;
  copy.srcPitch = 64;
  copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.dstDevice = memory;
  copy.dstPitch = 64;
  copy.WidthInBytes = 64;
  copy.Height = 4;
  return copy;
}

CUDA_KERNEL_NODE_PARAMS node_params() {
  CUDA_KERNEL_NODE_PARAMS params{};
  params.func = fill;
  params.gridDimX = params.gridDimY = params.gridDimZ = 1;
  params.blockDimX = 64;
  params.blockDimY = params.blockDimZ = 1;
  params.kernelParams = parameters;
  return params;
}

CUDA_MEMSET_NODE_PARAMS set_params() { return {memory, 0, 7, 4, 16, 1}; }

CUmemAllocationProp property() {
  CUmemAllocationProp prop{};
  prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  prop.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  return prop;
}

CUresult launch(unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y, unsigned z, unsigned shared) {
  return cuLaunchKernel(fill, grid_x, grid_y, grid_z, x, y, z, shared, stream, parameters, nullptr);
}

CUresult launch_ex(CUlaunchAttributeID id, CUlaunchAttributeValue attribute_value, unsigned grid = 1) {
  CUlaunchAttribute attribute{};
  attribute.id = id;
  attribute.value = attribute_value;
  CUlaunchConfig config{grid, 1, 1, 64, 1, 1, 0, stream, &attribute, 1};
  return cuLaunchKernelEx(&config, fill, parameters, nullptr);
}

CUlaunchAttributeValue cluster(unsigned x, unsigned y, unsigned z) {
  CUlaunchAttributeValue attribute{};
  attribute.clusterDim = {x, y, z};
  return attribute;
}

// Runs `body` while `stream` captures, and ends the capture.
template <typename Body>
CUresult captured(Body body, CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) {
  CHECK(cuStreamBeginCapture(stream, mode));
  const CUresult result = body();
  CUgraph ended = nullptr;
  std::printf("[end: %s] ", name_of(cuStreamEndCapture(stream, &ended)));
  if (ended) cuGraphDestroy(ended);
  return result;
}

template <typename T, typename Change>
CUresult changed(T params, Change change, CUresult (*call)(T&)) {
  change(params);
  return call(params);
}

struct Case {
  const char* text;
  CUresult (*run)();
};

#define CASE(call) {#call, [] { return call; }}
#define COPY3D(change) {"cuMemcpy3D with " #change, [] { CUDA_MEMCPY3D copy = copy3d(); change; return cuMemcpy3D(&copy); }}
#define COPY2D(change) {"cuMemcpy2D with " #change, [] { CUDA_MEMCPY2D copy = copy2d(); change; return cuMemcpy2D(&copy); }}
#define KERNEL_NODE(change)                                                          \
  {"cuGraphAddKernelNode with " #change, [] {                                        \
     CUDA_KERNEL_NODE_PARAMS params = node_params();                                 \
     change;                                                                         \
     return cuGraphAddKernelNode(&made_node, graph, nullptr, 0, &params);            \
   }}
#define MEMSET_NODE(change)                                                          \
  {"cuGraphAddMemsetNode with " #change, [] {                                        \
     CUDA_MEMSET_NODE_PARAMS params = set_params();                                  \
     change;                                                                         \
     return cuGraphAddMemsetNode(&made_node, graph, nullptr, 0, &params, context);   \
   }}
#define CREATE(change)                                  \
  {"cuMemCreate with " #change, [] {                    \
     CUmemAllocationProp prop = property();             \
     size_t size = 2 << 20;                             \
     change;                                            \
     return cuMemCreate(&physical, size, &prop, 0);     \
   }}
#define CAPTURED(call) {"captured: " #call, [] { return captured([] { return call; }); }}
#define CAPTURED_GLOBAL(call) \
  {"captured, global mode: " #call, [] { return captured([] { return call; }, CU_STREAM_CAPTURE_MODE_GLOBAL); }}

const Case kCases[] = {
    // Devices and contexts
    CASE(cuDeviceGetAttribute(nullptr, CU_DEVICE_ATTRIBUTE_WARP_SIZE, device)),
    CASE(cuDeviceGetAttribute(&number, CUdevice_attribute(0), device)),
    CASE(cuDeviceGetCount(nullptr)),
    CASE(cuDeviceGetName(nullptr, 16, device)),
    CASE(cuDeviceTotalMem(nullptr, device)),
    CASE(cuDeviceTotalMem(&bytes, 7)),
    CASE(cuDeviceGetUuid_v2(nullptr, device)),
    CASE(cuDeviceGetPCIBusId(host, 4, device)),
    CASE(cuDeviceGetPCIBusId(nullptr, 16, device)),
    CASE(cuDeviceGetByPCIBusId(&device, "no bus")),
    CASE(cuDeviceGetByPCIBusId(&device, "ffff:ff:1f.0")),
    CASE(cuDeviceCanAccessPeer(nullptr, 0, 0)),
    CASE(cuDeviceCanAccessPeer(&number, 0, 0)),
    CASE(cuDeviceCanAccessPeer(&number, 0, 9)),
    CASE(cuDeviceGetP2PAttribute(&number, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 0, 0)),
    CASE(cuDevicePrimaryCtxRetain(nullptr, device)),
    CASE(cuDevicePrimaryCtxRetain(&made_context, 3)),
    CASE(cuDevicePrimaryCtxSetFlags(device, 0x4000)),
    CASE(cuDevicePrimaryCtxGetState(device, nullptr, nullptr)),
    CASE(cuDevicePrimaryCtxGetState(5, &word, &number)),
    CASE(cuCtxCreate(nullptr, nullptr, 0, device)),
    CASE(cuCtxCreate(&made_context, nullptr, 0xffff, device)),
    CASE(cuCtxCreate(&made_context, nullptr, 0, 9)),
    CASE(cuCtxDestroy(nullptr)),
    CASE(cuCtxDestroy(context)),
    CASE(cuCtxGetCurrent(nullptr)),
    CASE(cuCtxPushCurrent(nullptr)),
    CASE(cuCtxGetDevice(nullptr)),
    CASE(cuCtxGetFlags(nullptr)),
    CASE(cuCtxGetLimit(&bytes, CUlimit(99))),
    CASE(cuCtxGetLimit(nullptr, CU_LIMIT_STACK_SIZE)),
    CASE(cuCtxSetLimit(CUlimit(99), 1)),
    CASE(cuCtxGetCacheConfig(nullptr)),
    CASE(cuCtxSetCacheConfig(CUfunc_cache(17))),
    CASE(cuCtxGetApiVersion(context, nullptr)),
    CASE(cuCtxGetStreamPriorityRange(nullptr, nullptr)),
    CASE(cuCtxGetId(context, nullptr)),
    CASE(cuCtxEnablePeerAccess(context, 0)),
    CASE(cuCtxEnablePeerAccess(nullptr, 0)),
    CASE(cuCtxDisablePeerAccess(context)),
    CASE(cuCtxDetach(context)),
    // Memory
    CASE(cuMemAlloc(&address, size_t(1) << 50)),
    CASE(cuMemAllocPitch(&address, &bytes, 0, 4, 4)),
    CASE(cuMemAllocPitch(&address, &bytes, 64, 0, 4)),
    CASE(cuMemAllocPitch(&address, &bytes, 64, 4, 3)),
    CASE(cuMemAllocPitch(nullptr, &bytes, 64, 4, 4)),
    CASE(cuMemFree(memory + 256)),
    CASE(cuMemGetAddressRange(&address, &bytes, 0)),
    CASE(cuMemGetAddressRange(&address, &bytes, 4096)),
    CASE(cuMemGetAddressRange(nullptr, nullptr, memory)),
    CASE(cuMemAllocHost(nullptr, 64)),
    CASE(cuMemHostAlloc(&pointer, 64, 0x100)),
    CASE(cuMemFreeHost(nullptr)),
    CASE(cuMemFreeHost(host)),
    CASE(cuMemHostRegister(nullptr, 4096, 0)),
    CASE(cuMemHostRegister(host, 0, 0)),
    CASE(cuMemHostRegister(host, 64, 0x1000)),
    CASE(cuMemHostUnregister(host)),
    CASE(cuMemHostGetFlags(&word, host)),
    CASE(cuMemHostGetDevicePointer(&address, host, 0)),
    CASE(cuMemHostGetDevicePointer(&address, host, 5)),
    CASE(cuPointerGetAttribute(&number, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CUdeviceptr(host))),
    CASE(cuPointerGetAttribute(&number, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 0)),
    CASE(cuPointerGetAttribute(&number, CUpointer_attribute(77), memory)),
    CASE(cuPointerGetAttribute(nullptr, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, memory)),
    CASE(cuPointerSetAttribute(&number, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, memory)),
    CASE(cuPointerSetAttribute(nullptr, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, memory)),
    CASE(cuMemcpyHtoD(memory, nullptr, 16)),
    CASE(cuMemcpyHtoD(0, host, 16)),
    CASE(cuMemcpyHtoD(memory, host, 0)),
    CASE(cuMemcpyHtoD(0, nullptr, 0)),
    CASE(cuMemcpyHtoD(memory + kBytes, host, 4096)),
    CASE(cuMemcpyDtoH(nullptr, memory, 16)),
    CASE(cuMemcpyDtoH(host, 0, 16)),
    CASE(cuMemcpyDtoH(host, CUdeviceptr(host), 16)),
    CASE(cuMemcpyDtoD(memory, 0, 16)),
    CASE(cuMemcpyDtoD(0, memory, 16)),
    CASE(cuMemcpyDtoD(memory, memory + kBytes - 8, 16 << 20)),
    CASE(cuMemcpyHtoDAsync(memory, nullptr, 16, stream)),
    CASE(cuMemcpyDtoHAsync(host, 16, 16, stream)),
    CASE(cuMemcpy(memory, 0, 16)),
    CASE(cuMemcpy(0, memory, 16)),
    CASE(cuMemcpyPeer(memory, context, 0, context, 16)),
    CASE(cuMemcpyPeer(memory, nullptr, memory + 4096, nullptr, 16)),
    CASE(cuMemcpyHtoA(array, 0, host, 4096)),
    CASE(cuMemcpyHtoA(array, 60, host, 8)),
    CASE(cuMemcpyAtoH(host, array, 0, 1 << 16)),
    CASE(cuMemcpyHtoA(nullptr, 0, host, 4)),
    CASE(cuMemcpyDtoA(array, 0, 0, 16)),
    CASE(cuMemcpy2D(nullptr)),
    COPY2D(copy.srcPitch = 32),
    COPY2D(copy.dstPitch = 32),
    COPY2D(copy.WidthInBytes = 0),
    COPY2D(copy.Height = 0),
    COPY2D(copy.srcMemoryType = CUmemorytype(9)),
    COPY2D(copy.srcHost = nullptr),
    COPY2D(copy.dstDevice = 0),
    COPY2D(copy.dstPitch = size_t(1) << 40),
    COPY2D(copy.srcXInBytes = 32),
    COPY2D((copy.dstMemoryType = CU_MEMORYTYPE_ARRAY, copy.dstArray = array, copy.dstXInBytes = 32)),
    COPY2D((copy.dstMemoryType = CU_MEMORYTYPE_ARRAY, copy.dstArray = array, copy.dstY = 15)),
    COPY2D((copy.dstMemoryType = CU_MEMORYTYPE_ARRAY, copy.dstArray = nullptr)),
    CASE(cuMemcpy3D(nullptr)),
    COPY3D(copy.srcPitch = 32),
    COPY3D(copy.srcHeight = 2),
    COPY3D(copy.Depth = 0),
    COPY3D(copy.srcDevice = 0),
    COPY3D(copy.dstMemoryType = CUmemorytype(0)),
    COPY3D(copy.srcLOD = 3),
    COPY3D((copy.dstMemoryType = CU_MEMORYTYPE_ARRAY, copy.dstArray = array)),
    CASE(cuMemsetD8(0, 0, 16)),
    CASE(cuMemsetD8(memory, 0, 0)),
    CASE(cuMemsetD8(memory + kBytes - 8, 0, 32 << 20)),
    CASE(cuMemsetD16(memory + 1, 0, 16)),
    CASE(cuMemsetD32(memory + 2, 0, 16)),
    CASE(cuMemsetD32Async(memory + 2, 0, 16, stream)),
    CASE(cuMemsetD2D8(memory, 8, 0, 16, 4)),
    CASE(cuMemsetD2D32(memory, 62, 0, 16, 4)),
    CASE(cuMemsetD2D8(memory, 64, 0, 0, 4)),
    CASE(cuMemAllocAsync(&address, 0, stream)),
    CASE(cuMemAllocAsync(nullptr, 64, stream)),
    CASE(cuMemAllocAsync(&address, size_t(1) << 50, stream)),
    CASE(cuMemFreeAsync(0, stream)),
    CASE(cuMemFreeAsync(memory + 64, stream)),
    CASE(cuMemAllocFromPoolAsync(&address, 64, nullptr, stream)),
    CASE(cuMemPoolCreate(nullptr, nullptr)),
    CASE(cuMemPoolDestroy(nullptr)),
    CASE(cuMemPoolDestroy(pool)),
    CASE(cuMemPoolGetAttribute(pool, CUmemPool_attribute(44), &bytes)),
    CASE(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &bytes)),
    CASE(cuDeviceGetDefaultMemPool(&made_pool, 8)),
    CASE(cuDeviceSetMemPool(0, nullptr)),
    CASE(cuMemAddressReserve(&address, 0, 0, 0, 0)),
    CASE(cuMemAddressReserve(&address, 4096, 0, 0, 0)),
    CASE(cuMemAddressReserve(&address, 2 << 20, 3, 0, 0)),
    CASE(cuMemAddressReserve(&address, 2 << 20, 0, 0, 1)),
    CASE(cuMemAddressFree(memory, 2 << 20)),
    CREATE(size = 4096),
    CREATE(size = 0),
    CREATE(prop.type = CUmemAllocationType(9)),
    CREATE(prop.location.id = 12),
    CREATE(prop.location.type = CUmemLocationType(77)),
    CASE(cuMemCreate(&physical, 2 << 20, nullptr, 0)),
    CASE(cuMemRelease(0)),
    CASE(cuMemMap(memory, 2 << 20, 0, 0, 0)),
    CASE(cuMemUnmap(memory, 2 << 20)),
    CASE(cuMemGetAllocationGranularity(&bytes, nullptr, CU_MEM_ALLOC_GRANULARITY_MINIMUM)),
    CASE(cuMemRetainAllocationHandle(&physical, reinterpret_cast<void*>(memory))),
    CASE(cuMemRetainAllocationHandle(nullptr, reinterpret_cast<void*>(memory))),
    // Code
    CASE(cuModuleLoadData(nullptr, kPtx)),
    CASE(cuModuleLoadData(&made_module, "")),
    CASE(cuModuleLoadData(&made_module, ".version 6.4\n.target sm_75\n.address_size 64\n.visible .entry k() { call nobody; }\n")),
    CASE(cuModuleLoadDataEx(&made_module, kPtx, 1, nullptr, nullptr)),
    CASE(cuModuleLoad(&made_module, nullptr)),
    CASE(cuModuleUnload(nullptr)),
    CASE(cuModuleGetFunction(&made_function, module, nullptr)),
    CASE(cuModuleGetFunction(&made_function, module, "absent")),
    CASE(cuModuleGetFunction(&made_function, module, "")),
    CASE(cuModuleGetFunction(nullptr, module, "fill")),
    CASE(cuModuleGetFunction(&made_function, nullptr, "fill")),
    CASE(cuModuleGetFunction(&made_function, module, "counter")),
    CASE(cuModuleGetGlobal(&address, &bytes, module, "absent")),
    CASE(cuModuleGetGlobal(&address, &bytes, module, "fill")),
    CASE(cuModuleGetGlobal(nullptr, nullptr, module, "counter")),
    CASE(cuModuleGetGlobal(&address, &bytes, module, nullptr)),
    CASE(cuModuleGetFunctionCount(nullptr, module)),
    CASE(cuModuleEnumerateFunctions(nullptr, 1, module)),
    CASE(cuLibraryLoadData(nullptr, kPtx, nullptr, nullptr, 0, nullptr, nullptr, 0)),
    CASE(cuLibraryLoadData(&made_library, nullptr, nullptr, nullptr, 0, nullptr, nullptr, 0)),
    CASE(cuLibraryLoadFromFile(&made_library, "/nonexistent/file", nullptr, nullptr, 0, nullptr, nullptr, 0)),
    CASE(cuLibraryGetKernel(&made_kernel, library, "absent")),
    CASE(cuLibraryGetKernel(&made_kernel, library, nullptr)),
    CASE(cuLibraryGetKernel(nullptr, library, "fill")),
    CASE(cuLibraryGetGlobal(&address, &bytes, library, "absent")),
    CASE(cuLibraryGetManaged(&address, &bytes, library, "counter")),
    CASE(cuLibraryUnload(nullptr)),
    CASE(cuKernelGetName(nullptr, kernel)),
    CASE(cuKernelGetFunction(nullptr, kernel)),
    CASE(cuKernelGetAttribute(&number, CUfunction_attribute(99), kernel, device)),
    CASE(cuKernelGetAttribute(&number, CU_FUNC_ATTRIBUTE_NUM_REGS, kernel, 6)),
    CASE(cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_NUM_REGS, 3, kernel, device)),
    CASE(cuKernelGetParamInfo(kernel, 3, &bytes, &bytes)),
    CASE(cuKernelGetParamInfo(kernel, 0, nullptr, &bytes)),
    CASE(cuFuncGetAttribute(nullptr, CU_FUNC_ATTRIBUTE_NUM_REGS, fill)),
    CASE(cuFuncGetAttribute(&number, CUfunction_attribute(99), fill)),
    CASE(cuFuncGetAttribute(&number, CUfunction_attribute(-1), fill)),
    CASE(cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_NUM_REGS, 3)),
    CASE(cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1 << 20)),
    CASE(cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, -1)),
    CASE(cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 101)),
    CASE(cuFuncSetAttribute(fill, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, -2)),
    CASE(cuFuncSetCacheConfig(fill, CUfunc_cache(17))),
    CASE(cuFuncGetModule(nullptr, fill)),
    CASE(cuFuncGetName(nullptr, fill)),
    CASE(cuFuncGetParamInfo(fill, 3, &bytes, &bytes)),
    CASE(cuOccupancyMaxActiveBlocksPerMultiprocessor(nullptr, fill, 64, 0)),
    CASE(cuOccupancyMaxActiveBlocksPerMultiprocessor(&number, fill, 0, 0)),
    CASE(cuOccupancyMaxActiveBlocksPerMultiprocessor(&number, fill, -5, 0)),
    CASE(cuOccupancyMaxActiveBlocksPerMultiprocessor(&number, fill, 4096, 0)),
    CASE(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&number, fill, 64, 0, 8)),
    CASE(cuOccupancyAvailableDynamicSMemPerBlock(&bytes, fill, 1, 0)),
    CASE(cuOccupancyAvailableDynamicSMemPerBlock(&bytes, fill, 0, 64)),
    // Launches
    CASE(launch(0, 1, 1, 64, 1, 1, 0)),
    CASE(launch(1, 0, 1, 64, 1, 1, 0)),
    CASE(launch(1, 1, 1, 0, 1, 1, 0)),
    CASE(launch(1, 1, 1, 1025, 1, 1, 0)),
    CASE(launch(1, 1, 1, 1, 1, 65, 0)),
    CASE(launch(1, 1, 1, 64, 64, 1, 0)),
    CASE(launch(1, 65536, 1, 64, 1, 1, 0)),
    CASE(launch(1, 1, 65536, 64, 1, 1, 0)),
    CASE(launch(0x80000000u, 1, 1, 64, 1, 1, 0)),
    CASE(launch(1, 1, 1, 64, 1, 1, 1 << 20)),
    CASE(launch(1, 1, 1, 64, 1, 1, 50 << 10)),
    CASE(cuLaunchKernel(fill, 1, 1, 1, 64, 1, 1, 0, stream, nullptr, nullptr)),
    CASE(cuLaunchCooperativeKernel(fill, 1 << 20, 1, 1, 1024, 1, 1, 0, stream, parameters)),
    CASE(cuLaunchKernelEx(nullptr, fill, parameters, nullptr)),
    CASE(launch_ex(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, cluster(3, 1, 1), 4)),
    CASE(launch_ex(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, cluster(32, 1, 1), 32)),
    CASE(launch_ex(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, cluster(0, 1, 1), 4)),
    CASE(launch_ex(CUlaunchAttributeID(60), cluster(1, 1, 1))),
    CASE(cuLaunchHostFunc(stream, nullptr, nullptr)),
    CASE(cuStreamAddCallback(stream, nullptr, nullptr, 0)),
    CASE(cuStreamAddCallback(stream, [](CUstream, CUresult, void*) {}, nullptr, 7)),
    // Streams and events
    CASE(cuStreamCreate(nullptr, 0)),
    CASE(cuStreamCreateWithPriority(&made_stream, 0x40, 0)),
    CASE(cuStreamDestroy(nullptr)),
    CASE(cuStreamGetFlags(stream, nullptr)),
    CASE(cuStreamGetPriority(stream, nullptr)),
    CASE(cuStreamGetCtx(stream, nullptr)),
    CASE(cuStreamGetId(stream, nullptr)),
    CASE(cuStreamWaitEvent(stream, nullptr, 0)),
    CASE(cuStreamWaitEvent(stream, event, 16)),
    CASE(cuStreamWaitEvent(stream, unrecorded, 0)),
    CASE(cuStreamIsCapturing(stream, nullptr)),
    CASE(cuStreamBeginCapture(nullptr, CU_STREAM_CAPTURE_MODE_GLOBAL)),
    CASE(cuStreamBeginCapture(stream, CUstreamCaptureMode(8))),
    CASE(cuStreamEndCapture(stream, &made_graph)),
    CASE(cuStreamEndCapture(nullptr, &made_graph)),
    CASE(cuStreamUpdateCaptureDependencies(stream, nullptr, nullptr, 0, 0)),
    CASE(cuStreamWriteValue32(stream, memory + 2, 1, 0)),
    CASE(cuStreamWriteValue32(stream, 0, 1, 0)),
    CASE(cuStreamWriteValue64(stream, memory + 4, 1, 0)),
    CASE(cuStreamWriteValue32(stream, memory, 1, 0x80)),
    CASE(cuStreamWaitValue32(stream, memory, 0, 0x8)),
    CASE(cuStreamBatchMemOp(stream, 0, nullptr, 0)),
    CASE(cuStreamBatchMemOp(stream, 300, nullptr, 0)),
    CASE(cuStreamGetAttribute(stream, CUstreamAttrID(99), reinterpret_cast<CUstreamAttrValue*>(host))),
    CASE(cuStreamCopyAttributes(stream, nullptr)),
    CASE(cuEventCreate(nullptr, 0)),
    CASE(cuEventCreate(&made_event, CU_EVENT_INTERPROCESS)),
    CASE(cuEventDestroy(nullptr)),
    CASE(cuEventQuery(nullptr)),
    CASE(cuEventQuery(unrecorded)),
    CASE(cuEventSynchronize(nullptr)),
    CASE(cuEventSynchronize(unrecorded)),
    CASE(cuEventRecord(nullptr, stream)),
    CASE(cuEventRecordWithFlags(event, stream, 4)),
    CASE(cuEventElapsedTime(&milliseconds, event, unrecorded)),
    CASE(cuEventElapsedTime(&milliseconds, event, untimed)),
    CASE(cuEventElapsedTime(nullptr, event, event)),
    CASE(cuEventElapsedTime(&milliseconds, nullptr, event)),
    // Captures
    CAPTURED(cuStreamSynchronize(stream)),
    CAPTURED(cuStreamQuery(stream)),
    CAPTURED(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL)),
    CAPTURED(cuStreamDestroy(stream) == CUDA_SUCCESS ? cuStreamCreate(&stream, 0) : CUDA_ERROR_UNKNOWN),
    CAPTURED(cuMemcpyHtoD(memory, host, 64)),
    CAPTURED(cuStreamWaitValue32(stream, memory, 1, 0)),
    CAPTURED(cuCtxSynchronize()),
    CAPTURED(cuEventRecord(event, stream) == CUDA_SUCCESS ? cuEventSynchronize(event) : CUDA_ERROR_UNKNOWN),
    CAPTURED(cuEventRecord(event, stream) == CUDA_SUCCESS ? cuEventQuery(event) : CUDA_ERROR_UNKNOWN),
    CAPTURED_GLOBAL(cuMemAlloc(&address, 64)),
    CAPTURED_GLOBAL(cuCtxSynchronize()),
    CAPTURED_GLOBAL(cuMemsetD8(memory, 0, 16)),
    CAPTURED(cuMemsetD8Async(memory, 0, 16, nullptr)),
    CAPTURED(launch(0, 1, 1, 64, 1, 1, 0)),
    CAPTURED(cuEventRecord(event, stream)),
    // Graphs
    CASE(cuGraphCreate(nullptr, 0)),
    CASE(cuGraphCreate(&made_graph, 1)),
    CASE(cuGraphDestroy(nullptr)),
    CASE(cuGraphAddEmptyNode(nullptr, graph, nullptr, 0)),
    CASE(cuGraphAddEmptyNode(&made_node, nullptr, nullptr, 0)),
    CASE(cuGraphAddEmptyNode(&made_node, graph, nullptr, 1)),
    CASE(cuGraphAddDependencies(graph, &empty, &empty, nullptr, 1)),
    CASE(cuGraphAddDependencies(graph, nullptr, nullptr, nullptr, 1)),
    CASE(cuGraphRemoveDependencies(graph, &empty, &kernel_node, nullptr, 1)),
    CASE(cuGraphGetNodes(graph, nullptr, nullptr)),
    CASE(cuGraphGetEdges(graph, nullptr, nullptr, nullptr, nullptr)),
    CASE(cuGraphNodeGetType(empty, nullptr)),
    CASE(cuGraphNodeGetType(nullptr, nullptr)),
    CASE(cuGraphInstantiate(nullptr, graph, 0)),
    CASE(cuGraphInstantiate(&made_exec, nullptr, 0)),
    CASE(cuGraphInstantiate(&made_exec, graph, 0x4000)),
    CASE(cuGraphLaunch(nullptr, stream)),
    CASE(cuGraphExecDestroy(nullptr)),
    CASE(cuGraphClone(nullptr, graph)),
    CASE(cuGraphClone(&made_graph, nullptr)),
    CASE(cuGraphNodeFindInClone(&made_node, empty, graph)),
    CASE(cuGraphChildGraphNodeGetGraph(empty, &made_graph)),
    CASE(cuGraphAddChildGraphNode(&made_node, graph, nullptr, 0, nullptr)),
    CASE(cuGraphAddKernelNode(&made_node, graph, nullptr, 0, nullptr)),
    KERNEL_NODE(params.func = nullptr),
    KERNEL_NODE(params.blockDimX = 0),
    KERNEL_NODE(params.blockDimX = 2048),
    KERNEL_NODE(params.sharedMemBytes = 1 << 20),
    KERNEL_NODE(params.kernelParams = nullptr),
    CASE(cuGraphAddMemsetNode(&made_node, graph, nullptr, 0, nullptr, context)),
    MEMSET_NODE(params.elementSize = 3),
    MEMSET_NODE(params.dst = 0),
    MEMSET_NODE(params.width = 0),
    MEMSET_NODE(params.height = 0),
    MEMSET_NODE(params.dst += 2),
    CASE(cuGraphAddHostNode(&made_node, graph, nullptr, 0, nullptr)),
    CASE(cuGraphAddMemcpyNode(&made_node, graph, nullptr, 0, nullptr, context)),
    CASE(cuGraphAddEventRecordNode(&made_node, graph, nullptr, 0, nullptr)),
    CASE(cuGraphKernelNodeGetParams(memset_node, reinterpret_cast<CUDA_KERNEL_NODE_PARAMS*>(host))),
    CASE(cuGraphMemsetNodeGetParams(kernel_node, reinterpret_cast<CUDA_MEMSET_NODE_PARAMS*>(host))),
    CASE(cuGraphMemcpyNodeGetParams(kernel_node, reinterpret_cast<CUDA_MEMCPY3D*>(host))),
    CASE(cuGraphHostNodeGetParams(kernel_node, reinterpret_cast<CUDA_HOST_NODE_PARAMS*>(host))),
    CASE(cuGraphKernelNodeSetParams(kernel_node, nullptr)),
    CASE(cuGraphNodeSetEnabled(exec, empty, 0)),
    CASE(cuGraphNodeGetEnabled(exec, kernel_node, nullptr)),
    CASE(cuGraphExecKernelNodeSetParams(exec, memset_node, reinterpret_cast<CUDA_KERNEL_NODE_PARAMS*>(host))),
    CASE(cuGraphExecGetFlags(exec, nullptr)),
    CASE(cuGraphExecUpdate(exec, graph, nullptr)),
    CASE(cuGraphDebugDotPrint(graph, nullptr, 0)),
    CASE(cuGraphDebugDotPrint(graph, "/nonexistent/folder/graph.dot", 0)),
    CASE(cuUserObjectCreate(&user_object, nullptr, nullptr, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)),
    CASE(cuUserObjectCreate(&user_object, host, [](void*) {}, 0, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC)),
    CASE(cuUserObjectCreate(&user_object, host, [](void*) {}, 1, 0)),
    CASE(cuUserObjectRetain(nullptr, 1)),
    CASE(cuUserObjectRelease(nullptr, 1)),
    // Arrays, textures
    {"cuArrayCreate of no width", [] {
       CUDA_ARRAY_DESCRIPTOR wrong{0, 4, CU_AD_FORMAT_FLOAT, 1};
       return cuArrayCreate(&made_array, &wrong);
     }},
    {"cuArrayCreate of three channels", [] {
       CUDA_ARRAY_DESCRIPTOR wrong{4, 4, CU_AD_FORMAT_FLOAT, 3};
       return cuArrayCreate(&made_array, &wrong);
     }},
    {"cuArrayCreate of an unknown format", [] {
       CUDA_ARRAY_DESCRIPTOR wrong{4, 4, CUarray_format(0x7f), 1};
       return cuArrayCreate(&made_array, &wrong);
     }},
    {"cuArrayCreate too wide", [] {
       CUDA_ARRAY_DESCRIPTOR wrong{1 << 24, 4, CU_AD_FORMAT_FLOAT, 1};
       return cuArrayCreate(&made_array, &wrong);
     }},
    CASE(cuArrayCreate(&made_array, nullptr)),
    CASE(cuArrayDestroy(nullptr)),
    CASE(cuArrayGetDescriptor(nullptr, array)),
    CASE(cuMipmappedArrayCreate(&made_mipmapped, nullptr, 2)),
    CASE(cuTexObjectCreate(nullptr, nullptr, nullptr, nullptr)),
    {"cuTexObjectCreate over no array", [] {
       CUDA_RESOURCE_DESC resource{};
       resource.resType = CU_RESOURCE_TYPE_ARRAY;
       CUDA_TEXTURE_DESC description{};
       return cuTexObjectCreate(&texture, &resource, &description, nullptr);
     }},
    {"cuSurfObjectCreate over an array without the flag", [] {
       CUDA_RESOURCE_DESC resource{};
       resource.resType = CU_RESOURCE_TYPE_ARRAY;
       resource.res.array.hArray = array;
       return cuSurfObjectCreate(&surface, &resource);
     }},
    {"cuSurfObjectCreate over linear memory", [] {
       CUDA_RESOURCE_DESC resource{};
       resource.resType = CU_RESOURCE_TYPE_LINEAR;
       resource.res.linear = {memory, CU_AD_FORMAT_FLOAT, 1, 4096};
       return cuSurfObjectCreate(&surface, &resource);
     }},
    {"cuTexObjectCreate over misaligned memory", [] {
       CUDA_RESOURCE_DESC resource{};
       resource.resType = CU_RESOURCE_TYPE_LINEAR;
       resource.res.linear = {memory + 4, CU_AD_FORMAT_FLOAT, 1, 4096};
       CUDA_TEXTURE_DESC description{};
       return cuTexObjectCreate(&texture, &resource, &description, nullptr);
     }},
    // Linking and the rest
    CASE(cuLinkCreate(0, nullptr, nullptr, nullptr)),
    CASE(cuLinkCreate(0, nullptr, nullptr, &link_state)),
    CASE(cuLinkAddData(link_state, CU_JIT_INPUT_PTX, nullptr, 0, nullptr, 0, nullptr, nullptr)),
    CASE(cuLinkAddFile(link_state, CU_JIT_INPUT_PTX, "/nonexistent/file.ptx", 0, nullptr, nullptr)),
    CASE(cuLinkAddData(link_state, CU_JIT_INPUT_PTX, host, 16, nullptr, 0, nullptr, nullptr)),
    CASE(cuLinkDestroy(nullptr)),
    CASE(cuGetProcAddress("cuNoSuchFunction", &pointer, 13000, 0, nullptr)),
    CASE(cuGetProcAddress("cuInit", &pointer, 13000, 64, nullptr)),
    CASE(cuProfilerStart()),
    // What is the context's last: afterwards nothing of it works.
    {"a kernel writes to address 16, then cuStreamSynchronize", [] {
       CUdeviceptr wild = 16;
       void* wrong[] = {&wild, &value, &count};
       std::printf("[launch: %s] ", name_of(cuLaunchKernel(fill, 1, 1, 1, 64, 1, 1, 0, stream, wrong, nullptr)));
       return cuStreamSynchronize(stream);
     }},
    CASE(cuMemAlloc(&address, 64)),
    CASE(cuStreamQuery(stream)),
    CASE(launch(1, 1, 1, 64, 1, 1, 0)),
    CASE(cuEventRecord(event, stream)),
    CASE(cuMemFree(memory)),
    CASE(cuModuleLoadData(&made_module, kPtx)),
    CASE(cuCtxGetDevice(&device)),
    CASE(cuStreamDestroy(stream)),
};
constexpr int kCount = int(sizeof kCases / sizeof *kCases);

void prepare() {
  context = use_device(0);
  device = 0;
  CHECK(cuMemAlloc(&memory, kBytes));
  CHECK(cuMemsetD8(memory, 0, kBytes));
  CHECK(cuModuleLoadData(&module, kPtx));
  CHECK(cuModuleGetFunction(&fill, module, "fill"));
  CHECK(cuLibraryLoadData(&library, kPtx, nullptr, nullptr, 0, nullptr, nullptr, 0));
  CHECK(cuLibraryGetKernel(&kernel, library, "fill"));
  CHECK(cuStreamCreate(&stream, 0));
  CHECK(cuEventCreate(&event, 0));
  CHECK(cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING));
  CHECK(cuEventCreate(&unrecorded, 0));
  CHECK(cuEventRecord(event, stream));
  CHECK(cuEventRecord(untimed, stream));
  CHECK(cuStreamSynchronize(stream));
  CUDA_ARRAY_DESCRIPTOR description{16, 16, CU_AD_FORMAT_FLOAT, 1};
  CHECK(cuArrayCreate(&array, &description));
  argument = memory;
  parameters[0] = &argument;
  parameters[1] = &value;
  parameters[2] = &count;
  CHECK(cuGraphCreate(&graph, 0));
  CHECK(cuGraphAddEmptyNode(&empty, graph, nullptr, 0));
  CUDA_KERNEL_NODE_PARAMS kernel_params = node_params();
  CHECK(cuGraphAddKernelNode(&kernel_node, graph, nullptr, 0, &kernel_params));
  CUDA_MEMSET_NODE_PARAMS memset_params = set_params();
  CHECK(cuGraphAddMemsetNode(&memset_node, graph, nullptr, 0, &memset_params, context));
  CHECK(cuGraphInstantiate(&exec, graph, 0));
  CHECK(cuDeviceGetDefaultMemPool(&pool, 0));
}

}  // namespace

int main() {
  auto* next = static_cast<int*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  while (*next < kCount) {
    const pid_t child = fork();
    if (child == 0) {
      prepare();
      while (*next < kCount) {
        const Case& now = kCases[(*next)++];
        std::printf("%s: ", now.text);
        std::fflush(stdout);
        alarm(20);  // a case that hangs ends like one that crashes
        std::printf("%s\n", name_of(now.run()));
      }
      std::exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
      std::printf("ended by signal %d\n", WTERMSIG(status));
    } else if (WEXITSTATUS(status) != 0) {
      return 1;
    }
  }
  std::printf("%d cases\n", kCount);
}
