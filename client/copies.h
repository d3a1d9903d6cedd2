// Copies as the client makes them (docs/design.md, "Data"): what crosses the network, when the program's memory may be
// read, and when the call may return.
#pragma once

#include "client/state.h"

namespace bf::client {

enum class Wait : bool { kNo, kYes };  // kYes: the synchronous form of the call

// Between host memory of any row layout and a device range or array; `copy` names the device side and the box, its host
// side is ignored. Checks nothing but what it needs.
CUresult copy_box_to_device(const HostLayout& source, CUDA_MEMCPY3D copy, CUstream stream, Wait wait);
CUresult copy_box_from_device(const HostLayout& destination, CUDA_MEMCPY3D copy, CUstream stream, Wait wait);
CUresult copy_to_device(CUdeviceptr destination, const void* source, size_t bytes, CUstream stream, Wait wait);
CUresult copy_from_device(void* destination, CUdeviceptr source, size_t bytes, CUstream stream, Wait wait);

// All forms with two addresses of unknown kind.
CUresult copy_any(uint64_t destination, uint64_t source, size_t bytes, CUstream stream, Wait wait);

// Waits for the stream, as a copy from or to pageable memory does by itself.
CUresult synchronize(CUstream stream);
// Has a copy of this thread done so, and nobody sent anything since? Then the program, which often waits for the stream behind such a
// copy, asks for what is known already. True for the first who asks only: what other streams do to the context comes with answers.
bool just_synchronized(CUstream stream);

// Memory that the driver would read or write without a stop in between: pinned or registered, all of it.
bool is_pinned(const void* data, size_t bytes);

// The host copies of an executable graph before and after its launch into `stream`.
CUresult copy_graph_inputs(const GraphExec& exec, CUstream stream);
CUresult copy_graph_outputs(const GraphExec& exec, CUstream stream);

// Puts dense staging memory in the place of the copy's source or destination.
void put_staging(CUDA_MEMCPY3D& copy, bool source, CUdeviceptr staging);

// A box copy as the program gave it (2D and 3D calls, graph nodes), checked and with unified sides decided.
struct Box {
  CUDA_MEMCPY3D copy{};
  bool from_host = false, to_host = false;
  HostLayout source, destination;  // of a host side
};
CUresult make_box(const CUDA_MEMCPY3D& given, Box* box);

}  // namespace bf::client
