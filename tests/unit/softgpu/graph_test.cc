// Graphs built by hand, changed, cloned, and captured; capture errors.
#include "software_driver.h"

class Graph : public SoftwareGpu {
 protected:
  void SetUp() override {
    SoftwareGpu::SetUp();
    ASSERT_OK(CU(cuStreamCreate)(&stream, CU_STREAM_DEFAULT));
    data = allocate(4);
    ASSERT_OK(CU(cuMemsetD32_v2)(data, 0, 1));
  }
  CUDA_KERNEL_NODE_PARAMS adding(unsigned* by) {
    arguments = {&data, &one, by};
    CUDA_KERNEL_NODE_PARAMS params{};
    params.func = function("add_to");
    params.gridDimX = params.gridDimY = params.gridDimZ = 1;
    params.blockDimX = params.blockDimY = params.blockDimZ = 1;
    params.kernelParams = arguments.data();
    return params;
  }
  CUstream stream = nullptr;
  CUdeviceptr data = 0;
  unsigned one = 1;
  std::vector<void*> arguments;
};

TEST_F(Graph, RunsNodesInOrder) {
  CUgraph graph;
  ASSERT_OK(CU(cuGraphCreate)(&graph, 0));
  CUgraphNode set, first, second, host;
  CUDA_MEMSET_NODE_PARAMS zero{data, 0, 100, 4, 1, 1};
  ASSERT_OK(CU(cuGraphAddMemsetNode)(&set, graph, nullptr, 0, &zero, context));
  unsigned by = 3;
  CUDA_KERNEL_NODE_PARAMS params = adding(&by);
  ASSERT_OK(CU(cuGraphAddKernelNode_v2)(&first, graph, &set, 1, &params));
  by = 20;
  ASSERT_OK(CU(cuGraphAddKernelNode_v2)(&second, graph, nullptr, 0, &params));
  ASSERT_OK(CU(cuGraphAddDependencies)(graph, &first, &second, 1));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuGraphAddDependencies)(graph, &first, &second, 1));
  int calls = 0;
  CUDA_HOST_NODE_PARAMS call{[](void* user) { ++*(int*)user; }, &calls};
  ASSERT_OK(CU(cuGraphAddHostNode)(&host, graph, &second, 1, &call));
  size_t count = 0;
  ASSERT_OK(CU(cuGraphGetRootNodes)(graph, nullptr, &count));
  EXPECT_EQ(1u, count);
  ASSERT_OK(CU(cuGraphGetEdges)(graph, nullptr, nullptr, &count));
  EXPECT_EQ(3u, count);
  CUgraphNodeType type;
  ASSERT_OK(CU(cuGraphNodeGetType)(host, &type));
  EXPECT_EQ(CU_GRAPH_NODE_TYPE_HOST, type);
  CUgraphExec exec;
  ASSERT_OK(CU(cuGraphInstantiateWithFlags)(&exec, graph, 0));
  ASSERT_OK(CU(cuGraphLaunch)(exec, stream));
  ASSERT_OK(CU(cuGraphLaunch)(exec, stream));
  ASSERT_OK(CU(cuStreamSynchronize)(stream));
  EXPECT_EQ(123u, read(data));
  EXPECT_EQ(2, calls);

  by = 1000;  // only in the executable graph
  params = adding(&by);
  ASSERT_OK(CU(cuGraphExecKernelNodeSetParams_v2)(exec, second, &params));
  ASSERT_OK(CU(cuGraphNodeSetEnabled)(exec, first, 0));
  ASSERT_OK(CU(cuGraphLaunch)(exec, stream));
  EXPECT_EQ(1100u, read(data));
  CUDA_KERNEL_NODE_PARAMS old{};
  ASSERT_OK(CU(cuGraphKernelNodeGetParams_v2)(second, &old));
  EXPECT_EQ(20u, *(unsigned*)old.kernelParams[2]);

  CUgraph clone;
  ASSERT_OK(CU(cuGraphClone)(&clone, graph));
  CUgraphNode twin;
  ASSERT_OK(CU(cuGraphNodeFindInClone)(&twin, second, clone));
  EXPECT_NE(second, twin);
  by = 5;
  ASSERT_OK(CU(cuGraphKernelNodeSetParams_v2)(twin, &params));
  CUgraphExecUpdateResultInfo info;
  ASSERT_OK(CU(cuGraphExecUpdate_v2)(exec, clone, &info));
  ASSERT_OK(CU(cuGraphNodeSetEnabled)(exec, first, 1));
  ASSERT_OK(CU(cuGraphLaunch)(exec, stream));
  EXPECT_EQ(108u, read(data));
  ASSERT_OK(CU(cuGraphDestroyNode)(host));
  EXPECT_CU(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, CU(cuGraphExecUpdate_v2)(exec, graph, &info));
  EXPECT_EQ(CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED, info.result);
  ASSERT_OK(CU(cuGraphExecDestroy)(exec));
  ASSERT_OK(CU(cuGraphDestroy)(clone));
  ASSERT_OK(CU(cuGraphDestroy)(graph));
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuGraphDestroy)(graph));
}

TEST_F(Graph, RefusesCycles) {
  CUgraph graph;
  ASSERT_OK(CU(cuGraphCreate)(&graph, 0));
  CUgraphNode a, b;
  ASSERT_OK(CU(cuGraphAddEmptyNode)(&a, graph, nullptr, 0));
  ASSERT_OK(CU(cuGraphAddEmptyNode)(&b, graph, &a, 1));
  ASSERT_OK(CU(cuGraphAddDependencies)(graph, &b, &a, 1));
  CUgraphExec exec;
  EXPECT_CU(CUDA_ERROR_INVALID_VALUE, CU(cuGraphInstantiateWithFlags)(&exec, graph, 0));
  ASSERT_OK(CU(cuGraphDestroy)(graph));
}

TEST_F(Graph, CapturesReadHostMemoryAtLaunch) {
  unsigned in = 1, out = 0;
  ASSERT_OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_OK(CU(cuMemcpyHtoDAsync_v2)(data, &in, 4, stream));
  ASSERT_OK(add(data, 1, 10, stream));
  ASSERT_OK(CU(cuMemcpyDtoHAsync_v2)(&out, data, 4, stream));
  CUstreamCaptureStatus status;
  cuuint64_t id;
  CUgraph graph, captured;
  const CUgraphNode* frontier;
  size_t count;
  ASSERT_OK(CU(cuStreamGetCaptureInfo_v2)(stream, &status, &id, &graph, &frontier, &count));
  EXPECT_EQ(CU_STREAM_CAPTURE_STATUS_ACTIVE, status);
  EXPECT_EQ(1u, count);
  ASSERT_OK(CU(cuStreamEndCapture)(stream, &captured));
  EXPECT_EQ(graph, captured);
  CUgraphExec exec;
  ASSERT_OK(CU(cuGraphInstantiateWithFlags)(&exec, graph, 0));
  for (in = 5; in < 8; in++) {
    ASSERT_OK(CU(cuGraphLaunch)(exec, stream));
    ASSERT_OK(CU(cuStreamSynchronize)(stream));
    EXPECT_EQ(in + 10, out);
  }
}

TEST_F(Graph, CaptureRefusesWhatWouldWait) {
  CUgraph graph;
  CUdeviceptr pointer;
  ASSERT_OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  EXPECT_CU(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, CU(cuMemAlloc_v2)(&pointer, 4));
  EXPECT_CU(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, add(data, 1, 1, stream));
  EXPECT_CU(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, CU(cuStreamEndCapture)(stream, &graph));
  EXPECT_EQ(nullptr, graph);

  ASSERT_OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  ASSERT_OK(CU(cuThreadExchangeStreamCaptureMode)(&mode));
  EXPECT_EQ(CU_STREAM_CAPTURE_MODE_GLOBAL, mode);
  ASSERT_OK(CU(cuMemAlloc_v2)(&pointer, 4));
  ASSERT_OK(CU(cuThreadExchangeStreamCaptureMode)(&mode));
  EXPECT_CU(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, CU(cuStreamSynchronize)(stream));
  EXPECT_CU(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, CU(cuStreamEndCapture)(stream, &graph));

  ASSERT_OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  EXPECT_CU(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, add(data, 1, 1, nullptr));
  EXPECT_CU(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, CU(cuStreamEndCapture)(stream, &graph));

  CUstream other;
  CUevent event;
  ASSERT_OK(CU(cuStreamCreate)(&other, CU_STREAM_NON_BLOCKING));
  ASSERT_OK(CU(cuEventCreate)(&event, 0));
  ASSERT_OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_OK(CU(cuEventRecord)(event, stream));
  ASSERT_OK(CU(cuStreamWaitEvent)(other, event, 0));
  ASSERT_OK(add(data, 1, 1, other));
  EXPECT_CU(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, CU(cuStreamEndCapture)(other, &graph));
  CU(cuStreamEndCapture)(stream, &graph);
  ASSERT_OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_OK(CU(cuEventRecord)(event, stream));
  ASSERT_OK(CU(cuStreamWaitEvent)(other, event, 0));
  ASSERT_OK(add(data, 1, 1, other));
  EXPECT_CU(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, CU(cuStreamEndCapture)(stream, &graph));
  EXPECT_EQ(0u, read(data));  // nothing of all this ran
}

TEST_F(Graph, AllocatesAndFreesInGraphs) {
  CUdeviceptr temporary = 0;
  ASSERT_OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
  ASSERT_OK(CU(cuMemAllocAsync)(&temporary, 1024, stream));
  ASSERT_OK(CU(cuMemsetD32Async)(temporary, 8, 1, stream));
  ASSERT_OK(CU(cuMemcpyDtoDAsync_v2)(data, temporary, 4, stream));
  ASSERT_OK(CU(cuMemFreeAsync)(temporary, stream));
  CUgraph graph;
  ASSERT_OK(CU(cuStreamEndCapture)(stream, &graph));
  CUgraphExec exec;
  ASSERT_OK(CU(cuGraphInstantiateWithFlags)(&exec, graph, 0));
  for (int i = 0; i < 2; i++) {
    ASSERT_OK(CU(cuMemsetD32_v2)(data, 0, 1));
    ASSERT_OK(CU(cuGraphLaunch)(exec, stream));
    EXPECT_EQ(8u, read(data));
  }
  ASSERT_OK(CU(cuGraphExecDestroy)(exec));
  ASSERT_OK(CU(cuGraphDestroy)(graph));
}

TEST_F(Graph, ChildGraphsAndUserObjects) {
  CUgraph child, parent;
  ASSERT_OK(CU(cuGraphCreate)(&child, 0));
  ASSERT_OK(CU(cuGraphCreate)(&parent, 0));
  CUgraphNode node, outer;
  unsigned by = 4;
  CUDA_KERNEL_NODE_PARAMS params = adding(&by);
  ASSERT_OK(CU(cuGraphAddKernelNode_v2)(&node, child, nullptr, 0, &params));
  ASSERT_OK(CU(cuGraphAddChildGraphNode)(&outer, parent, nullptr, 0, child));
  ASSERT_OK(CU(cuGraphDestroy)(child));
  int destroyed = 0;
  CUuserObject object;
  ASSERT_OK(CU(cuUserObjectCreate)(
      &object, &destroyed, [](void* p) { ++*(int*)p; }, 1, CU_USER_OBJECT_NO_DESTRUCTOR_SYNC));
  ASSERT_OK(CU(cuGraphRetainUserObject)(parent, object, 1, CU_GRAPH_USER_OBJECT_MOVE));
  CUgraphExec exec;
  ASSERT_OK(CU(cuGraphInstantiateWithFlags)(&exec, parent, 0));
  ASSERT_OK(CU(cuGraphLaunch)(exec, stream));
  ASSERT_OK(CU(cuGraphLaunch)(exec, nullptr));
  EXPECT_EQ(8u, read(data));
  ASSERT_OK(CU(cuGraphDestroy)(parent));
  EXPECT_EQ(0, destroyed);
  ASSERT_OK(CU(cuGraphExecDestroy)(exec));
  EXPECT_EQ(1, destroyed);
}
