// Graphs whose nodes need the client: copies of its memory, which go through staging of ours, and its host functions.
//
// A copy with a host side is a copy of staging: pinned memory of the worker that stands for the program's. The client
// fills and empties it around each launch. Where a host function runs between - it reads what a copy of the same graph
// wrote, or writes what one reads - the staging concerned is sent to the client before the function and taken from it
// afterwards, over the side stream, so no CUDA call is needed while the stream waits. Which staging that is follows from
// the graph's edges, when it is instantiated.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/limits.h"
#include "proto/api/call_context.h"
#include "proto/session.h"
#include "server/worker/fences.h"

namespace bf::server {

// Pinned memory that stands for host memory of the client inside graphs.
class GraphStaging {
 public:
  static constexpr uint64_t kBytes = uint64_t{4} << 30;  // of all of a session

  explicit GraphStaging(const DriverApi& driver) : driver_(driver) {}

  // OUT_OF_MEMORY past kBytes, or when the driver does not pin it.
  CUresult allocate(uint64_t bytes, uint64_t* address);
  void free(uint64_t address);
  bool holds(uint64_t address) const;
  // Bytes of one staging buffer; false: not that many there. From any thread.
  bool write(uint64_t address, uint64_t offset, std::span<const std::byte> bytes);
  // Calls `send(offset, bytes)` for pieces of at most limits::kInlineBytes.
  template <typename Send>
  void read(uint64_t address, Send send) const {
    std::shared_ptr<PinnedRegion> region = find(address);
    for (size_t at = 0; region && at < region->bytes(); at += limits::kInlineBytes)
      send(at, std::span<const std::byte>(region->data() + at, std::min(limits::kInlineBytes, region->bytes() - at)));
  }

 private:
  std::shared_ptr<PinnedRegion> find(uint64_t address) const;

  const DriverApi& driver_;
  mutable std::mutex mutex_;
  std::unordered_map<uint64_t, std::shared_ptr<PinnedRegion>> regions_;  // by address
  uint64_t bytes_ = 0;
};

// The staging of one copy node of an executable graph; changes when the node's parameters do.
using StagingRef = std::shared_ptr<std::atomic<uint64_t>>;

class Graphs {
 public:
  explicit Graphs(Session& session) : session_(session) {}

  // Nodes that need the client exist: until then graphs are not looked at.
  void note_parts() { has_parts_.store(true, std::memory_order_relaxed); }
  // Does the stream capture? Then what is allocated in it is a node.
  bool captures_memory(CUstream stream);
  void note_memory() { has_memory_.store(true, std::memory_order_relaxed); }
  // The body graphs of a conditional node.
  void add_bodies(CUgraphNode node, std::vector<CUgraph> bodies);
  std::vector<CUgraph> bodies_of(CUgraphNode node) const;

  // Looks at a graph that is about to be instantiated, or to update an executable one: prepares its host functions, and
  // sees that the memory its nodes allocate can be had. Then finish() with the driver's executable graph.
  struct Found;
  CUresult look_at(CUgraph graph, Found& found);
  // Keeps what was found; the GraphParts for the client.
  std::string finish(CUgraphExec exec, Found&& found);
  void forget(CUgraphExec exec);

  // Parameters of single nodes of an executable graph changed: what its parts are now.
  std::string copy_changed(CUgraphExec exec, CUgraphNode node, const CUDA_MEMCPY3D& copy);
  std::string function_changed(CUgraphExec exec, CUgraphNode node, void* function);
  std::string child_changed(CUgraphExec exec, CUgraphNode node, Found&& found);
  // The function of a host node of an executable graph as it would be with another id.
  void* function_with_id(CUgraphExec exec, CUgraphNode node, uint64_t id);

  // Some can be launched by kernels.
  void note_device_launch() { has_device_launch_.store(true, std::memory_order_relaxed); }
  bool have_device_launch() const { return has_device_launch_.load(std::memory_order_relaxed); }

  // After a launch: what the driver has set aside for memory of graphs is charged.
  void launched(CUgraphExec exec);
  // It is charged like a pool of the program, under a name that is no pool of the driver.
  void settle_memory();
  static bool is_memory(CUmemoryPool pool) { return uint64_t(pool) <= limits::kDevices; }

 private:
  struct Part {
    CUgraphNode node = nullptr;
    CUgraphNode top = nullptr;  // the node of the outermost graph that holds it
    StagingRef source, destination;  // of a copy
    void* function = nullptr;        // of a host node: HostCalls' argument
    uint32_t flags = 0;
  };
  struct Exec {
    std::vector<Part> parts;
    bool allocates = false;
  };
  class Walk;
  StagingRef staging_of(CUmemorytype type, CUdeviceptr device, const void* host) const;
  std::string encoded(const Exec& exec) const;

  Session& session_;
  std::atomic<bool> has_parts_{false}, has_memory_{false}, has_device_launch_{false};
  mutable std::mutex mutex_;
  std::unordered_map<CUgraphExec, Exec> execs_;
  std::unordered_map<CUgraphNode, std::vector<CUgraph>> bodies_;

 public:
  struct Found {
    std::vector<Part> parts;
    uint64_t memory_bytes = 0;
  };
};

}  // namespace bf::server
