// Copies between the client's memory and the GPU's (docs/design.md, "Data").
//
// To the device, small: straight from the frame. Large: one copy per landed block, straight from the pinned ring; the
// block is released when the GPU has read it. Bytes that are long in coming land in staging instead, and the stream waits
// for them: a twin that did would hold up every other call of the session. From the device: pieces of a ticket into pinned
// staging, sent by the outbox when their fence is done; what finds no room there waits in the stream, too. Pitched and array
// copies move the host side through staging, in boxes of whole rows where a row fits.
//
// The completion thread sends finished pieces and releases blocks while no call does; it sleeps while nothing is open. It never
// waits for the driver, nor for who may: while a stream has as many launches queued as it can hold (1,020), cuMemHostRegister and
// cuMemAlloc wait until the GPU has come further (measured, 580.159.04), and the GPU may be waiting at a gate for bytes that
// need the blocks.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "server/worker/fences.h"
#include "server/worker/inbox.h"
#include "server/worker/outbox.h"
#include "server/worker/staging.h"

namespace bf::server {

class Copies {
 public:
  Copies(const DriverApi& driver, Fences& fences, Staging& staging, Inbox& inbox, Outbox& outbox,
         std::span<std::byte> ring);
  ~Copies();

  void start();  // our threads
  void stop();   // nobody waits for the device any more; from any thread
  void join();   // after stop(), from a thread of nobody else's

  // Enqueues into `stream`. `bytes` from the payload, or (transfer != 0) from the transfer's blocks. Bytes that have not come yet
  // are waited for until `holds_up` says that others have to wait, too: then the stream waits for them alone. Empty: nobody does.
  CUresult to_device(CUdeviceptr dst, size_t bytes, std::span<const std::byte> payload, uint64_t transfer,
                     CUstream stream, const std::function<bool()>& holds_up);
  // Enqueues into `stream`. What finds no room in staging waits for it until `holds_up` says that others have to wait, too: then the
  // stream waits, for the bytes in front to leave. Empty: nobody does.
  CUresult from_device(CUdeviceptr src, size_t bytes, uint64_t ticket, CUstream stream, const std::function<bool()>& holds_up);
  // `copy` as the client gave it; a host side is dense and has no address. At most one side is the host's. Its bytes as above.
  CUresult box(const CUDA_MEMCPY3D& copy, std::span<const std::byte> payload, uint64_t transfer, uint64_t ticket,
               CUstream stream, const std::function<bool()>& holds_up);

  // `bytes` of a repeated value, in stream order, into the client's memory.
  CUresult fill(uint32_t value, uint32_t element_bytes, size_t bytes, uint64_t ticket, CUstream stream);

  // Before the current context is destroyed or reset: afterwards nothing is open, and the driver knows no memory of
  // ours.
  void quiesce();
  // With a context current: registers our memory with the driver, as far as it is not.
  void renew();
  // A context is broken (sticky error): what it was to read or write never happens.
  void abandon();

 private:
  struct Reading {  // the GPU reads these blocks, or this slot; then they are free again
    Fences::Fence fence;
    std::vector<transport::Block> blocks;
    StagingSlot slot;
    std::shared_ptr<Inbox::Parked> parked;  // the slot is written until this has landed
  };

  bool over(const Reading& reading) const;
  // `bytes` of a transfer from `offset` on, whole blocks: `copy` enqueues their copy from where they will lie, and the stream waits for
  // them in front of it. False if it cannot; else `result` is the copy's.
  bool park(size_t bytes, uint64_t transfer, uint64_t offset, CUstream stream, CUresult& result,
            const std::function<CUresult(std::byte* data)>& copy);
  CUresult fence_reading(CUstream stream, Reading reading);
  CUresult box_to_device(const CUDA_MEMCPY3D& copy, size_t total, std::span<const std::byte> payload, uint64_t transfer,
                         CUstream stream, const std::function<bool()>& holds_up);
  CUresult copy_part(const CUDA_MEMCPY3D& box, size_t position, size_t count, std::byte* data, CUstream stream);
  // Waits for one; `otherwise` is asked meanwhile, and may have got it elsewhere. False: the session ends.
  bool take_slot(size_t bytes, StagingSlot& slot, const std::function<bool()>& otherwise = {});
  // Enqueue the copy of `count` bytes from `offset` on.
  struct CopyOut {
    std::function<CUresult(std::byte* data, size_t offset, size_t count)> to_host, to_device;  // none: never to the device's staging
    bool in_parts = false;  // after a failure some of it may be in the stream
  };
  CUresult copy_back(size_t bytes, uint64_t ticket, CUstream stream, const std::function<bool()>& holds_up, const CopyOut& copy);
  // Fences the copy in front of it and leaves it to the outbox; after a failure drops it.
  CUresult send_piece(Outbox::Piece piece, CUstream stream);
  // Its bytes do not come: gives its slot back, and lets its stream go on. `begun`: some of its copy is in the stream.
  void drop(const Outbox::Piece& piece, CUstream stream, bool begun);
  bool retire();
  void finish(const Reading& reading);
  void completion_loop();
  void nudge(bool at_once);  // there is something for the completion thread
  size_t open_count();
  void doubt();  // something takes long: does the context still work?
  void doubt_loop();
  bool context_broken();
  bool ring_pinned(const std::byte* block);

  const DriverApi& driver_;
  Fences& fences_;
  Staging& staging_;
  Inbox& inbox_;
  Outbox& outbox_;
  std::mutex pins_mutex_;           // what is pinned stays pinned while it is held
  std::vector<PinnedRegion> ring_;  // in slabs: what is never used is never pinned

  std::mutex mutex_;  // of readings_, and of the completion thread's sleep
  std::condition_variable work_;
  std::vector<Reading> readings_;
  size_t parked_ = 0;  // of them
  std::atomic<bool> stopped_{false};
  std::atomic<std::chrono::steady_clock::time_point> soon_{};  // until then something may come that the line waits for
  uint64_t copies_ = 0;  // that the completion thread was told of
  enum class Sleep { kNone, kNap, kDeep } sleep_ = Sleep::kNone;
  CUcontext last_context_ = nullptr;  // of the latest copy, under mutex_
  bool doubted_ = false;              // under mutex_
  std::condition_variable doubts_;
  std::thread completer_, doubter_;
};

}  // namespace bf::server
