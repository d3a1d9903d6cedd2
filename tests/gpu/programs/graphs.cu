// Graphs beyond capture: conditional nodes, memory that a graph owns, updates, priorities, launches from the device.
#include <cuda_runtime.h>

#include "cases.h"

namespace {

__global__ void add(int* value, int amount) { *value += amount; }
__global__ void add_while_below(int* value, int limit, cudaGraphConditionalHandle handle) {
  *value += 1;
  cudaGraphSetConditional(handle, *value < limit);
}
__global__ void choose(cudaGraphConditionalHandle handle, const int* value) { cudaGraphSetConditional(handle, *value); }
__global__ void fill(int* data, int value) { data[blockIdx.x * blockDim.x + threadIdx.x] = value + threadIdx.x; }

struct Graph {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaStream_t stream = nullptr;
  Graph() {
    NEED(cudaGraphCreate(&graph, 0));
    NEED(cudaStreamCreate(&stream));
  }
  ~Graph() {
    if (exec) cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }
  void launch(int times = 1) {
    if (!exec) NEED(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < times; i++) NEED(cudaGraphLaunch(exec, stream));
    NEED(cudaStreamSynchronize(stream));
  }
};

template <class... Arguments>
cudaGraphNode_t add_kernel(cudaGraph_t graph, std::vector<cudaGraphNode_t> after, void (*kernel)(Arguments...), unsigned blocks, unsigned threads, Arguments... values) {
  void* arguments[] = {&values...};
  cudaKernelNodeParams params{};
  params.func = reinterpret_cast<void*>(kernel), params.gridDim = blocks, params.blockDim = threads, params.kernelParams = arguments;
  cudaGraphNode_t node;
  NEED(cudaGraphAddKernelNode(&node, graph, after.data(), after.size(), &params));
  return node;
}

// A conditional node and its bodies.
std::vector<cudaGraph_t> add_conditional(cudaGraph_t graph, std::vector<cudaGraphNode_t> after, cudaGraphConditionalHandle handle, cudaGraphConditionalNodeType type, unsigned bodies) {
  cudaGraphNodeParams params = {cudaGraphNodeTypeConditional};
  params.conditional.handle = handle, params.conditional.type = type, params.conditional.size = bodies;
  cudaGraphNode_t node;
  NEED(cudaGraphAddNode(&node, graph, after.data(), nullptr, after.size(), &params));
  return {params.conditional.phGraph_out, params.conditional.phGraph_out + bodies};
}

Result while_loop() {
  Graph graph;
  DeviceArray<int> value(1);
  cudaGraphConditionalHandle handle;
  NEED(cudaGraphConditionalHandleCreate(&handle, graph.graph, 1, cudaGraphCondAssignDefault));
  auto bodies = add_conditional(graph.graph, {}, handle, cudaGraphCondTypeWhile, 1);
  add_kernel(bodies[0], {}, add_while_below, 1, 1, value.get(), 10, handle);
  graph.launch();
  int got = value.host()[0];
  return {got == 10, uint64_t(got)};
}

Result if_else() {
  Graph graph;
  DeviceArray<int> flag(std::vector<int>{1}), value(1);
  cudaGraphConditionalHandle handle;
  NEED(cudaGraphConditionalHandleCreate(&handle, graph.graph, 0, cudaGraphCondAssignDefault));
  auto first = add_kernel(graph.graph, {}, choose, 1, 1, handle, static_cast<const int*>(flag.get()));
  auto bodies = add_conditional(graph.graph, {first}, handle, cudaGraphCondTypeIf, 2);
  add_kernel(bodies[0], {}, add, 1, 1, value.get(), 100);
  add_kernel(bodies[1], {}, add, 1, 1, value.get(), 7);
  graph.launch();
  NEED(cudaMemset(flag.get(), 0, sizeof(int)));
  graph.launch(2);
  int got = value.host()[0];
  return {got == 114, uint64_t(got)};
}

Result switch_of_three() {
  Graph graph;
  DeviceArray<int> choice(1), value(1);
  cudaGraphConditionalHandle handle;
  NEED(cudaGraphConditionalHandleCreate(&handle, graph.graph, 0, cudaGraphCondAssignDefault));
  auto first = add_kernel(graph.graph, {}, choose, 1, 1, handle, static_cast<const int*>(choice.get()));
  auto bodies = add_conditional(graph.graph, {first}, handle, cudaGraphCondTypeSwitch, 3);
  for (int i = 0; i < 3; i++) add_kernel(bodies[i], {}, add, 1, 1, value.get(), i == 0 ? 1 : i == 1 ? 10 : 100);
  for (int i : {2, 0, 1, 2, 3}) {
    NEED(cudaMemcpy(choice.get(), &i, sizeof i, cudaMemcpyHostToDevice));
    graph.launch();
  }
  int got = value.host()[0];
  return {got == 211, uint64_t(got)};
}

Result own_memory() {  // allocated, written, copied out and freed by the graph itself
  constexpr int kCount = 1024;
  Graph graph;
  cudaMemAllocNodeParams memory{};
  memory.poolProps.allocType = cudaMemAllocationTypePinned;
  memory.poolProps.location = {cudaMemLocationTypeDevice, 0};
  memory.bytesize = kCount * sizeof(int);
  std::vector<int> out(kCount);
  cudaGraphNode_t made, copied, freed;
  NEED(cudaGraphAddMemAllocNode(&made, graph.graph, nullptr, 0, &memory));
  auto written = add_kernel(graph.graph, {made}, fill, 4, 256, static_cast<int*>(memory.dptr), 5);
  NEED(cudaGraphAddMemcpyNode1D(&copied, graph.graph, &written, 1, out.data(), memory.dptr, memory.bytesize, cudaMemcpyDeviceToHost));
  NEED(cudaGraphAddMemFreeNode(&freed, graph.graph, &copied, 1, memory.dptr));
  graph.launch(3);
  bool right = true;
  for (int i = 0; i < kCount; i++) right &= out[i] == 5 + i % 256;
  return {right, hash_of(out)};
}

Result new_parameters() {  // of one node, and of the whole graph by an update
  Graph graph;
  DeviceArray<int> value(1);
  auto node = add_kernel(graph.graph, {}, add, 1, 1, value.get(), 1);
  graph.launch();
  int* pointer = value.get();
  int amount = 10;
  void* arguments[] = {&pointer, &amount};
  cudaKernelNodeParams params{};
  params.func = reinterpret_cast<void*>(add), params.gridDim = 1, params.blockDim = 1, params.kernelParams = arguments;
  NEED(cudaGraphExecKernelNodeSetParams(graph.exec, node, &params));
  graph.launch();
  amount = 100;
  cudaGraphExecUpdateResultInfo info;
  NEED(cudaGraphKernelNodeSetParams(node, &params));
  NEED(cudaGraphExecUpdate(graph.exec, graph.graph, &info));
  graph.launch();
  int got = value.host()[0];
  return {got == 111 && info.result == cudaGraphExecUpdateSuccess, uint64_t(got)};
}

Result child_and_clone() {
  Graph outer, inner;
  DeviceArray<int> value(1);
  add_kernel(inner.graph, {}, add, 1, 1, value.get(), 3);
  cudaGraphNode_t first, second;
  NEED(cudaGraphAddChildGraphNode(&first, outer.graph, nullptr, 0, inner.graph));
  NEED(cudaGraphAddChildGraphNode(&second, outer.graph, &first, 1, inner.graph));
  cudaGraph_t copy;
  NEED(cudaGraphClone(&copy, outer.graph));
  size_t nodes = 0;
  NEED(cudaGraphGetNodes(copy, nullptr, &nodes));
  NEED(cudaGraphDestroy(copy));
  outer.launch(2);
  int got = value.host()[0];
  return {got == 12 && nodes == 2, uint64_t(got)};
}

Result events_and_host_functions() {
  Graph graph;
  DeviceArray<int> value(1);
  int calls = 0;
  cudaEvent_t event;
  NEED(cudaEventCreate(&event));
  cudaGraphNode_t recorded, called;
  auto first = add_kernel(graph.graph, {}, add, 1, 1, value.get(), 3);
  NEED(cudaGraphAddEventRecordNode(&recorded, graph.graph, &first, 1, event));
  cudaHostNodeParams host{[](void* data) { ++*static_cast<int*>(data); }, &calls};
  NEED(cudaGraphAddHostNode(&called, graph.graph, &recorded, 1, &host));
  graph.launch(4);
  NEED(cudaEventSynchronize(event));
  NEED(cudaEventDestroy(event));
  int got = value.host()[0];
  return {got == 12 && calls == 4, uint64_t(got)};
}

// A graph that was instantiated for it is launched by a kernel.
__global__ void launch_graph(cudaGraphExec_t exec) { cudaGraphLaunch(exec, cudaStreamGraphFireAndForget); }

Result launched_by_a_kernel() {
  Graph worker, starter;
  DeviceArray<int> value(1);
  add_kernel(worker.graph, {}, add, 1, 1, value.get(), 42);
  NEED(cudaGraphInstantiate(&worker.exec, worker.graph, cudaGraphInstantiateFlagDeviceLaunch));
  NEED(cudaGraphUpload(worker.exec, worker.stream));
  NEED(cudaStreamSynchronize(worker.stream));
  add_kernel(starter.graph, {}, launch_graph, 1, 1, worker.exec);
  NEED(cudaGraphInstantiate(&starter.exec, starter.graph, cudaGraphInstantiateFlagDeviceLaunch));
  starter.launch();
  int got = value.host()[0];
  return {got == 42, uint64_t(got)};
}

Result capture_across_streams() {
  cudaStream_t first, second;
  cudaEvent_t fork, join;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  DeviceArray<int> a(1), b(1);
  NEED(cudaStreamCreateWithPriority(&first, cudaStreamNonBlocking, 0));
  NEED(cudaStreamCreateWithPriority(&second, cudaStreamNonBlocking, -1));
  NEED(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
  NEED(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
  NEED(cudaStreamBeginCapture(first, cudaStreamCaptureModeGlobal));
  NEED(cudaEventRecord(fork, first));
  NEED(cudaStreamWaitEvent(second, fork));
  add<<<1, 1, 0, first>>>(a.get(), 1);
  add<<<1, 1, 0, second>>>(b.get(), 2);
  NEED(cudaEventRecord(join, second));
  NEED(cudaStreamWaitEvent(first, join));
  add<<<1, 1, 0, first>>>(b.get(), 3);
  NEED(cudaStreamEndCapture(first, &graph));
  NEED(cudaGraphInstantiate(&exec, graph, 0));
  for (int i = 0; i < 10; i++) NEED(cudaGraphLaunch(exec, first));
  NEED(cudaStreamSynchronize(first));
  size_t nodes = 0;
  NEED(cudaGraphGetNodes(graph, nullptr, &nodes));
  NEED(cudaGraphExecDestroy(exec));
  NEED(cudaGraphDestroy(graph));
  for (auto event : {fork, join}) NEED(cudaEventDestroy(event));
  for (auto stream : {first, second}) NEED(cudaStreamDestroy(stream));
  int got = a.host()[0] * 1000 + b.host()[0];
  return {got == 10050 && nodes == 3, uint64_t(got)};
}

}  // namespace

int main() {
  run_case("while", while_loop);
  run_case("if and else", if_else);
  run_case("switch", switch_of_three);
  run_case("memory of its own", own_memory);
  run_case("new parameters and an update", new_parameters);
  run_case("child graphs and a clone", child_and_clone);
  run_case("events and host functions", events_and_host_functions);
  run_case("launched by a kernel", launched_by_a_kernel);
  run_case("capture across streams of two priorities", capture_across_streams);
}
