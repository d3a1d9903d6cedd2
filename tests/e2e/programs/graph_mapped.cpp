// Graphs that use memory of the program in every way at once: kernels, sets and memory operations reach it directly, copies
// go through it, host functions read and write it between them. What the program writes between two launches counts.
#include "driver.h"

constexpr unsigned kCount = 2000;

struct Memory {
  unsigned *mapped, *pinned, *copied, *words;
  unsigned seen;
};

static void CUDA_CB between(void* data) {
  auto* memory = static_cast<Memory*>(data);
  memory->seen = memory->mapped[7] * 1000 + memory->pinned[1];
  for (unsigned i = 0; i < kCount; i++) memory->copied[i] = memory->mapped[i] + 5;
  memory->mapped[0] = 77;
}

static CUgraphNode copy_node(CUgraph graph, CUgraphNode after, CUcontext context, CUdeviceptr to, const void* from, void* host) {
  CUDA_MEMCPY3D copy{};
  copy.srcMemoryType = host ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
  copy.dstMemoryType = host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
  copy.srcHost = from;
  copy.srcDevice = host ? to : 0;
  copy.dstHost = host;
  copy.dstDevice = host ? 0 : to;
  copy.WidthInBytes = kCount * 4;
  copy.Height = copy.Depth = 1;
  CUgraphNode node;
  CHECK(cuGraphAddMemcpyNode(&node, graph, after ? &after : nullptr, after ? 1 : 0, &copy, context));
  return node;
}

int main() {
  CUcontext context = use_device(0);
  CUmodule module;
  CUfunction fill;
  CHECK(cuModuleLoadData(&module, kPtx));
  CHECK(cuModuleGetFunction(&fill, module, "fill"));
  Memory memory{};
  void* raw;
  CHECK(cuMemHostAlloc(&raw, kCount * 4, CU_MEMHOSTALLOC_DEVICEMAP));
  memory.mapped = static_cast<unsigned*>(raw);
  CHECK(cuMemHostAlloc(&raw, kCount * 4, 0));
  memory.pinned = static_cast<unsigned*>(raw);
  CHECK(cuMemHostAlloc(&raw, 64, 0));
  memory.words = static_cast<unsigned*>(raw);
  CHECK(cuMemHostAlloc(&raw, kCount * 4, 0));
  memory.copied = static_cast<unsigned*>(raw);
  std::vector<unsigned> out(kCount);
  CUdeviceptr device, mapped;
  CHECK(cuMemAlloc(&device, kCount * 4));
  CHECK(cuMemHostGetDevicePointer(&mapped, memory.mapped, 0));

  CUgraph graph;
  CUgraphNode node, next;
  CHECK(cuGraphCreate(&graph, 0));
  unsigned value = 100, count = kCount - 1;  // the last one is the program's
  void* arguments[] = {&mapped, &value, &count};
  CUDA_KERNEL_NODE_PARAMS kernel{};
  kernel.func = fill;
  kernel.gridDimX = 8;
  kernel.blockDimX = 256;
  kernel.gridDimY = kernel.gridDimZ = kernel.blockDimY = kernel.blockDimZ = 1;
  kernel.kernelParams = arguments;
  CHECK(cuGraphAddKernelNode(&node, graph, nullptr, 0, &kernel));
  CUDA_MEMSET_NODE_PARAMS set{};
  set.dst = reinterpret_cast<CUdeviceptr>(memory.pinned);
  set.value = 9;
  set.elementSize = 4;
  set.width = 3;
  set.height = 1;
  CHECK(cuGraphAddMemsetNode(&next, graph, &node, 1, &set, context));
  CUDA_HOST_NODE_PARAMS host{between, &memory};
  CHECK(cuGraphAddHostNode(&node, graph, &next, 1, &host));
  node = copy_node(graph, node, context, device, memory.copied, nullptr);
  node = copy_node(graph, node, context, device, nullptr, out.data());
  CUstreamBatchMemOpParams operation{};
  operation.writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
  operation.writeValue.address = reinterpret_cast<CUdeviceptr>(memory.words + 2);
  operation.writeValue.value = 4711;
  CUDA_BATCH_MEM_OP_NODE_PARAMS batch{context, 1, &operation, 0};
  CHECK(cuGraphAddBatchMemOpNode(&next, graph, &node, 1, &batch));

  CUgraphExec exec;
  CUstream stream;
  CHECK(cuGraphInstantiate(&exec, graph, 0));
  CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
  for (unsigned turn = 0; turn < 3; turn++) {
    memory.pinned[1] = memory.words[2] = 0;
    memory.mapped[kCount - 1] = turn;
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    std::printf("%u: host function saw %u, then %u %u, words %u %u %u, copied %u %u\n", turn, memory.seen, memory.mapped[0],
                memory.mapped[kCount - 1], memory.pinned[0], memory.pinned[3], memory.words[2], out[0], out[kCount - 1]);
    value += 50;
    CHECK(cuGraphExecKernelNodeSetParams(exec, [&] {
      CUgraphNode nodes[8];
      size_t found = 8;
      CHECK(cuGraphGetRootNodes(graph, nodes, &found));
      return nodes[0];
    }(), &kernel));
  }
}
