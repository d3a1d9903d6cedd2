#include "client/mirrors.h"

#include <algorithm>
#include <cstring>

#include "api/remote.h"
#include "base/log.h"
#include "client/capture.h"
#include "client/contexts.h"

namespace bf::client {

namespace {

constexpr size_t kSendBytes = 4 << 20;  // of patches: one transfer
constexpr int kSendsAhead = 4;          // transfers under way before the publisher waits

}  // namespace

Mirrors& Mirrors::instance() {
  static Mirrors* const mirrors = new Mirrors;
  return *mirrors;
}

CUresult Mirrors::add(uint64_t address, uint64_t bytes, MirrorKind kind) {
  std::shared_ptr<Mirror> mirror = Mirror::make(reinterpret_cast<std::byte*>(address), address, bytes);
  if (!mirror) return CUDA_ERROR_OUT_OF_MEMORY;
  CurrentContext owner(current_context());  // a green context may end earlier
  std::lock_guard order(publish_);          // nobody publishes it before the worker has it
  {
    std::lock_guard guard(lock_);  // a variable's initial value comes with the reply
    mirrors_[address] = std::move(mirror);
    live_.store(uint32_t(mirrors_.size()), std::memory_order_release);
  }
  uint32_t shared = 0;
  CUresult result = remote_bfMirrorMap(address, bytes, kind, shared);
  if (result != CUDA_SUCCESS || shared) forget(address);
  return result;
}

CUresult Mirrors::add_shared(uint64_t address, uint64_t bytes) {
  uint32_t shared = 0;
  return remote_bfMirrorMap(address, bytes, kMirrorPinned, shared);
}

void Mirrors::forget(uint64_t address) {
  std::lock_guard guard(lock_);
  mirrors_.erase(address);
  live_.store(uint32_t(mirrors_.size()), std::memory_order_release);
}

CUresult Mirrors::remove(uint64_t address) {
  std::lock_guard order(publish_);
  CUresult result = remote_bfMirrorUnmap(address);
  forget(address);
  return result;
}

bool Mirrors::collect(uint64_t* position, PatchBuffer& out, std::atomic<uint64_t>* count) {
  std::lock_guard guard(lock_);
  const size_t before = out.size();
  auto next = mirrors_.upper_bound(*position);
  if (next != mirrors_.begin() && std::prev(next)->second->end() > *position) --next;
  for (; next != mirrors_.end(); ++next) {
    Mirror& mirror = *next->second;
    *position = mirror.collect(std::max(*position, mirror.address()), mirror.end(), out);
    if (*position < mirror.end()) break;
  }
  if (count && out.size() > before) count->fetch_add(1, std::memory_order_release);
  return next != mirrors_.end();
}

namespace {

constexpr const char* kChange = "a change of mapped memory";

// Larger parameters are structs with arrays, seldom filled to the end: PyTorch's TensorInfo has 216 bytes for 25 dimensions.
constexpr size_t kPlainParameter = 64;

// `what` the bytes are, for the log.
void find_hidden(const char* what, std::span<const std::byte> bytes, std::vector<uint64_t>* found, bool copied_too = true) {
  const RangeTable& ranges = state().ranges;
  if (!ranges.any_hidden()) return;
  for (size_t at = 0; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, sizeof word);
    if (!ranges.may_be_hidden(word) || !ranges.hidden(word, copied_too)) continue;
    BF_DEBUG("{} of {} bytes holds the host address {:#x}", what, bytes.size(), word);
    found->push_back(word);
  }
}

CUresult reach_all(const std::vector<uint64_t>& hidden) {
  for (uint64_t address : hidden)
    if (CUresult result = reach(address); result != CUDA_SUCCESS) return result;
  return CUDA_SUCCESS;
}

}  // namespace

CUresult Mirrors::send_changes(std::vector<uint64_t>* hidden) {
  std::lock_guard order(publish_);
  uint64_t position = 0;
  small_.clear();
  bool more = collect(&position, small_);
  // What a host function's end took along belongs before what we send now.
  const uint64_t side_frames = side_frames_.load(std::memory_order_acquire);
  if (small_.size() > 0 || side_frames != side_known_) {
    side_known_ = side_frames;
    find_hidden(kChange, {small_.data(), small_.size()}, hidden);
    iovec part{small_.data(), small_.size()};
    if (CUresult result = post_bfMirrorWrite(side_frames, 0, Payload(&part, 1)); result != CUDA_SUCCESS) return result;
  }
  for (int sends = 1; more; ++sends) {
    auto buffer = std::make_shared<PatchBuffer>(kSendBytes);
    more = collect(&position, *buffer);
    const size_t bytes = buffer->size();
    if (bytes == 0) continue;
    find_hidden(kChange, {buffer->data(), bytes}, hidden);
    CUresult result;
    if (bytes <= limits::kInlineBytes) {
      iovec part{buffer->data(), bytes};
      result = post_bfMirrorWrite(side_known_, 0, Payload(&part, 1));
    } else {
      result = Session::get()->send_bulk(buffer->data(), bytes, sends % kSendsAhead == 0, buffer, [&](uint64_t transfer) {
        return post_bfMirrorWrite(bytes, transfer, Payload());
      });
    }
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

CUresult Mirrors::publish() {
  for (;;) {
    std::vector<uint64_t> hidden;
    if (CUresult result = send_changes(&hidden); result != CUDA_SUCCESS || hidden.empty()) return result;
    if (CUresult result = reach_all(hidden); result != CUDA_SUCCESS) return result;
  }
}

// Does not wait for another thread's publish(): that may be waiting for the stream, and the stream for this.
Status Mirrors::publish(transport::Stream& side) {
  PatchBuffer buffer(limits::kControlBodyBytes);
  uint64_t position = 0;
  for (bool more = true; more;) {
    buffer.clear();
    more = collect(&position, buffer, &side_frames_);
    if (buffer.size() == 0) continue;
    FrameHeader header{0, uint32_t(buffer.size()), uint16_t(Opcode::kHostChanges), 0, 0};
    iovec parts[] = {{&header, sizeof header}, {buffer.data(), buffer.size()}};
    BF_RETURN_IF_ERROR(side.send(parts));
  }
  return ok_status();
}

bool Mirrors::apply(std::span<const std::byte> patches) {
  std::lock_guard guard(lock_);
  Mirror* last = nullptr;
  const auto line = [&](uint64_t address, uint64_t mask, const std::byte* data) {
    if (last && last->apply(address, mask, data)) return true;
    for (auto next = mirrors_.lower_bound(address + kMirrorLine); next != mirrors_.begin();) {
      last = (--next)->second.get();
      if (last->apply(address, mask, data) || last->address() <= address) return true;
    }
    last = nullptr;
    return true;  // of memory that is gone
  };
  return read_patches(patches.size(), read_from(patches), line).ok();
}

// --- Which memory ----------------------------------------------------------------------------------------------------------

CUresult reach(uint64_t address) {
  auto range = state().ranges.find(address);
  if (!range || !range->host()) return CUDA_ERROR_INVALID_VALUE;
  if (range->mirrored) return CUDA_SUCCESS;
  CurrentContext owner(range->context);  // its mirror ends with it
  CUresult result = Mirrors::instance().add(range->base, range->bytes, kMirrorHost);
  if (result == CUDA_SUCCESS) {
    BF_DEBUG("device code reaches {} bytes of host memory at {:#x} from now on", range->bytes, range->base);
    state().ranges.set_mirrored(range->base);
  } else {
    BF_WARN("device code wants to reach {} bytes of host memory at {:#x}, which the server refuses with error {}",
            range->bytes, range->base, int(result));
  }
  return result;
}

CUresult reach_pointers(std::span<const std::byte> bytes) {
  std::vector<uint64_t> hidden;
  find_hidden("data for the device", bytes, &hidden);
  return reach_all(hidden);
}

CUresult reach_parameter(std::span<const std::byte> bytes) {
  std::vector<uint64_t> hidden;
  find_hidden("a kernel's parameter", bytes, &hidden, bytes.size() <= kPlainParameter);
  return reach_all(hidden);
}

CUresult publish_live_changes(CUstream stream) {
  return capture_of(stream) ? CUDA_SUCCESS : Mirrors::instance().publish();
}

}  // namespace bf::client
