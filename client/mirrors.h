// Mirrored memory in the client (proto/mirror.h; docs/design.md, "Data"): host memory that device code may reach. What
// the program changed is sent before the work that could read it; what device code changed lands before the reply that
// lets the program know. Programs without such memory pay one load per launch.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/limits.h"
#include "proto/api/cuda_api.h"
#include "proto/mirror.h"
#include "transport/transport.h"

namespace bf::client {

class Mirrors {
 public:
  static Mirrors& instance();

  bool live() const { return live_.load(std::memory_order_acquire) > 0; }

  // Mirrors [address, address + bytes): from the next publish() on, device code sees it. Asks the worker: ALREADY_MAPPED
  // when the addresses are taken there.
  CUresult add(uint64_t address, uint64_t bytes, MirrorKind kind);
  // Memory that the worker maps, too (client/shared_memory.h). OUT_OF_MEMORY when it has no more for this session.
  CUresult add_shared(uint64_t address, uint64_t bytes);
  // The device has finished with it.
  CUresult remove(uint64_t address);
  // Forgets one without telling the worker, where its context ended.
  void forget(uint64_t address);

  // Sends what the program has changed; the calls that the calling thread makes next find it there.
  CUresult publish();
  // The same over the side stream, for what a host function has changed.
  Status publish(transport::Stream& side);

  // What device code changed. On whichever thread receives; never waits for a sender.
  bool apply(std::span<const std::byte> patches);

 private:
  using Map = std::map<uint64_t, std::shared_ptr<Mirror>>;
  // Sends what has changed once, and notes the pointers in it to memory that device code does not reach yet.
  CUresult send_changes(std::vector<uint64_t>* hidden);
  // Gathers changes into `out`, in the order of addresses from *position on; counts if there were any. True: there may
  // be more.
  bool collect(uint64_t* position, PatchBuffer& out, std::atomic<uint64_t>* count = nullptr);

  std::atomic<uint32_t> live_{0};
  std::mutex publish_;  // what one thread gathers is on its way before another one looks
  std::mutex lock_;     // of the map and the mirrors; whoever receives takes it
  Map mirrors_;
  PatchBuffer small_{limits::kInlineBytes};  // under publish_, like the next
  uint64_t side_known_ = 0;                  // frames of the side stream that the worker was told to wait for
  std::atomic<uint64_t> side_frames_{0};     // sent with host functions' ends; counts up under lock_
};

// Before anything in `stream` that makes the device read or write memory that the program may reach, too. While the
// stream is captured nothing runs: the launch of the graph publishes, and waiting for the device would end the capture.
CUresult publish_live_changes(CUstream stream);
inline CUresult publish_changes(CUstream stream) {
  return Mirrors::instance().live() ? publish_live_changes(stream) : CUDA_SUCCESS;
}

// Makes device code reach the pinned or registered memory at `address`, if it does not yet. INVALID_VALUE: there is no
// such memory.
CUresult reach(uint64_t address);
// The same for whatever the 8-byte words of `bytes` point to.
CUresult reach_pointers(std::span<const std::byte> bytes);
// The same for one kernel parameter. Programs leave what they do not need of a struct's arrays as they found it on the stack, where
// the addresses of buffers for copies still lie (PyTorch's optimisers and strided kernels): in a struct of more than 64 bytes
// memory that was copied from or to is not meant, and following it would compare the whole buffer at every launch from then on.
CUresult reach_parameter(std::span<const std::byte> bytes);

}  // namespace bf::client
