#include "server/worker/mirrors.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>
#include <vector>

#include "api/driver_api.h"
#include "proto/shared_memory.h"
#include "server/worker/session.h"

namespace bf::server {
namespace {

constexpr uint64_t kLowest = 1 << 20;              // the kernel keeps the first pages for itself
constexpr uint64_t kHighest = uint64_t{1} << 47;   // of user space
constexpr size_t kMirrors = 65536;                 // the kernel allows about so many mappings
constexpr size_t kFrameBytes = 1 << 20;            // of patches

constexpr uint64_t page_down(uint64_t address) { return address & ~uint64_t{kMirrorPage - 1}; }
constexpr uint64_t page_up(uint64_t address) { return page_down(address + kMirrorPage - 1); }

// Makes a context current for a scope.
class Use {
 public:
  Use(const DriverApi& driver, CUcontext context) : driver_(driver) { pushed_ = driver.cuCtxPushCurrent_v2(context) == CUDA_SUCCESS; }
  ~Use() {
    CUcontext popped;
    if (pushed_) driver_.cuCtxPopCurrent_v2(&popped);
  }
  Use(const Use&) = delete;

 private:
  const DriverApi& driver_;
  bool pushed_;
};

}  // namespace

Mirrors::~Mirrors() {
  stop();
  join();
  while (!ranges_.empty()) {
    const uint64_t address = ranges_.begin()->first;
    release(address, take(ranges_.begin()));
  }
}

// --- Making and ending
// ---------------------------------------------------------------------------------------------------

// Of two ranges that share a page, the first maps it and the last unmaps it.
bool Mirrors::map_pages(uint64_t begin, uint64_t end) {
  const auto shared = [&](uint64_t page) { return edges_.count(page) > 0; };
  const uint64_t last = end - kMirrorPage;
  const uint64_t from = shared(begin) ? begin + kMirrorPage : begin;
  const uint64_t to = last >= from && shared(last) ? last : end;
  if (from < to) {
    void* const wanted = reinterpret_cast<void*>(from);
    void* const got = mmap(wanted, to - from, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == MAP_FAILED) return false;
    if (got != wanted) {  // a kernel that does not know the flag
      munmap(got, to - from);
      errno = EEXIST;
      return false;
    }
  }
  ++edges_[begin];
  if (last != begin) ++edges_[last];
  return true;
}

void Mirrors::unmap_pages(uint64_t begin, uint64_t end) {
  const auto kept = [&](uint64_t page) {
    const auto found = edges_.find(page);
    if (--found->second > 0) return true;
    edges_.erase(found);
    return false;
  };
  const uint64_t last = end - kMirrorPage;
  const bool keep_first = kept(begin), keep_last = last != begin && kept(last);
  if (keep_first) begin += kMirrorPage;
  if (keep_last) end = last;
  if (begin < end) munmap(reinterpret_cast<void*>(begin), end - begin);
}

bool Mirrors::full() const { return ranges_.size() + busy_.size() >= kMirrors; }

bool Mirrors::taken(uint64_t address, uint64_t bytes) const {
  const auto overlaps = [&](const auto& map, const auto& bytes_of) {
    const auto next = map.lower_bound(address);
    return (next != map.end() && next->first - address < bytes) ||
           (next != map.begin() && std::prev(next)->first + bytes_of(std::prev(next)->second) > address);
  };
  return overlaps(ranges_, [](const Range& range) { return range.bytes; }) || overlaps(busy_, [](uint64_t size) { return size; });
}

CUresult Mirrors::claim(uint64_t address, uint64_t bytes) {
  if (address < kLowest || address >= kHighest || bytes == 0 || bytes > kHighest - address) return CUDA_ERROR_INVALID_VALUE;
  if (full() || bytes > limit_bytes_ || bytes_ > limit_bytes_ - bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  if (taken(address, bytes)) return CUDA_ERROR_ALREADY_MAPPED;
  busy_.emplace(address, bytes);
  bytes_ += bytes;
  return CUDA_SUCCESS;
}

void Mirrors::insert(uint64_t address, Range range) {
  if (!buffer_) buffer_ = std::make_unique<PatchBuffer>(kFrameBytes);
  driver_.cuCtxGetCurrent(&range.context);
  if (range.mirror) live_.fetch_add(1, std::memory_order_release);
  ranges_.emplace(address, std::move(range));
}

CUresult Mirrors::add(uint64_t address, Range range, CUresult result) {
  if (result == CUDA_SUCCESS && range.registered) {
    RelaxedCapture relaxed(driver_);
    result = driver_.cuMemHostRegister_v2(reinterpret_cast<void*>(address), range.bytes,
                                          CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP);
  }
  std::lock_guard guard(mutex_);
  if (result != CUDA_SUCCESS) {
    forget(address, range);
    return result;
  }
  busy_.erase(address);
  insert(address, std::move(range));
  return CUDA_SUCCESS;
}

void Mirrors::forget(uint64_t address, const Range& range) {
  if (range.mapped) unmap_pages(page_down(address), page_up(address + range.bytes));
  if (range.of_file) munmap(reinterpret_cast<void*>(address), range.bytes);
  busy_.erase(address);
  bytes_ -= range.bytes;
}

CUresult Mirrors::map_host(uint64_t address, uint64_t bytes) {
  Range range;
  range.bytes = bytes;
  {
    std::lock_guard guard(mutex_);
    if (CUresult why = claim(address, bytes); why != CUDA_SUCCESS) return why;
    const uint64_t begin = page_down(address), end = page_up(address + bytes);
    if (!map_pages(begin, end)) {
      const CUresult why = errno == EEXIST ? CUDA_ERROR_ALREADY_MAPPED : CUDA_ERROR_OUT_OF_MEMORY;
      forget(address, range);
      return why;
    }
    // A page that was there may hold what an earlier range left behind.
    for (uint64_t page : {begin, end - kMirrorPage}) {
      if (edges_[page] == 1) continue;
      const uint64_t from = std::max(page, address), to = std::min(page + kMirrorPage, address + bytes);
      std::memset(reinterpret_cast<void*>(from), 0, to - from);
    }
  }
  range.registered = range.mapped = true;
  range.mirror = Mirror::make(reinterpret_cast<std::byte*>(address), address, bytes);
  const CUresult result = range.mirror ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
  return add(address, std::move(range), result);
}

CUresult Mirrors::map_managed(uint64_t address, uint64_t bytes, size_t device) {
  if (address % Charges::kBlockBytes || bytes % Charges::kBlockBytes) return CUDA_ERROR_INVALID_VALUE;
  if (!charges_.may_fit(device, bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  {
    std::lock_guard guard(mutex_);
    if (CUresult why = claim(address, bytes); why != CUDA_SUCCESS) return why;
  }
  Range range;
  range.bytes = bytes;
  const CUresult result = make_managed(address, device, range);
  return add(address, std::move(range), result);
}

// All of it, or none.
CUresult Mirrors::make_managed(uint64_t address, size_t device, Range& range) {
  RelaxedCapture relaxed(driver_);
  if (!range.image.map(range.bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  range.mirror = Mirror::make(range.image.data(), address, range.bytes);
  if (!range.mirror) return CUDA_ERROR_OUT_OF_MEMORY;

  CUdeviceptr reserved = 0;
  const uint64_t reserved_bytes = std::max(range.bytes, kManagedStep);
  CUresult result = driver_.cuMemAddressReserve(&reserved, reserved_bytes, 0, address, 0);
  if (result != CUDA_SUCCESS) return result;
  const CUmemLocation here{CU_MEM_LOCATION_TYPE_DEVICE, int(device)};
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location = here;
  bool charged = false, mapped = false;
  if (reserved != address) result = CUDA_ERROR_ALREADY_MAPPED;
  if (result == CUDA_SUCCESS) result = driver_.cuMemCreate(&range.physical, range.bytes, &properties, 0);
  if (result == CUDA_SUCCESS) {
    charged = charges_.add_physical(range.physical, device, range.bytes);
    if (!charged) result = CUDA_ERROR_OUT_OF_MEMORY;
  }
  if (result == CUDA_SUCCESS) {
    result = driver_.cuMemMap(address, range.bytes, 0, range.physical, 0);
    mapped = result == CUDA_SUCCESS;
  }
  const CUmemAccessDesc access{here, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
  if (result == CUDA_SUCCESS) result = driver_.cuMemSetAccess(address, range.bytes, &access, 1);
  if (result == CUDA_SUCCESS) result = clear(address, range.bytes);
  if (result == CUDA_SUCCESS) {
    range.image.pin(driver_);  // refused: its copies are slower
    return CUDA_SUCCESS;
  }
  if (mapped) driver_.cuMemUnmap(address, range.bytes);
  if (charged) charges_.drop_physical(range.physical);
  if (range.physical) driver_.cuMemRelease(range.physical);
  driver_.cuMemAddressFree(reserved, reserved_bytes);
  return result;
}

// Not by a call that returns before it is done: the first collect() must find what the client has, too.
CUresult Mirrors::clear(uint64_t address, uint64_t bytes) {
  CUcontext context = nullptr;
  driver_.cuCtxGetCurrent(&context);
  CUstream own;
  {
    std::lock_guard guard(mutex_);
    own = stream(context);
  }
  const CUresult result = driver_.cuMemsetD8Async(address, 0, bytes, own);
  return result == CUDA_SUCCESS ? driver_.cuStreamSynchronize(own) : result;
}

CUresult Mirrors::share(uint64_t address, uint64_t bytes) {
  Range range;
  range.bytes = bytes;
  range.registered = true;
  {
    std::lock_guard guard(mutex_);
    if (full()) return CUDA_ERROR_OUT_OF_MEMORY;
    if (ranges_.count(address) || !busy_.emplace(address, bytes).second) return CUDA_ERROR_ALREADY_MAPPED;
    bytes_ += bytes;
  }
  return add(address, std::move(range), CUDA_SUCCESS);
}

// Not ours to believe in: other bytes may stand there at any moment. Only the GPU reads and writes them, as the client's
// copies and kernels say.
CUresult Mirrors::map_file(int file, uint64_t address, uint64_t bytes) {
  const uint64_t offset = address - kSharedBegin;
  if (file < 0 || offset >= kSharedBytes || bytes > kSharedBytes - offset || (address | bytes) % kMirrorPage)
    return CUDA_ERROR_INVALID_VALUE;
  Range range;
  range.bytes = bytes;
  {
    std::lock_guard guard(mutex_);
    if (CUresult why = claim(address, bytes); why != CUDA_SUCCESS) return why;
  }
  void* const wanted = reinterpret_cast<void*>(address);
  void* const got = mmap(wanted, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, file, off_t(offset));
  CUresult result = CUDA_SUCCESS;
  if (got == MAP_FAILED) {
    result = errno == EEXIST ? CUDA_ERROR_ALREADY_MAPPED : CUDA_ERROR_OUT_OF_MEMORY;
  } else if (got != wanted) {  // a kernel that does not know the flag
    munmap(got, bytes);
    result = CUDA_ERROR_ALREADY_MAPPED;
  } else {
    range.registered = range.of_file = true;
  }
  return add(address, std::move(range), result);
}

CUresult Mirrors::adopt(uint64_t address, uint64_t bytes) {
  std::lock_guard guard(mutex_);
  // Whoever asks is not trusted: it must be memory that the driver manages, all of it.
  unsigned managed = 0;
  CUdeviceptr begin = 0;
  size_t size = 0;
  driver_.cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, address);
  driver_.cuPointerGetAttribute(&begin, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, address);
  driver_.cuPointerGetAttribute(&size, CU_POINTER_ATTRIBUTE_RANGE_SIZE, address);
  if (!managed || begin > address || address - begin > size || bytes == 0 || bytes > size - (address - begin))
    return CUDA_ERROR_INVALID_VALUE;
  if (ranges_.count(address) || busy_.count(address)) return CUDA_ERROR_ALREADY_MAPPED;
  Range range;
  range.bytes = bytes;
  range.mirror = Mirror::make(reinterpret_cast<std::byte*>(address), address, bytes);
  if (!range.mirror || full()) return CUDA_ERROR_OUT_OF_MEMORY;
  clean_ = 0;  // the client does not know what is in it
  bytes_ += bytes;
  insert(address, std::move(range));
  return CUDA_SUCCESS;
}

Mirrors::Range Mirrors::take(std::map<uint64_t, Range>::iterator found) {
  if (found->second.mirror) live_.fetch_sub(1, std::memory_order_release);
  busy_.emplace(found->first, found->second.bytes);
  Range range = std::move(found->second);
  ranges_.erase(found);
  return range;
}

void Mirrors::release(uint64_t address, Range range) {
  RelaxedCapture relaxed(driver_);
  if (range.registered) driver_.cuMemHostUnregister(reinterpret_cast<void*>(address));
  if (range.managed()) {
    range.image.unpin(driver_);
    driver_.cuMemUnmap(address, range.bytes);
    driver_.cuMemRelease(range.physical);
    charges_.drop_physical(range.physical);
    driver_.cuMemAddressFree(address, std::max(range.bytes, kManagedStep));
  }
  std::lock_guard guard(mutex_);
  forget(address, range);
}

CUresult Mirrors::unmap(uint64_t address) {
  std::unique_lock lock(mutex_);
  const auto found = ranges_.find(address);
  if (found == ranges_.end()) return CUDA_ERROR_NOT_FOUND;
  Range range = take(found);
  lock.unlock();
  release(address, std::move(range));
  return CUDA_SUCCESS;
}

void Mirrors::drop_context(CUcontext context) {
  std::unique_lock lock(mutex_);
  std::vector<std::pair<uint64_t, Range>> ended;
  for (auto range = ranges_.begin(); range != ranges_.end();) {
    const auto found = range++;
    if (found->second.context != context) continue;
    const uint64_t address = found->first;
    ended.emplace_back(address, take(found));
  }
  CUstream own = nullptr;
  if (const auto found = streams_.find(context); found != streams_.end()) {
    own = found->second;
    streams_.erase(found);
  }
  lock.unlock();
  for (auto& [address, range] : ended) release(address, std::move(range));
  if (own) driver_.cuStreamDestroy_v2(own);
}

// --- Changes
// -------------------------------------------------------------------------------------------------------------

// Of our own copies in a context, beside all the program's work.
CUstream Mirrors::stream(CUcontext context) {
  CUstream& stream = streams_[context];
  if (!stream) driver_.cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, 0);
  return stream;
}

// Brings the images up to date with device memory.
void Mirrors::fetch() {
  RelaxedCapture relaxed(driver_);
  for (auto& [address, range] : ranges_) {
    if (!range.managed()) continue;
    Use use(driver_, range.context);
    driver_.cuMemcpyDtoHAsync_v2(range.image.data(), address, range.bytes, stream(range.context));
  }
  for (auto& [context, stream] : streams_) {
    Use use(driver_, context);
    driver_.cuStreamSynchronize(stream);
  }
}

void Mirrors::collect_locked() {
  fetch();
  for (auto& [address, range] : ranges_) {
    if (!range.mirror) continue;
    for (uint64_t at = address; at < range.mirror->end();) {
      at = range.mirror->collect(at, range.mirror->end(), *buffer_);
      if (buffer_->fits_page()) continue;
      outbox_.host_changes({buffer_->data(), buffer_->size()});
      buffer_->clear();
    }
  }
  if (ranges_.empty() || buffer_->size() == 0) return;
  outbox_.host_changes({buffer_->data(), buffer_->size()});
  buffer_->clear();
}

void Mirrors::collect(uint64_t idle_since) {
  std::lock_guard guard(mutex_);
  if (ranges_.empty() || clean_ == work()) return;
  collect_locked();
  if (idle_since) clean_ = idle_since;
}

// All contexts that have managed memory: afterwards images, device memory and what the client knows are one. Waits
// without the lock: what runs may be waiting for a host function, and that for its changes.
void Mirrors::wait_for_device(std::unique_lock<std::mutex>& lock) {
  const uint64_t before = work();
  if (clean_ == before) return;
  std::set<CUcontext> contexts;
  for (auto& [address, range] : ranges_)
    if (range.managed()) contexts.insert(range.context);
  if (contexts.empty()) return;
  RelaxedCapture relaxed(driver_);
  lock.unlock();
  for (CUcontext context : contexts) {
    Use use(driver_, context);
    driver_.cuCtxSynchronize();
  }
  lock.lock();
  collect_locked();
  clean_ = before;
}

void Mirrors::wait_for_side(uint64_t frames) {
  std::unique_lock guard(elsewhere_);
  changed_.wait(guard, [&] { return stopped_ || side_frames_ >= frames; });
}

Status Mirrors::apply_side(std::span<const std::byte> patches) {
  Status status = apply(patches.size(), read_from(patches), false);
  std::lock_guard guard(elsewhere_);
  ++side_frames_;
  changed_.notify_all();
  return status;
}

Status Mirrors::apply(size_t total, const Read& read, bool exact) {
  std::unique_lock guard(mutex_);
  if (exact) wait_for_device(guard);
  // Pages of an image that go to the device: one run at a time, patches come in order.
  Range* owner = nullptr;
  uint64_t begin = 0, end = 0;
  RelaxedCapture relaxed(driver_);
  const auto copy_run = [&] {
    if (!owner || begin == end) return;
    Use use(driver_, owner->context);
    driver_.cuMemcpyHtoDAsync_v2(begin, owner->mirror->memory() + (begin - owner->mirror->address()), end - begin, stream(owner->context));
    begin = end = 0;
  };
  Range* last = nullptr;
  const auto into = [&](uint64_t line, uint64_t mask, const std::byte* data) {
    if (last && last->mirror->apply(line, mask, data)) return true;
    // Unaligned ranges may share a line: the bytes of a patch are one range's.
    for (auto next = ranges_.lower_bound(line + kMirrorLine); next != ranges_.begin();) {
      last = &(--next)->second;
      if (!last->mirror) break;
      if (last->mirror->apply(line, mask, data)) return true;
      if (last->mirror->address() <= line) break;
    }
    last = nullptr;
    return false;  // of memory whose context has ended
  };
  Status status = read_patches(total, read, [&](uint64_t line, uint64_t mask, const std::byte* data) {
    if (!into(line, mask, data)) return true;
    const uint64_t page = page_down(line);
    if (last != owner || page > end || page + kMirrorPage < end) {
      copy_run();
      owner = last->managed() ? last : nullptr;
      begin = page;
    }
    end = page + kMirrorPage;
    return true;
  });
  copy_run();
  // In device memory before anything that the client asks for next.
  for (auto& [context, stream] : streams_) {
    Use use(driver_, context);
    driver_.cuStreamSynchronize(stream);
  }
  return status;
}

// --- From host functions
// -------------------------------------------------------------------------------------------------

void Mirrors::collect_elsewhere() {
  std::unique_lock guard(elsewhere_);
  if (stopped_) return;
  if (!thread_.joinable()) {
    thread_ = std::thread([this] {
      pthread_setname_np(pthread_self(), "bf-mirror");
      collect_loop();
    });
  }
  const uint64_t mine = ++wanted_;
  changed_.notify_all();
  changed_.wait(guard, [&] { return stopped_ || done_ >= mine; });
}

void Mirrors::collect_loop() {
  std::unique_lock guard(elsewhere_);
  for (;;) {
    changed_.wait(guard, [&] { return stopped_ || done_ < wanted_; });
    if (stopped_) return;
    const uint64_t upto = wanted_;
    guard.unlock();
    collect();
    guard.lock();
    done_ = upto;
    changed_.notify_all();
  }
}

void Mirrors::stop() {
  std::lock_guard guard(elsewhere_);
  stopped_ = true;
  changed_.notify_all();
}

void Mirrors::join() {
  if (thread_.joinable()) thread_.join();
}

// --- Calls
// ---------------------------------------------------------------------------------------------------------------

CUresult handle_bfMirrorMap(Call& call, uint64_t address, uint64_t bytes, uint32_t kind, uint32_t& shared) {
  Session& session = session_of(call);
  size_t device = 0;
  if (kind != kMirrorVariable && !session.contexts.current_device(device)) return CUDA_ERROR_INVALID_CONTEXT;
  if (kind == kMirrorPinned) {
    shared = 1;
    return session.mirrors.map_file(session.link.shared_memory(), address, bytes);
  }
  shared = session.link.limits().same_process && kind != kMirrorVariable;
  if (shared) return session.mirrors.share(address, bytes);
  switch (kind) {
    case kMirrorHost: return session.mirrors.map_host(address, bytes);
    case kMirrorManaged: return session.mirrors.map_managed(address, bytes, device);
    case kMirrorVariable: {
      AnyContext context(session);
      const CUresult result = session.mirrors.adopt(address, bytes);
      if (result == CUDA_SUCCESS) session.mirrors.collect();  // its initial value
      return result;
    }
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult handle_bfMirrorUnmap(Call& call, uint64_t address) { return session_of(call).mirrors.unmap(address); }

CUresult handle_bfMirrorWrite(Call& call, uint64_t bytes, uint64_t transfer) {
  Session& session = session_of(call);
  Status status;
  if (transfer == 0) {
    session.mirrors.wait_for_side(bytes);
    status = session.mirrors.apply(call.payload.size(), read_from(call.payload), true);
  } else {
    Inbox::Reader blocks(session.inbox, transfer);
    status = session.mirrors.apply(bytes, [&](void* to, size_t count) { return blocks.read(to, count) == count; }, true);
  }
  if (status.code() == StatusCode::kInvalid) session.violation(call, "malformed changes of mirrored memory");
  return status.ok() ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}

}  // namespace bf::server
