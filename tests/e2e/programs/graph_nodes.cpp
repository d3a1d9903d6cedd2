// Graph nodes of every kind: their parameters in both directions, changed in graphs and in executable graphs, and data that
// goes through host memory and host functions in the middle of a graph.
#include "driver.h"

namespace {

CUcontext context;
CUstream stream;
CUfunction fill, bump;

CUDA_MEMCPY3D copy_of(CUmemorytype from, const void* host_from, CUdeviceptr device_from, CUmemorytype to, void* host_to,
                      CUdeviceptr device_to, size_t bytes) {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = from;
  copy.srcHost = host_from;
  copy.srcDevice = device_from;
  copy.dstMemoryType = to;
  copy.dstHost = host_to;
  copy.dstDevice = device_to;
  copy.WidthInBytes = bytes;
  copy.Height = copy.Depth = 1;
  return copy;
}
CUDA_MEMCPY3D to_device(const void* host, CUdeviceptr device, size_t bytes) {
  return copy_of(CU_MEMORYTYPE_HOST, host, 0, CU_MEMORYTYPE_DEVICE, nullptr, device, bytes);
}
CUDA_MEMCPY3D to_host(void* host, CUdeviceptr device, size_t bytes) {
  return copy_of(CU_MEMORYTYPE_DEVICE, nullptr, device, CU_MEMORYTYPE_HOST, host, 0, bytes);
}

CUDA_KERNEL_NODE_PARAMS fill_params(CUdeviceptr* out, unsigned* value, unsigned* count, void** list) {
  list[0] = out, list[1] = value, list[2] = count;
  CUDA_KERNEL_NODE_PARAMS params{};
  params.func = fill;
  params.gridDimX = params.gridDimY = params.gridDimZ = 1;
  params.blockDimX = 256;
  params.blockDimY = params.blockDimZ = 1;
  params.kernelParams = list;
  return params;
}

void run(CUgraphExec exec) {
  CHECK(cuGraphLaunch(exec, stream));
  CHECK(cuStreamSynchronize(stream));
}

unsigned* pinned(size_t count) {
  void* memory;
  CHECK(cuMemHostAlloc(&memory, count * sizeof(unsigned), 0));
  return static_cast<unsigned*>(std::memset(memory, 0, count * sizeof(unsigned)));
}

struct Relay {
  unsigned* from;
  unsigned* to;
  unsigned add;
  int runs;
};

// Reads what the graph copied to the host before, and writes what it copies to the device behind.
void CUDA_CB relay(void* data) {
  auto* work = static_cast<Relay*>(data);
  for (int i = 0; i < 256; i++) work->to[i] = work->from[i] + work->add;
  work->runs++;
}

// kernel -> copy to host -> host function -> copy to device -> copy to host
void host_in_the_middle() {
  // Pinned: what lies in pageable memory is read when the graph is launched, before the host function (580.159.04).
  unsigned *first = pinned(256), *second = pinned(256), *result = pinned(256);
  Relay work{first, second, 1000, 0};
  CUdeviceptr memory;
  CHECK(cuMemAlloc(&memory, 4096));
  unsigned value = 5, count = 256;
  void* list[3];
  CUgraph graph;
  CUgraphNode kernel, out, host, in, last;
  CHECK(cuGraphCreate(&graph, 0));
  const CUDA_KERNEL_NODE_PARAMS params = fill_params(&memory, &value, &count, list);
  CHECK(cuGraphAddKernelNode(&kernel, graph, nullptr, 0, &params));
  CUDA_MEMCPY3D copy = to_host(first, memory, 1024);
  CHECK(cuGraphAddMemcpyNode(&out, graph, &kernel, 1, &copy, context));
  CUDA_HOST_NODE_PARAMS function{relay, &work};
  CHECK(cuGraphAddHostNode(&host, graph, &out, 1, &function));
  copy = to_device(second, memory + 2048, 1024);
  CHECK(cuGraphAddMemcpyNode(&in, graph, &host, 1, &copy, context));
  copy = to_host(result, memory + 2048, 1024);
  CHECK(cuGraphAddMemcpyNode(&last, graph, &in, 1, &copy, context));
  CUgraphExec exec;
  CHECK(cuGraphInstantiate(&exec, graph, 0));
  for (int round = 0; round < 3; round++) {
    work.add = 1000u * unsigned(round + 1);
    run(exec);
    std::printf("relayed %u %u, runs %d\n", result[0], result[255], work.runs);
  }
  // Another function for the executable graph, another for the graph.
  Relay other{first, second, 7, 0};
  CUDA_HOST_NODE_PARAMS changed{relay, &other};
  CHECK(cuGraphExecHostNodeSetParams(exec, host, &changed));
  run(exec);
  std::printf("changed: %u, runs %d %d\n", result[1], work.runs, other.runs);
  CUDA_HOST_NODE_PARAMS known{};
  CHECK(cuGraphHostNodeGetParams(host, &known));
  std::printf("the graph's is the first: %d\n", known.fn == relay && known.userData == &work);
  CHECK(cuGraphHostNodeSetParams(host, &changed));
  CHECK(cuGraphHostNodeGetParams(host, &known));
  std::printf("now the second: %d\n", known.userData == &other);
  // A copy of the executable graph gets another host side.
  unsigned* elsewhere = pinned(256);
  copy = to_host(elsewhere, memory + 2048, 1024);
  CHECK(cuGraphExecMemcpyNodeSetParams(exec, last, &copy, context));
  result[1] = 0;
  run(exec);
  std::printf("elsewhere %u, before %u\n", elsewhere[1], result[1]);
  CUDA_MEMCPY3D got{};
  CHECK(cuGraphMemcpyNodeGetParams(last, &got));
  std::printf("copy: %d %d %d %zu %zu %zu\n", got.srcMemoryType, got.dstMemoryType, got.dstHost == result, got.WidthInBytes, got.Height, got.Depth);
  CHECK(cuGraphMemcpyNodeSetParams(last, &copy));
  CHECK(cuGraphMemcpyNodeGetParams(last, &got));
  std::printf("copy goes elsewhere: %d\n", got.dstHost == elsewhere);
  // The graph as it is now, by an update.
  CUgraphExecUpdateResultInfo info{};
  SHOW(cuGraphExecUpdate(exec, graph, &info));
  other.add = 50;
  run(exec);
  std::printf("updated %u, runs %d\n", elsewhere[2], other.runs);
  CHECK(cuGraphDestroy(graph));
  run(exec);
  std::printf("without its graph %u\n", elsewhere[2]);
  CHECK(cuGraphExecDestroy(exec));
  CHECK(cuMemFree(memory));
}

// The same by capture, with more bytes than fit a frame, and a child graph.
void captured_relay() {
  constexpr size_t kWords = 300000;
  static unsigned *first, *second, *result;
  first = pinned(kWords), second = pinned(kWords), result = pinned(kWords);
  CUdeviceptr memory;
  CHECK(cuMemAlloc(&memory, kWords * 4));
  CHECK(cuMemsetD32(memory, 3, kWords));
  CHECK(cuCtxSynchronize());
  CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  CHECK(cuMemcpyDtoHAsync(first, memory, kWords * 4, stream));
  CHECK(cuLaunchHostFunc(stream, [](void*) {
    for (size_t i = 0; i < kWords; i++) second[i] = first[i] * 2 + unsigned(i);
    first[0] = 77;  // stays: the copy has been
  }, nullptr));
  CHECK(cuMemcpyHtoDAsync(memory, second, kWords * 4, stream));
  CUgraph child, graph;
  CHECK(cuStreamEndCapture(stream, &child));
  CHECK(cuGraphCreate(&graph, 0));
  CUgraphNode one, two, last;
  CHECK(cuGraphAddChildGraphNode(&one, graph, nullptr, 0, child));
  CHECK(cuGraphAddChildGraphNode(&two, graph, &one, 1, child));
  CUDA_MEMCPY3D copy = to_host(result, memory, kWords * 4);
  CHECK(cuGraphAddMemcpyNode(&last, graph, &two, 1, &copy, context));
  CUgraphExec exec;
  CHECK(cuGraphInstantiate(&exec, graph, 0));
  run(exec);
  std::printf("twice: %u %u %u, first is %u\n", result[0], result[1], result[kWords - 1], first[0]);
  CHECK(cuGraphExecDestroy(exec));
  CHECK(cuGraphDestroy(graph));
  CHECK(cuGraphDestroy(child));
  CHECK(cuMemFree(memory));
}

void memory_nodes() {
  CUgraph graph;
  CHECK(cuGraphCreate(&graph, 0));
  CUDA_MEM_ALLOC_NODE_PARAMS params{};
  params.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  params.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  params.bytesize = 1 << 20;
  CUgraphNode alloc, set, out, release;
  CHECK(cuGraphAddMemAllocNode(&alloc, graph, nullptr, 0, &params));
  CUDA_MEMSET_NODE_PARAMS memset_params{params.dptr, 0, 0x11223344, 4, 256, 1};
  CHECK(cuGraphAddMemsetNode(&set, graph, &alloc, 1, &memset_params, context));
  static unsigned host[256];
  CUDA_MEMCPY3D copy = to_host(host, params.dptr, 1024);
  CHECK(cuGraphAddMemcpyNode(&out, graph, &set, 1, &copy, context));
  CHECK(cuGraphAddMemFreeNode(&release, graph, &out, 1, params.dptr));
  CUDA_MEM_ALLOC_NODE_PARAMS known{};
  CHECK(cuGraphMemAllocNodeGetParams(alloc, &known));
  CUdeviceptr freed = 0;
  CHECK(cuGraphMemFreeNodeGetParams(release, &freed));
  std::printf("allocation: %zu bytes, same %d, freed same %d\n", known.bytesize, known.dptr == params.dptr, freed == params.dptr);
  CUgraph clone;
  SHOW(cuGraphClone(&clone, graph));
  CUgraphExec exec;
  CHECK(cuGraphInstantiate(&exec, graph, 0));
  run(exec);
  std::printf("set to %x\n", host[255]);
  CUDA_MEMSET_NODE_PARAMS again{};
  CHECK(cuGraphMemsetNodeGetParams(set, &again));
  again.value = 0x55;
  CHECK(cuGraphExecMemsetNodeSetParams(exec, set, &again, context));
  run(exec);
  std::printf("set to %x\n", host[0]);
  CHECK(cuGraphExecDestroy(exec));
  CHECK(cuGraphDestroy(graph));
  CHECK(cuDeviceGraphMemTrim(0));
}

void operations_and_events() {
  CUdeviceptr memory;
  CHECK(cuMemAlloc(&memory, 64));
  CHECK(cuMemsetD8(memory, 0, 64));
  CHECK(cuCtxSynchronize());
  CUgraph graph;
  CHECK(cuGraphCreate(&graph, 0));
  CUstreamBatchMemOpParams operations[2]{};
  operations[0].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
  operations[0].writeValue.address = memory;
  operations[0].writeValue.value = 41;
  operations[1].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
  operations[1].waitValue.address = memory;
  operations[1].waitValue.value = 41;
  operations[1].waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
  CUDA_BATCH_MEM_OP_NODE_PARAMS params{context, 2, operations, 0};
  CUgraphNode batch, record;
  CHECK(cuGraphAddBatchMemOpNode(&batch, graph, nullptr, 0, &params));
  CUevent event, other;
  CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
  CHECK(cuEventCreate(&other, CU_EVENT_DISABLE_TIMING));
  CHECK(cuGraphAddEventRecordNode(&record, graph, &batch, 1, event));
  CUDA_BATCH_MEM_OP_NODE_PARAMS known{};
  CHECK(cuGraphBatchMemOpNodeGetParams(batch, &known));
  std::printf("operations: %u, value %u, same context %d\n", known.count, known.paramArray[0].writeValue.value, known.ctx == context);
  CUgraphExec exec;
  CHECK(cuGraphInstantiate(&exec, graph, 0));
  run(exec);
  unsigned seen = 0;
  CHECK(cuMemcpyDtoH(&seen, memory, 4));
  std::printf("written %u, event %s\n", seen, name_of(cuEventQuery(event)));
  operations[0].writeValue.value = operations[1].waitValue.value = 42;
  CHECK(cuGraphExecBatchMemOpNodeSetParams(exec, batch, &params));
  CHECK(cuGraphExecEventRecordNodeSetEvent(exec, record, other));
  run(exec);
  CHECK(cuMemcpyDtoH(&seen, memory, 4));
  std::printf("written %u, event %s\n", seen, name_of(cuEventSynchronize(other)));
  CUevent set_event = nullptr;
  CHECK(cuGraphEventRecordNodeGetEvent(record, &set_event));
  std::printf("the graph's event is the first: %d\n", set_event == event);
  CHECK(cuGraphBatchMemOpNodeSetParams(batch, &params));
  CHECK(cuGraphBatchMemOpNodeGetParams(batch, &known));
  std::printf("now %u\n", known.paramArray[0].writeValue.value);
  CHECK(cuGraphExecDestroy(exec));
  CHECK(cuGraphDestroy(graph));
}

// By the calls for all kinds.
void generic() {
  CUdeviceptr memory;
  CHECK(cuMemAlloc(&memory, 4096));
  CUgraph graph, inner;
  CHECK(cuGraphCreate(&graph, 0));
  CHECK(cuGraphCreate(&inner, 0));
  CUgraphNode set, kernel, copy, host, child, empty, alloc, release;
  CUgraphNodeParams params{};
  params.type = CU_GRAPH_NODE_TYPE_MEMSET;
  params.memset.dst = memory;
  params.memset.value = 9;
  params.memset.elementSize = 4;
  params.memset.width = 256;
  params.memset.height = 1;
  params.memset.ctx = context;
  CHECK(cuGraphAddNode(&set, graph, nullptr, nullptr, 0, &params));
  params = {};
  params.type = CU_GRAPH_NODE_TYPE_KERNEL;
  unsigned value = 100, count = 128;
  void* list[] = {&memory, &value, &count};
  params.kernel.func = fill;
  params.kernel.gridDimX = params.kernel.gridDimY = params.kernel.gridDimZ = 1;
  params.kernel.blockDimX = 128;
  params.kernel.blockDimY = params.kernel.blockDimZ = 1;
  params.kernel.kernelParams = list;
  CUgraphEdgeData edge{};
  CHECK(cuGraphAddNode(&kernel, graph, &set, &edge, 1, &params));
  params = {};
  params.type = CU_GRAPH_NODE_TYPE_MEMCPY;
  static unsigned result[256];
  params.memcpy.copyCtx = context;
  params.memcpy.copyParams = to_host(result, memory, 1024);
  CHECK(cuGraphAddNode(&copy, graph, &kernel, nullptr, 1, &params));
  params = {};
  params.type = CU_GRAPH_NODE_TYPE_HOST;
  static unsigned seen = 0;
  params.host.fn = [](void*) { seen = result[1] + result[255]; };
  CHECK(cuGraphAddNode(&host, graph, &copy, nullptr, 1, &params));
  params = {};
  params.type = CU_GRAPH_NODE_TYPE_EMPTY;
  CHECK(cuGraphAddNode(&empty, inner, nullptr, nullptr, 0, &params));
  params.type = CU_GRAPH_NODE_TYPE_GRAPH;
  params.graph.graph = inner;
  CHECK(cuGraphAddNode(&child, graph, &host, nullptr, 1, &params));
  params = {};
  params.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC;
  params.alloc.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  params.alloc.poolProps.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
  params.alloc.bytesize = 4096;
  CHECK(cuGraphAddNode(&alloc, graph, &child, nullptr, 1, &params));
  const CUdeviceptr made = params.alloc.dptr;
  params = {};
  params.type = CU_GRAPH_NODE_TYPE_MEM_FREE;
  params.free.dptr = made;
  CHECK(cuGraphAddNode(&release, graph, &alloc, nullptr, 1, &params));
  params = {};
  params.type = CUgraphNodeType(77);
  SHOW(cuGraphAddNode(&empty, graph, nullptr, nullptr, 0, &params));
  size_t nodes = 0, edges = 0;
  CHECK(cuGraphGetNodes(graph, nullptr, &nodes));
  CHECK(cuGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
  std::printf("%zu nodes, %zu edges\n", nodes, edges);
  CUgraphExec exec;
  CHECK(cuGraphInstantiate(&exec, graph, 0));
  run(exec);
  std::printf("generic: %u %u, seen %u\n", result[0], result[200], seen);
  params = {};
  params.type = CU_GRAPH_NODE_TYPE_HOST;
  params.host.fn = [](void*) { seen = result[2]; };
  CHECK(cuGraphExecNodeSetParams(exec, host, &params));
  run(exec);
  std::printf("changed: seen %u\n", seen);
  // A disabled copy leaves its destination alone.
  CHECK(cuGraphNodeSetEnabled(exec, copy, 0));
  result[2] = 4321;
  run(exec);
  std::printf("disabled: %u\n", result[2]);
  CHECK(cuGraphExecDestroy(exec));
  CHECK(cuGraphDestroy(graph));
  CHECK(cuGraphDestroy(inner));
}

void capture_to_graph() {
  CUdeviceptr memory;
  CHECK(cuMemAlloc(&memory, 64));
  CUgraph graph, back;
  CUgraphNode set;
  CHECK(cuGraphCreate(&graph, 0));
  CUDA_MEMSET_NODE_PARAMS params{memory, 0, 1, 4, 16, 1};
  CHECK(cuGraphAddMemsetNode(&set, graph, nullptr, 0, &params, context));
  static unsigned result[16];
  CHECK(cuStreamBeginCaptureToGraph(stream, graph, &set, nullptr, 1, CU_STREAM_CAPTURE_MODE_GLOBAL));
  CHECK(cuMemsetD32Async(memory + 32, 2, 8, stream));
  CHECK(cuMemcpyDtoHAsync(result, memory, 64, stream));
  CHECK(cuStreamEndCapture(stream, &back));
  size_t nodes = 0;
  CHECK(cuGraphGetNodes(graph, nullptr, &nodes));
  std::printf("captured into the same graph %d, %zu nodes\n", back == graph, nodes);
  CUgraphExec exec;
  CHECK(cuGraphInstantiate(&exec, graph, 0));
  run(exec);
  std::printf("%u %u\n", result[0], result[8]);
  CHECK(cuGraphExecDestroy(exec));
  CHECK(cuGraphDestroy(graph));
}

void user_objects() {
  static int destroyed = 0;
  CUuserObject object;
  CUgraph graph, clone;
  CHECK(cuGraphCreate(&graph, 0));
  CUgraphNode empty;
  CHECK(cuGraphAddEmptyNode(&empty, graph, nullptr, 0));
  CHECK(cuUserObjectCreate(&object, &destroyed, [](void* count) { ++*static_cast<int*>(count); }, 2, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
  CHECK(cuGraphRetainUserObject(graph, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
  CHECK(cuGraphClone(&clone, graph));
  CHECK(cuUserObjectRelease(object, 1));
  CHECK(cuGraphDestroy(graph));
  std::printf("held by the clone: %d\n", destroyed);
  CUgraphExec exec;
  CHECK(cuGraphInstantiate(&exec, clone, 0));
  CHECK(cuGraphDestroy(clone));
  run(exec);
  std::printf("held by the executable graph: %d\n", destroyed);
  CHECK(cuGraphExecDestroy(exec));
  for (int i = 0; i < 1000 && !destroyed; i++) CHECK(cuStreamSynchronize(stream));
  std::printf("gone: %d\n", destroyed);
  CHECK(cuUserObjectCreate(&object, &destroyed, [](void* count) { ++*static_cast<int*>(count); }, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
  CHECK(cuUserObjectRetain(object, 1));
  CHECK(cuUserObjectRelease(object, 2));
  std::printf("gone: %d\n", destroyed);
  SHOW(cuUserObjectRetain(object, 0));
}

void drawing() {
  CUgraph graph;
  CUgraphNode first, second;
  CHECK(cuGraphCreate(&graph, 0));
  CHECK(cuGraphAddEmptyNode(&first, graph, nullptr, 0));
  CHECK(cuGraphAddEmptyNode(&second, graph, &first, 1));
  char path[] = "/tmp/graph_nodes_XXXXXX";
  const int file = mkstemp(path);
  CHECK(cuGraphDebugDotPrint(graph, path, 0));
  std::FILE* in = std::fopen(path, "r");
  char line[256] = "";
  const bool whole = in && std::fgets(line, sizeof line, in) && std::string(line) == "digraph dot {\n";
  bool edge = false;
  while (in && std::fgets(line, sizeof line, in)) edge = edge || std::strstr(line, " -> ");
  std::printf("drawn: %d, with an edge: %d\n", whole, edge);
  if (in) std::fclose(in);
  if (file >= 0) std::remove(path);
  CHECK(cuGraphDestroy(graph));
}

}  // namespace

int main() {
  context = use_device(0);
  CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  CUmodule module;
  CHECK(cuModuleLoadData(&module, kPtx));
  CHECK(cuModuleGetFunction(&fill, module, "fill"));
  CHECK(cuModuleGetFunction(&bump, module, "bump"));
  host_in_the_middle();
  captured_relay();
  memory_nodes();
  operations_and_events();
  generic();
  capture_to_graph();
  user_objects();
  drawing();
}
