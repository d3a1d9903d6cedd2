#include "server/worker/fences.h"

#include <sys/mman.h>

#include <new>

#include "api/driver_api.h"

namespace bf::server {

RelaxedCapture::RelaxedCapture(const DriverApi& driver) : driver_(driver) {
  exchanged_ =
      driver_.cuThreadExchangeStreamCaptureMode && driver_.cuThreadExchangeStreamCaptureMode(&mode_) == CUDA_SUCCESS;
}

RelaxedCapture::~RelaxedCapture() {
  if (exchanged_) driver_.cuThreadExchangeStreamCaptureMode(&mode_);
}

PinnedRegion::PinnedRegion(PinnedRegion&& other) noexcept
    : data_(other.data_), bytes_(other.bytes_), owned_(other.owned_), pinned_(other.pinned_) {
  other.data_ = nullptr;
  other.owned_ = other.pinned_ = false;
}

PinnedRegion::~PinnedRegion() {
  if (owned_) munmap(data_, bytes_);
}

bool PinnedRegion::map(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return false;
  data_ = static_cast<std::byte*>(data);
  bytes_ = bytes;
  owned_ = true;
  return true;
}

void PinnedRegion::adopt(std::byte* data, size_t bytes) {
  data_ = data;
  bytes_ = bytes;
}

bool PinnedRegion::pin(const DriverApi& driver) {
  if (pinned_ || bytes_ == 0) return pinned_;
  RelaxedCapture relaxed(driver);
  pinned_ = driver.cuMemHostRegister_v2(data_, bytes_, CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP) ==
            CUDA_SUCCESS;
  return pinned_;
}

void PinnedRegion::unpin(const DriverApi& driver) {
  if (!pinned_) return;
  RelaxedCapture relaxed(driver);
  driver.cuMemHostUnregister(data_);
  pinned_ = false;
}

bool Fences::start(bool stream_memory) {
  stream_memory_ = stream_memory;
  if (!region_.map(kWords * sizeof(uint64_t))) return false;
  words_ = reinterpret_cast<std::atomic<uint64_t>*>(region_.data());
  for (uint32_t i = 0; i < kWords; ++i) new (&words_[i]) std::atomic<uint64_t>(0);
  free_.reserve(kWords);
  for (uint32_t i = kWords; i > 0; --i) free_.push_back(i - 1);
  return true;
}

void Fences::renew() {
  device_words_ = 0;
  if (!stream_memory_ || !driver_.cuStreamWriteValue64_v2 || !region_.pin(driver_)) return;
  if (driver_.cuMemHostGetDevicePointer_v2(&device_words_, region_.data(), 0) != CUDA_SUCCESS) device_words_ = 0;
}

namespace {

struct HostWrite {
  std::atomic<uint64_t>* word;
  uint64_t value;
};

void CUDA_CB write_word(void* data) {
  auto* write = static_cast<HostWrite*>(data);
  write->word->store(write->value, std::memory_order_release);
  delete write;
}

}  // namespace

bool Fences::take(Fence& fence) {
  std::lock_guard guard(mutex_);
  if (free_.empty()) return false;
  fence.word = free_.back();
  free_.pop_back();
  fence.value = next_value_++;
  return true;
}

CUresult Fences::hold(CUstream stream, Fence& gate) {
  gate = {};
  if (!device_words_ || !driver_.cuStreamWaitValue64_v2) return CUDA_ERROR_NOT_SUPPORTED;
  Fence made;
  if (!take(made)) return CUDA_ERROR_OUT_OF_MEMORY;
  const CUdeviceptr word = device_words_ + made.word * sizeof(uint64_t);
  // Values only grow, so what the word holds from before is less.
  const CUresult result = driver_.cuStreamWaitValue64_v2(stream, word, made.value, CU_STREAM_WAIT_VALUE_GEQ);
  if (result == CUDA_SUCCESS) {
    gate = made;
  } else {
    release(made);
  }
  return result;
}

CUresult Fences::record(CUstream stream, Fence& fence) {
  fence = {};
  Fence made;
  if (!take(made)) return CUDA_ERROR_OUT_OF_MEMORY;
  CUresult result;
  if (device_words_) {
    result = driver_.cuStreamWriteValue64_v2(stream, device_words_ + made.word * sizeof(uint64_t), made.value, 0);
  } else {
    auto* write = new HostWrite{&words_[made.word], made.value};
    result = driver_.cuLaunchHostFunc(stream, write_word, write);
    if (result != CUDA_SUCCESS) delete write;
  }
  if (result == CUDA_SUCCESS) {
    fence = made;
  } else {
    release(made);
  }
  return result;
}

void Fences::release(const Fence& fence) {
  if (fence.value == 0) return;
  std::lock_guard guard(mutex_);
  free_.push_back(fence.word);
}

}  // namespace bf::server
