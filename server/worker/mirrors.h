// Mirrored memory on the worker (proto/mirror.h; docs/design.md, "Data"): memory of the program that device code reaches.
// What the client changed is applied before the launches that follow in the call order, and what device code changed is
// sent before any reply that lets the client observe it. The worker holds such memory, at the client's address, as
//
//   mapped host memory   pages of our own, registered with the driver; kernels reach them over the bus
//   shared memory        the client's own, where both are one process or on one host: only registered, nothing travels
//   managed memory       device memory, so that kernels run at its speed; a copy of it in host memory (the image) is
//                        compared and patched, and copies of the driver keep the two equal
//   managed variables    the driver's own managed memory, which the host uses like its own
//
// The addresses are the client's wish and never replace anything of ours (MAP_FIXED_NOREPLACE); what mapped memory and
// images cost the server's memory is bounded by the session's share of its GPUs.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>

#include "proto/api/cuda_api.h"
#include "proto/mirror.h"
#include "server/worker/charges.h"
#include "server/worker/fences.h"
#include "server/worker/outbox.h"

namespace bf {
struct DriverApi;
}

namespace bf::server {

class Mirrors {
 public:
  using Read = std::function<bool(void*, size_t)>;

  // `limit_bytes`: of all mirrors together.
  Mirrors(const DriverApi& driver, Outbox& outbox, Charges& charges, uint64_t limit_bytes)
      : driver_(driver), outbox_(outbox), charges_(charges), limit_bytes_(limit_bytes) {}
  ~Mirrors();

  // Any mirrors, other than shared memory? One load: nothing below costs anything for sessions without.
  bool live() const { return live_.load(std::memory_order_acquire) > 0; }

  // Each makes a mirror, zeroed, that belongs to the current context. INVALID_VALUE: addresses that cannot be;
  // ALREADY_MAPPED: they are taken in this process, try others; OUT_OF_MEMORY: the limit, the partition, the system.
  CUresult map_host(uint64_t address, uint64_t bytes);
  CUresult map_managed(uint64_t address, uint64_t bytes, size_t device);  // multiples of 2 MiB
  // Memory that the client has, too, or that the driver made.
  CUresult share(uint64_t address, uint64_t bytes);
  CUresult adopt(uint64_t address, uint64_t bytes);
  // Pinned memory that the client has in `file`, too (kMirrorPinned). Whole pages.
  CUresult map_file(int file, uint64_t address, uint64_t bytes);
  // The device has finished with it. NOT_FOUND: there is none at `address`.
  CUresult unmap(uint64_t address);
  // Those that were made in a context, before it ends.
  void drop_context(CUcontext context);

  // The device gets work. A collect() after all work so far has ended knows that nothing changes until there is more.
  void note_work() { work_.fetch_add(1, std::memory_order_acq_rel); }
  uint64_t work() const { return work_.load(std::memory_order_acquire); }

  // Takes over changes of the client's: `total` bytes of patches out of `read`. With `exact`, waits for the device
  // first where that is needed to keep apart what both sides write into one page; a host function must not wait.
  Status apply(size_t total, const Read& read, bool exact);
  // Changes that a host function made, in frames of the side stream; and a wait until so many of them are in.
  Status apply_side(std::span<const std::byte> patches);
  void wait_for_side(uint64_t frames);
  // Sends what device code has changed; returns when it is sent. `idle_since`: all work up to that count has ended.
  void collect(uint64_t idle_since = 0);
  // The same from a thread that may not call the driver.
  void collect_elsewhere();
  void stop();  // whoever waits goes on; from any thread
  void join();

 private:
  struct Range {
    uint64_t bytes = 0;
    CUcontext context = nullptr;
    bool registered = false;         // with the driver, by us
    bool mapped = false;             // pages of our own
    bool of_file = false;            // pages of the file that the client maps, too
    PinnedRegion image;              // of managed memory
    CUmemGenericAllocationHandle physical = 0;
    std::unique_ptr<Mirror> mirror;  // none for shared memory
    bool managed() const { return physical != 0; }
  };
  // With mutex_, these five: whether there is room for one more, whether something there is ours; makes a range busy, if it may be;
  // adds one that is not busy, and what the client knows of it is what is in it; ends a busy one that the driver does not know.
  bool full() const;
  bool taken(uint64_t address, uint64_t bytes) const;
  CUresult claim(uint64_t address, uint64_t bytes);
  void insert(uint64_t address, Range range);
  void forget(uint64_t address, const Range& range);
  // Without mutex_: the driver's part of a busy range that has come so far with `result`, which ends as one of ours or not at all.
  CUresult add(uint64_t address, Range range, CUresult result);
  CUresult make_managed(uint64_t address, size_t device, Range& range);
  CUresult clear(uint64_t address, uint64_t bytes);
  // With mutex_: takes it away and makes it busy; and, without, ends it.
  Range take(std::map<uint64_t, Range>::iterator found);
  void release(uint64_t address, Range range);
  bool map_pages(uint64_t begin, uint64_t end);
  void unmap_pages(uint64_t begin, uint64_t end);
  CUstream stream(CUcontext context);
  void fetch();
  void collect_locked();
  void wait_for_device(std::unique_lock<std::mutex>& lock);
  void collect_loop();

  const DriverApi& driver_;
  Outbox& outbox_;
  Charges& charges_;
  const uint64_t limit_bytes_;
  std::atomic<uint32_t> live_{0};
  std::atomic<uint64_t> work_{1};
  std::mutex mutex_;  // of everything down to buffer_
  std::map<uint64_t, Range> ranges_;    // by address
  // Addresses and sizes of ranges that the driver is making or ending. It does so without mutex_, for it may wait until the GPU has
  // come further (copies.h), and the GPU for a host function, which waits until it has all changes.
  std::map<uint64_t, uint64_t> busy_;
  std::map<uint64_t, uint32_t> edges_;  // pages at the ends of mapped ranges, which two may share: users
  std::map<CUcontext, CUstream> streams_;
  uint64_t bytes_ = 0;  // of all of these
  uint64_t clean_ = 1;  // the work count up to which the client knows everything
  std::unique_ptr<PatchBuffer> buffer_;

  std::mutex elsewhere_;
  std::condition_variable changed_;
  uint64_t wanted_ = 0, done_ = 0;  // collections
  uint64_t side_frames_ = 0;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace bf::server
