#include "server/worker/copies.h"

#include <pthread.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <utility>

#include "api/driver_api.h"
#include "server/worker/gaps.h"

namespace bf::server {
namespace {

constexpr size_t kRingSlab = 64 << 20;
constexpr size_t kFenceBlocks = 8;  // behind one fence, if so many have landed: a fence takes the GPU as long as half a block
constexpr auto kTwinPatience = std::chrono::milliseconds(5);    // for the next bytes of a copy, even if nobody is held up
constexpr size_t kParked = 64;                                  // parts of copies: half of the staging
constexpr auto kPatience = std::chrono::milliseconds(50);  // then ask whether the context still works
constexpr auto kEager = std::chrono::milliseconds(2);      // after the last progress: poll often, then less
constexpr auto kSoon = std::chrono::microseconds(150);     // after the call of a large copy back: the line waits for its first piece
constexpr auto kRelaxed = std::chrono::microseconds(200);  // 32 blocks of the ring cover it at 160 GB/s
constexpr auto kWakeful = std::chrono::milliseconds(20);   // after the last copy: look for the next one unasked

// How long a twin waits for the bytes of a copy: while nobody is held up and they keep coming.
class Patience {
 public:
  explicit Patience(const std::function<bool()>& holds_up) {
    if (holds_up) give_up_ = [this, &holds_up] { return over_ = over_ || holds_up() || Inbox::Clock::now() >= until_; };
  }
  Patience(const Patience&) = delete;
  void they_came() { until_ = Inbox::Clock::now() + kTwinPatience; }
  // For Inbox::wait(). Once it has said so it stays so.
  const std::function<bool()>& give_up() const { return give_up_; }

 private:
  Inbox::Clock::time_point until_ = Inbox::Clock::now() + kTwinPatience;
  bool over_ = false;
  std::function<bool()> give_up_;
};

// Of a transfer of so many bytes, as many as a slot of staging takes: whole blocks.
size_t part_of(size_t transfer_bytes) {
  const size_t block_bytes = transport::bulk_block_bytes(transfer_bytes);
  return Staging::kLargeBytes / block_bytes * block_bytes;
}

}  // namespace

Copies::Copies(const DriverApi& driver, Fences& fences, Staging& staging, Inbox& inbox, Outbox& outbox,
               std::span<std::byte> ring)
    : driver_(driver), fences_(fences), staging_(staging), inbox_(inbox), outbox_(outbox) {
  for (size_t at = 0; at < ring.size(); at += kRingSlab)
    ring_.emplace_back().adopt(ring.data() + at, std::min(kRingSlab, ring.size() - at));
}

Copies::~Copies() {
  stop();
  join();
}

void Copies::start() {
  completer_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "bf-complete");
    prctl(PR_SET_TIMERSLACK, 1);  // ns
    transport::prefer_short_slices();
    completion_loop();
  });
  doubter_ = std::thread([this] {
    pthread_setname_np(pthread_self(), "bf-doubt");
    doubt_loop();
  });
}

void Copies::stop() {
  stopped_.store(true, std::memory_order_release);
  outbox_.stop();
  std::lock_guard guard(mutex_);
  work_.notify_all();
  doubts_.notify_all();
}

void Copies::join() {
  for (std::thread* thread : {&completer_, &doubter_})
    if (thread->joinable()) thread->join();
}

// --- Completion
// ----------------------------------------------------------------------------------------------------------

bool Copies::over(const Reading& reading) const {
  return fences_.done(reading.fence) && (!reading.parked || reading.parked->landed.load(std::memory_order_acquire));
}

void Copies::finish(const Reading& reading) {
  fences_.release(reading.fence);
  if (reading.parked) fences_.release(reading.parked->gate);
  for (const transport::Block& block : reading.blocks) inbox_.release(block);
  if (reading.slot.data) staging_.give(reading.slot);
}

// True if something is still open.
bool Copies::retire() {
  std::vector<Reading> done;
  bool open;
  {
    std::lock_guard guard(mutex_);
    const auto first = std::stable_partition(readings_.begin(), readings_.end(),
                                             [this](const Reading& r) { return !over(r); });
    done.assign(std::make_move_iterator(first), std::make_move_iterator(readings_.end()));
    readings_.erase(first, readings_.end());
    for (const Reading& reading : done) parked_ -= reading.parked ? 1 : 0;
    open = !readings_.empty();
  }
  for (const Reading& reading : done) finish(reading);
  return open;
}

// A kernel that faulted takes all that stands behind it along; a twin may be waiting for exactly that.
bool Copies::context_broken() {
  CUcontext context;
  {
    std::lock_guard guard(mutex_);
    context = last_context_;
  }
  size_t free, total;
  return context && driver_.cuCtxSetCurrent(context) == CUDA_SUCCESS &&
         driver_.cuMemGetInfo_v2(&free, &total) != CUDA_SUCCESS;
}

void Copies::doubt() {
  std::lock_guard guard(mutex_);
  doubted_ = true;
  doubts_.notify_one();
}

void Copies::doubt_loop() {
  for (;;) {
    {
      std::unique_lock guard(mutex_);
      doubts_.wait(guard, [&] { return doubted_ || stopped_.load(std::memory_order_acquire); });
      if (stopped_.load(std::memory_order_acquire)) return;
      doubted_ = false;
    }
    if (context_broken()) abandon();
  }
}

void Copies::completion_loop() {
  auto changed = std::chrono::steady_clock::now();
  auto patient_until = changed + kPatience, busy = changed;
  size_t open = 0;
  uint64_t copies = 0;
  while (!stopped_.load(std::memory_order_acquire)) {
    const bool reading = retire();
    if (outbox_.pieces_open()) outbox_.flush();
    if (reading || outbox_.pieces_open()) {
      // What takes long takes longer still: a long kernel must not cost a processor.
      const auto now = std::chrono::steady_clock::now();
      if (const size_t still_open = open_count(); still_open != open) {
        open = still_open;
        changed = now;
      }
      if (now < soon_.load(std::memory_order_relaxed) && transport::processors_to_spare()) {
        for (int i = 0; i < 64; ++i) transport::relax_cpu();
      } else if (now - changed < kEager) {
        sleep_briefly();
      } else {
        std::this_thread::sleep_for(kRelaxed);
      }
      if (now > patient_until) {
        doubt();
        patient_until = now + kPatience;
      }
      continue;
    }
    changed = std::chrono::steady_clock::now();
    patient_until = changed + kPatience;
    std::unique_lock guard(mutex_);
    if (stopped_.load(std::memory_order_acquire) || !readings_.empty() || outbox_.pieces_open()) continue;
    // To wake this thread costs the one who copies more than a small copy does.
    if (copies_ != copies) busy = changed;
    copies = copies_;
    sleep_ = changed < busy + kWakeful ? Sleep::kNap : Sleep::kDeep;
    if (sleep_ == Sleep::kNap) {
      work_.wait_for(guard, kRelaxed);
    } else {
      work_.wait(guard);
    }
    sleep_ = Sleep::kNone;
  }
}

size_t Copies::open_count() {
  std::lock_guard guard(mutex_);
  return readings_.size() + outbox_.pieces_open();
}

void Copies::nudge(bool at_once) {
  CUcontext context = nullptr;
  driver_.cuCtxGetCurrent(&context);
  if (at_once) soon_.store(std::chrono::steady_clock::now() + kSoon, std::memory_order_relaxed);
  std::lock_guard guard(mutex_);
  last_context_ = context;
  ++copies_;
  if (sleep_ == Sleep::kDeep || (at_once && sleep_ == Sleep::kNap)) work_.notify_one();
}

CUresult Copies::fence_reading(CUstream stream, Reading reading) {
  CUresult result = fences_.record(stream, reading.fence);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) {
    // Every word is in use: let this one wait for the stream instead.
    driver_.cuStreamSynchronize(stream);
    result = CUDA_SUCCESS;
  }
  if (over(reading)) {
    finish(reading);
    return result;
  }
  {
    std::lock_guard guard(mutex_);
    parked_ += reading.parked ? 1 : 0;
    readings_.push_back(std::move(reading));
  }
  nudge(false);
  return result;
}

bool Copies::take_slot(size_t bytes, StagingSlot& slot, const std::function<bool()>& otherwise) {
  for (;;) {
    slot = staging_.take(bytes);
    if (slot.data) return true;
    if (stopped_.load(std::memory_order_acquire)) return false;
    if (otherwise && otherwise()) return true;
    retire();
    outbox_.flush();
    sleep_briefly();
  }
}

// --- Linear copies
// -------------------------------------------------------------------------------------------------------

// Is the slab of a landed block pinned? It is the first time one lands there.
bool Copies::ring_pinned(const std::byte* block) {
  std::lock_guard guard(pins_mutex_);
  return ring_[size_t(block - ring_.front().data()) / kRingSlab].pin(driver_);
}

bool Copies::park(size_t bytes, uint64_t transfer, uint64_t offset, CUstream stream, CUresult& result,
                  const std::function<CUresult(std::byte* data)>& copy) {
  // Until the copy is among the readings: the driver would read memory that is not pinned at once.
  std::lock_guard pins(pins_mutex_);
  {
    std::lock_guard guard(mutex_);
    if (parked_ == kParked) return false;
  }
  StagingSlot slot = staging_.take(bytes);
  if (!slot.data) return false;
  auto parked = std::make_shared<Inbox::Parked>();
  if (!slot.pinned || fences_.hold(stream, parked->gate) != CUDA_SUCCESS) {
    staging_.give(slot);
    return false;
  }
  parked->transfer = transfer;
  parked->offset = offset;
  parked->bytes = bytes;
  parked->data = slot.data;
  inbox_.park(parked);
  result = copy(slot.data);
  const CUresult fenced = fence_reading(stream, {{}, {}, slot, std::move(parked)});
  if (result == CUDA_SUCCESS) result = fenced;
  return true;
}

CUresult Copies::to_device(CUdeviceptr dst, size_t bytes, std::span<const std::byte> payload, uint64_t transfer,
                           CUstream stream, const std::function<bool()>& holds_up) {
  if (transfer == 0) {
    if (payload.size() != bytes) return CUDA_ERROR_INVALID_VALUE;
    // The driver has read pageable memory when it returns.
    return driver_.cuMemcpyHtoDAsync_v2(dst, payload.data(), bytes, stream);
  }
  CUresult result = CUDA_SUCCESS;
  std::vector<transport::Block> unfenced;
  const auto fence = [&] {
    if (unfenced.empty()) return;
    const CUresult fenced = fence_reading(stream, {{}, std::exchange(unfenced, {}), {}, {}});
    if (result == CUDA_SUCCESS) result = fenced;
  };
  Patience patience(holds_up);
  for (Gaps gaps(bytes); !gaps.none();) {
    Inbox::Landed landed;
    if (!inbox_.take(transfer, Inbox::kAnyOffset, landed)) {
      fence();
      if (!inbox_.wait(transfer, Inbox::kAnyOffset, landed, patience.give_up())) {
        const auto [offset, part] = gaps.first(part_of(bytes));
        const auto copy = [&, to = dst + offset, part = part](std::byte* data) { return driver_.cuMemcpyHtoDAsync_v2(to, data, part, stream); };
        if (result == CUDA_SUCCESS && park(part, transfer, offset, stream, result, copy)) {
          gaps.take(offset, part);
          continue;
        }
        if (!inbox_.wait(transfer, Inbox::kAnyOffset, landed)) return CUDA_ERROR_OPERATING_SYSTEM;  // nobody will read it
      }
    }
    patience.they_came();
    const transport::Block& block = landed.block;
    const bool pinned = ring_pinned(landed.data);
    if (!gaps.take(block.offset, block.bytes)) result = CUDA_ERROR_INVALID_VALUE;  // no client of ours sends that
    // After a failure the rest of the transfer is still coming and must leave the ring.
    if (result == CUDA_SUCCESS) result = driver_.cuMemcpyHtoDAsync_v2(dst + block.offset, landed.data, block.bytes, stream);
    if (result == CUDA_SUCCESS && pinned) {
      unfenced.push_back(block);
      if (unfenced.size() == kFenceBlocks) fence();
    } else {
      inbox_.release(block);
    }
  }
  fence();
  return result;
}

CUresult Copies::send_piece(Outbox::Piece piece, CUstream stream) {
  CUresult result = fences_.record(stream, piece.fence);
  if (result == CUDA_ERROR_OUT_OF_MEMORY) result = driver_.cuStreamSynchronize(stream);
  if (result != CUDA_SUCCESS) {
    drop(piece, stream, true);
    return result;
  }
  outbox_.add(piece);
  nudge(piece.bulk);  // a small piece goes with the next answer
  return result;
}

void Copies::drop(const Outbox::Piece& piece, CUstream stream, bool begun) {
  fences_.open(piece.gate);
  if (begun || piece.gate.value != 0) driver_.cuStreamSynchronize(stream);
  if (!piece.before || !piece.before->take_back()) staging_.give(piece.slot);
  fences_.release(piece.gate);
}

// A slot is promised only within one copy: the pieces of a stream are done in their order, so a gate waits for nothing but the
// network, and no two streams for each other.
CUresult Copies::copy_back(size_t bytes, uint64_t ticket, CUstream stream, const std::function<bool()>& holds_up, const CopyOut& copy) {
  const bool bulk = bytes > limits::kInlineBytes;
  std::deque<Outbox::Piece> earlier;  // whose slots are promised to nobody
  for (size_t offset = 0; offset < bytes;) {
    // The line is idle until the first piece is there.
    const size_t count = std::min(bytes - offset, offset == 0 ? size_t(limits::kBulkBlockBytes) : Staging::kLargeBytes);
    Outbox::Piece piece{ticket, offset, uint32_t(count), bulk, bulk && copy.to_device ? staging_.take_device() : StagingSlot{}};
    const auto be_promised = [&] {
      while (!earlier.empty() && earlier.front().tenure->over()) earlier.pop_front();
      if (earlier.empty() || piece.gate.value != 0 || !holds_up || !holds_up()) return false;
      if (fences_.hold(stream, piece.gate) != CUDA_SUCCESS) return false;
      if (!earlier.front().tenure->promise(piece.gate)) {
        fences_.open(piece.gate);
        return false;
      }
      piece.before = earlier.front().tenure;
      piece.slot = earlier.front().slot;
      earlier.pop_front();
      return true;
    };
    if (!piece.slot.data && !take_slot(count, piece.slot, be_promised)) return CUDA_ERROR_OPERATING_SYSTEM;
    if (bulk && !piece.slot.device) piece.tenure = std::make_shared<Outbox::Tenure>();
    if (CUresult result = (piece.slot.device ? copy.to_device : copy.to_host)(piece.slot.data, offset, count); result != CUDA_SUCCESS) {
      drop(piece, stream, copy.in_parts);
      return result;
    }
    if (CUresult result = send_piece(piece, stream); result != CUDA_SUCCESS) return result;
    if (piece.tenure) earlier.push_back(std::move(piece));
    offset += count;
  }
  return CUDA_SUCCESS;
}

CUresult Copies::from_device(CUdeviceptr src, size_t bytes, uint64_t ticket, CUstream stream, const std::function<bool()>& holds_up) {
  return copy_back(bytes, ticket, stream, holds_up,
                   {[&](std::byte* data, size_t offset, size_t count) { return driver_.cuMemcpyDtoHAsync_v2(data, src + offset, count, stream); },
                    [&](std::byte* data, size_t offset, size_t count) { return driver_.cuMemcpyDtoDAsync_v2(CUdeviceptr(data), src + offset, count, stream); }});
}

CUresult Copies::fill(uint32_t value, uint32_t element_bytes, size_t bytes, uint64_t ticket, CUstream stream) {
  const bool bulk = bytes > limits::kInlineBytes;
  for (size_t offset = 0; offset < bytes;) {
    const size_t count = std::min(bytes - offset, Staging::kLargeBytes);
    StagingSlot slot;
    if (!take_slot(count, slot)) return CUDA_ERROR_OPERATING_SYSTEM;
    for (size_t at = 0; at < count; at += element_bytes) std::memcpy(slot.data + at, &value, element_bytes);
    if (CUresult result = send_piece({ticket, offset, uint32_t(count), bulk, slot}, stream); result != CUDA_SUCCESS) return result;
    offset += count;
  }
  return CUDA_SUCCESS;
}

// --- Boxes
// ---------------------------------------------------------------------------------------------------------------

namespace {

// A part of a box: whole slices, whole rows of one slice, or a piece of one row.
struct Part {
  size_t x = 0, y = 0, z = 0;  // relative to the box; x in bytes
  size_t width = 0, height = 1, depth = 1;
  size_t bytes() const { return width * height * depth; }
};

// The largest part of at most `room` bytes that begins at `position`, the number of dense bytes before it.
Part part_at(const CUDA_MEMCPY3D& box, size_t position, size_t room) {
  const size_t row = box.WidthInBytes;
  const size_t slice = row * box.Height;
  Part part;
  part.z = position / slice;
  part.y = position % slice / row;
  part.x = position % row;
  part.width = std::min(row - part.x, room);
  if (part.width < row) return part;
  part.height = std::min(box.Height - part.y, room / row);
  if (part.y > 0 || part.height < box.Height) return part;
  part.depth = std::min(box.Depth - part.z, room / slice);
  return part;
}

CUDA_MEMCPY3D narrowed(CUDA_MEMCPY3D box, const Part& part) {
  box.srcXInBytes += part.x;
  box.srcY += part.y;
  box.srcZ += part.z;
  box.dstXInBytes += part.x;
  box.dstY += part.y;
  box.dstZ += part.z;
  box.WidthInBytes = part.width;
  box.Height = part.height;
  box.Depth = part.depth;
  return box;
}

void host_source(CUDA_MEMCPY3D& box, const Part& part, const std::byte* data) {
  box.srcMemoryType = CU_MEMORYTYPE_HOST;
  box.srcHost = data;
  box.srcXInBytes = box.srcY = box.srcZ = box.srcLOD = 0;
  box.srcPitch = part.width;
  box.srcHeight = part.height;
}

void host_target(CUDA_MEMCPY3D& box, const Part& part, std::byte* data) {
  box.dstMemoryType = CU_MEMORYTYPE_HOST;
  box.dstHost = data;
  box.dstXInBytes = box.dstY = box.dstZ = box.dstLOD = 0;
  box.dstPitch = part.width;
  box.dstHeight = part.height;
}

}  // namespace

CUresult Copies::box(const CUDA_MEMCPY3D& copy, std::span<const std::byte> payload, uint64_t transfer, uint64_t ticket,
                     CUstream stream, const std::function<bool()>& holds_up) {
  const bool from_host = copy.srcMemoryType == CU_MEMORYTYPE_HOST;
  const bool to_host = copy.dstMemoryType == CU_MEMORYTYPE_HOST;
  const auto refuse = [&] {
    if (transfer) inbox_.discard(transfer);
    return CUDA_ERROR_INVALID_VALUE;
  };
  if (!from_host && !to_host) return driver_.cuMemcpy3DAsync_v2(&copy, stream);
  size_t total;
  if (__builtin_mul_overflow(copy.WidthInBytes, copy.Height, &total) ||
      __builtin_mul_overflow(total, copy.Depth, &total)) {
    return refuse();
  }
  if ((from_host && to_host) || (from_host && transfer == 0 && payload.size() != total)) return refuse();
  if (from_host) return box_to_device(copy, total, payload, transfer, stream, holds_up);
  return copy_back(total, ticket, stream, holds_up,
                   {[&](std::byte* data, size_t offset, size_t count) { return copy_part(copy, offset, count, data, stream); }, {}, true});
}

// The dense bytes [position, position + count) of the box, whose host side lies at `data`.
CUresult Copies::copy_part(const CUDA_MEMCPY3D& box, size_t position, size_t count, std::byte* data, CUstream stream) {
  const bool from_host = box.srcMemoryType == CU_MEMORYTYPE_HOST;
  for (size_t at = 0; at < count;) {
    const Part part = part_at(box, position + at, count - at);
    CUDA_MEMCPY3D piece = narrowed(box, part);
    if (from_host) {
      host_source(piece, part, data + at);
    } else {
      host_target(piece, part, data + at);
    }
    if (CUresult result = driver_.cuMemcpy3DAsync_v2(&piece, stream); result != CUDA_SUCCESS) return result;
    at += part.bytes();
  }
  return CUDA_SUCCESS;
}

CUresult Copies::box_to_device(const CUDA_MEMCPY3D& copy, size_t total, std::span<const std::byte> payload, uint64_t transfer,
                               CUstream stream, const std::function<bool()>& holds_up) {
  const size_t part_bytes = transfer ? part_of(total) : Staging::kLargeBytes;
  Inbox::Reader blocks(inbox_, transfer);
  Patience patience(holds_up);
  CUresult result = CUDA_SUCCESS;
  for (size_t position = 0; position < total;) {
    size_t count = std::min(total - position, part_bytes);
    StagingSlot slot;
    if (!take_slot(count, slot)) return CUDA_ERROR_OPERATING_SYSTEM;
    if (transfer == 0) {
      std::memcpy(slot.data, payload.data() + position, count);
    } else if (result != CUDA_SUCCESS) {
      // After a failure the rest of the transfer is still coming and must leave the ring.
      count = blocks.read(slot.data, count);
    } else if (const size_t ready = blocks.read(slot.data, count, patience.give_up()); ready > 0) {
      count = ready;
      patience.they_came();
    } else if (blocks.at_block() && park(count, transfer, position, stream, result, [&](std::byte* data) {
                 return copy_part(copy, position, count, data, stream);
               })) {
      staging_.give(slot);
      blocks.skip(count);
      position += count;
      continue;
    } else {
      count = blocks.read(slot.data, count);
    }
    if (count == 0) {  // nobody will read it
      staging_.give(slot);
      return CUDA_ERROR_OPERATING_SYSTEM;
    }
    if (result == CUDA_SUCCESS) result = copy_part(copy, position, count, slot.data, stream);
    if (result == CUDA_SUCCESS) {
      result = fence_reading(stream, {{}, {}, slot, {}});
    } else {
      driver_.cuStreamSynchronize(stream);  // parts before the failed one still use the slot
      staging_.give(slot);
    }
    position += count;
  }
  return result;
}

// --- Contexts that end
// -----------------------------------------------------------------------------------------------------

void Copies::abandon() {
  {
    std::lock_guard guard(mutex_);
    for (Reading& reading : readings_) fences_.release(std::exchange(reading.fence, {}));
    last_context_ = nullptr;
  }
  retire();
  outbox_.abandon();
}

void Copies::quiesce() {
  if (driver_.cuCtxSynchronize() != CUDA_SUCCESS) abandon();
  // Copies of other contexts may still be under way; ours are done, and their words will be seen at once.
  std::unique_lock pins(pins_mutex_);
  while (!stopped_.load(std::memory_order_acquire)) {
    const bool reading = retire();
    outbox_.flush();
    if (!reading && !outbox_.pieces_open()) break;
    pins.unlock();
    sleep_briefly();
    pins.lock();
  }
  for (PinnedRegion& slab : ring_) slab.unpin(driver_);
  staging_.unpin();
  fences_.region().unpin(driver_);
  std::lock_guard guard(mutex_);
  last_context_ = nullptr;
}

void Copies::renew() {
  // Refused: copies from it are pageable, and the driver has read a block when the call returns.
  if (!ring_.empty()) ring_pinned(ring_.front().data());
  staging_.renew();
  fences_.renew();
}

}  // namespace bf::server
