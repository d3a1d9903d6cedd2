// Contexts: the primary one of each device (one object for the life of the process, alive while retained) and those
// that programs create. A context owns its streams, and everything made in it dies with it. The first kernel fault is
// sticky: it is what every later call in the context returns.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "softgpu/driver/cuda_api.h"
#include "softgpu/driver/device.h"
#include "softgpu/driver/registry.h"
#include "softgpu/driver/scheduler.h"
#include "softgpu/ptx/ptx.h"

namespace bf::softgpu {

struct Stream;

struct Context : std::enable_shared_from_this<Context> {
  CUcontext handle = nullptr;
  Device* device = nullptr;
  uint64_t id = 0;  // cuCtxGetId; never reused
  bool primary = false;
  std::shared_ptr<Context> underlying;  // of a green context: the primary one, which owns what is made in it
  CUgreenCtx green = nullptr;           // of a green context
  uint32_t api_version = 3020;
  std::atomic<bool> active{false};     // false: a primary context that nobody retains, or a destroyed one
  std::atomic<bool> destroyed{false};  // by cuCtxDestroy, or reset
  std::atomic<CUresult> fault{CUDA_SUCCESS};
  std::atomic<uint32_t> flags{0};
  uint32_t retains = 0;  // of a primary context; guarded by g_primary_mutex

  std::mutex mutex;  // guards the streams' tails and the fields below
  std::shared_ptr<Stream> legacy;
  std::vector<std::shared_ptr<Stream>> streams;  // all, the legacy and per-thread ones too
  std::vector<OperationRef> orphans;             // unfinished work of streams that are gone
  size_t stack_bytes = 1024, printf_bytes = 1 << 20, heap_bytes = 8 << 20;
  size_t runtime_sync_depth = 2, runtime_pending_launches = 2048, max_l2_granularity = 128, persisting_l2_bytes = 0;
  CUfunc_cache cache_config = CU_FUNC_CACHE_PREFER_NONE;
  CUsharedconfig shared_config = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE;
  std::set<CUcontext> peers;  // contexts whose memory may be reached from here
  std::unique_ptr<ptx::DeviceHeap> heap;

  std::mutex print_mutex;
  std::deque<std::string> printed;  // device printf, until the next synchronisation
  size_t printed_bytes = 0;

  // Streams whose queue of launches is full. While there is one, memory is neither allocated nor registered (measured, driver
  // 580.159.04: cuMemAlloc and cuMemHostRegister wait; queries, and launches and copies of other streams, go on).
  std::atomic<int> full_streams{0};
  void await_room() const {
    for (int full = full_streams; full > 0; full = full_streams) full_streams.wait(full);
  }

  // Keeps the first fault.
  void fail(CUresult code) {
    CUresult none = CUDA_SUCCESS;
    fault.compare_exchange_strong(none, code);
  }
};
using ContextRef = std::shared_ptr<Context>;
using ContextRegistry = Registry<CUcontext, Context, ObjectKind::kContext>;
ContextRegistry& contexts();

void make_primary_context(Device& device);

// A context of `device` with an id, without anything else.
ContextRef make_context(Device& device);

// The context that is current in the calling thread, whatever its state; nullptr: none.
ContextRef current_as_set();
// The one that owns what the thread makes: for a green context the primary one.
ContextRef current_or_null();
// The current context if it is a green one.
ContextRef current_green();
// The current context, usable: 201 if there is none, 709 if it is dead, its fault if it has one.
CUresult current_context(ContextRef* context);
// The context of `handle` (NULL: the current one), usable.
CUresult find_context(CUcontext handle, ContextRef* context);
// CUDA_SUCCESS, 709 or the fault.
CUresult usable(const Context& context);

// Waits for all work in the context and hands out what kernels printed; then the fault, if any.
CUresult synchronize(Context& context);
void print_text(Context& context, std::string_view text);
void flush_printed(Context& context);

}  // namespace bf::softgpu
