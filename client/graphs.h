// Graphs as the client follows them (client/graph.cc, graph_nodes.cc, graph_data.cc).
#pragma once

#include <cstring>
#include <span>

#include "client/state.h"

namespace bf::client {

// The object of a graph or node; one that the worker named (a child, a body) gets it when it is first used here.
Graph* graph_object(CUgraph graph);
GraphNode* node_object(CUgraphNode node);

// What the graph and the bodies of its conditional nodes keep alive.
GraphData data_of(CUgraph graph);

// Takes over what the worker says about an executable graph's copies and host functions. False: malformed.
bool set_parts(GraphExec& exec, std::span<const std::byte> parts);

// The executable graph is destroyed, perhaps while it runs.
void let_go_after_run(GraphExec& exec);

// A node of any kind but a conditional one.
CUresult add_node(CUgraphNode* node, CUgraph graph, const CUgraphNode* dependencies, size_t count, CUgraphNodeParams* params);

// Memory of an allocation node becomes device memory of the program.
std::shared_ptr<GraphMemory> remember_graph_memory(CUdeviceptr address, size_t bytes, int device);

std::shared_ptr<GraphCallback> keep_callback(uint64_t id);

}  // namespace bf::client
