#include "proto/abi/graph_dot.h"

#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace bf::abi {
namespace {

const char* type_name(CUgraphNodeType type) {
  switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: return "KERNEL";
    case CU_GRAPH_NODE_TYPE_MEMCPY: return "MEMCPY";
    case CU_GRAPH_NODE_TYPE_MEMSET: return "MEMSET";
    case CU_GRAPH_NODE_TYPE_HOST: return "HOST";
    case CU_GRAPH_NODE_TYPE_GRAPH: return "GRAPH";
    case CU_GRAPH_NODE_TYPE_EMPTY: return "EMPTY";
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT: return "EVENT_WAIT";
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD: return "EVENT_RECORD";
    case CU_GRAPH_NODE_TYPE_MEM_ALLOC: return "MEM_ALLOC";
    case CU_GRAPH_NODE_TYPE_MEM_FREE: return "MEM_FREE";
    case CU_GRAPH_NODE_TYPE_BATCH_MEM_OP: return "BATCH_MEM_OP";
    case CU_GRAPH_NODE_TYPE_CONDITIONAL: return "CONDITIONAL";
    default: return "OTHER";
  }
}

char letter(CUmemorytype type) {
  return type == CU_MEMORYTYPE_HOST ? 'H' : type == CU_MEMORYTYPE_ARRAY ? 'A' : type == CU_MEMORYTYPE_UNIFIED ? 'U' : 'D';
}

class Printer {
 public:
  Printer(const GraphQuestions& ask, std::FILE* file, unsigned flags) : ask_(ask), file_(file), flags_(flags) {}

  CUresult graph(CUgraph graph) {
    const int number = ++graphs_;
    size_t count = 0;
    if (CUresult why = ask_.nodes(graph, nullptr, &count)) return why;
    std::vector<CUgraphNode> nodes(count);
    if (count > 0)
      if (CUresult why = ask_.nodes(graph, nodes.data(), &count)) return why;
    std::fprintf(file_, "subgraph cluster_%d {\nlabel=\"graph_%d\" graph[style=\"dashed\"];\n", number, number);
    std::map<CUgraphNode, size_t> numbers;
    std::vector<CUgraph> children;
    for (size_t i = 0; i < nodes.size(); ++i) {
      numbers[nodes[i]] = i;
      CUgraphNodeType type{};
      if (CUresult why = ask_.type(nodes[i], &type)) return why;
      CUgraph child = nullptr;
      if (type == CU_GRAPH_NODE_TYPE_GRAPH && ask_.child(nodes[i], &child) == CUDA_SUCCESS) children.push_back(child);
      std::fprintf(file_, "\"graph_%d_node_%zu\"[style=\"solid\" shape=\"%s\" label=\"%zu\n%s\n%s\"];\n", number, i,
                   type == CU_GRAPH_NODE_TYPE_KERNEL ? "octagon" : type == CU_GRAPH_NODE_TYPE_MEMCPY ? "trapezium" : "rectangle",
                   i, type_name(type), detail(nodes[i], type).c_str());
    }
    size_t edges = 0;
    if (CUresult why = ask_.edges(graph, nullptr, nullptr, nullptr, &edges)) return why;
    std::vector<CUgraphNode> from(edges), to(edges);
    std::vector<CUgraphEdgeData> data(edges);
    if (edges > 0)
      if (CUresult why = ask_.edges(graph, from.data(), to.data(), data.data(), &edges)) return why;
    for (size_t i = 0; i < edges; ++i)
      std::fprintf(file_, "\"graph_%d_node_%zu\" -> \"graph_%d_node_%zu\";\n", number, numbers[from[i]], number, numbers[to[i]]);
    std::fprintf(file_, "\n}\n");
    for (CUgraph child : children)
      if (CUresult why = this->graph(child)) return why;
    return CUDA_SUCCESS;
  }

 private:
  std::string detail(CUgraphNode node, CUgraphNodeType type) const {
    std::string text;
    char line[128];
    if (type == CU_GRAPH_NODE_TYPE_KERNEL) {
      CUDA_KERNEL_NODE_PARAMS params{};
      const char* name = nullptr;
      if (ask_.kernel(node, &params) == CUDA_SUCCESS && params.func && ask_.function_name(&name, params.func) == CUDA_SUCCESS && name)
        text = std::string(name) + "\n";
    } else if (type == CU_GRAPH_NODE_TYPE_MEMCPY) {
      CUDA_MEMCPY3D copy{};
      if (ask_.copy(node, &copy) == CUDA_SUCCESS) {
        std::snprintf(line, sizeof line, "(%cto%c,%zu)\n", letter(copy.srcMemoryType), letter(copy.dstMemoryType),
                      copy.WidthInBytes * copy.Height * copy.Depth);
        text = line;
      }
    } else if (type == CU_GRAPH_NODE_TYPE_MEMSET) {
      CUDA_MEMSET_NODE_PARAMS set{};
      if (ask_.set(node, &set) == CUDA_SUCCESS) {
        std::snprintf(line, sizeof line, "(%u,%zu)\n", set.value, set.width * set.height * set.elementSize);
        text = line;
      }
    }
    if (flags_ & (CU_GRAPH_DEBUG_DOT_FLAGS_VERBOSE | CU_GRAPH_DEBUG_DOT_FLAGS_HANDLES)) {
      std::snprintf(line, sizeof line, "%p\n", static_cast<const void*>(node));
      text += line;
    }
    return text;
  }

  const GraphQuestions& ask_;
  std::FILE* file_;
  unsigned flags_;
  int graphs_ = 0;
};

}  // namespace

CUresult print_graph(const GraphQuestions& ask, CUgraph graph, const char* path, unsigned flags) {
  size_t count = 0;
  if (!path) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult why = ask.nodes(graph, nullptr, &count)) return why;
  std::FILE* file = std::fopen(path, "we");
  if (!file) return CUDA_ERROR_OPERATING_SYSTEM;
  std::fprintf(file, "digraph dot {\n");
  const CUresult result = Printer(ask, file, flags).graph(graph);
  std::fprintf(file, "}\n");
  return std::fclose(file) == 0 ? result : CUDA_ERROR_OPERATING_SYSTEM;
}

}  // namespace bf::abi
