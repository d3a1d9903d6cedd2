// cuGraphDebugDotPrint: a graph as text for Graphviz, made from what the API tells of it.
#pragma once

#include "proto/api/cuda_api.h"

namespace bf::abi {

struct GraphQuestions {
  decltype(&cuGraphGetNodes) nodes;
  decltype(&cuGraphGetEdges_v2) edges;
  decltype(&cuGraphNodeGetType) type;
  decltype(&cuGraphChildGraphNodeGetGraph) child;
  decltype(&cuGraphKernelNodeGetParams_v2) kernel;
  decltype(&cuGraphMemcpyNodeGetParams) copy;
  decltype(&cuGraphMemsetNodeGetParams) set;
  decltype(&cuFuncGetName) function_name;
};

// INVALID_VALUE without a path or graph, OPERATING_SYSTEM if the file cannot be written (580.159.04). The drawing has the
// vendor's structure (a cluster per graph, its nodes and edges by number); of the detail flags only handles are shown.
CUresult print_graph(const GraphQuestions& ask, CUgraph graph, const char* path, unsigned flags);

}  // namespace bf::abi
