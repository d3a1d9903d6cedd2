#include "server/ledger.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>
#include <utility>

namespace bf::server {
namespace {
constexpr uint64_t kMagic = 0x3172656764656c62;  // "bledger1"
constexpr unsigned kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
}  // namespace

struct Ledger::Layout {
  uint64_t magic;
  uint64_t devices;
  uint64_t limit[limits::kDevices];
  pthread_mutex_t mutex;
  std::atomic<uint64_t> charged[limits::kSessionsPerLease][limits::kDevices];
  static_assert(std::atomic<uint64_t>::is_always_lock_free);
};

Result<Ledger> Ledger::create(std::span<const uint64_t> limit_bytes) {
  BF_CHECK(!limit_bytes.empty() && limit_bytes.size() <= limits::kDevices);
  Fd memfd(::memfd_create("backfield-ledger", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memfd) return errno_status("making the memory ledger", errno);
  if (::ftruncate(memfd.get(), sizeof(Layout)) < 0) return errno_status("sizing the memory ledger", errno);
  if (::fcntl(memfd.get(), F_ADD_SEALS, kSeals) < 0) return errno_status("sealing the memory ledger", errno);
  void* mapped = ::mmap(nullptr, sizeof(Layout), PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0);
  if (mapped == MAP_FAILED) return errno_status("mapping the memory ledger", errno);
  auto* layout = new (mapped) Layout;  // leaves the zeroes of the new file in place
  layout->devices = limit_bytes.size();
  std::copy(limit_bytes.begin(), limit_bytes.end(), layout->limit);
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&layout->mutex, &attributes);
  pthread_mutexattr_destroy(&attributes);
  layout->magic = kMagic;
  return Ledger(std::move(memfd), layout, limit_bytes.size());
}

Result<Ledger> Ledger::open(Fd memfd) {
  struct stat facts;
  if (::fstat(memfd.get(), &facts) < 0) return errno_status("opening the memory ledger", errno);
  int seals = ::fcntl(memfd.get(), F_GET_SEALS);
  if (facts.st_size != sizeof(Layout) || seals < 0 || (unsigned(seals) & kSeals) != kSeals)
    return Status{StatusCode::kInvalid, "the descriptor is not a memory ledger"};
  void* mapped = ::mmap(nullptr, sizeof(Layout), PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0);
  if (mapped == MAP_FAILED) return errno_status("mapping the memory ledger", errno);
  auto* layout = static_cast<Layout*>(mapped);
  size_t devices = layout->devices;
  Ledger ledger(std::move(memfd), layout, devices);
  if (layout->magic != kMagic || devices == 0 || devices > limits::kDevices)
    return Status{StatusCode::kInvalid, "the memory ledger is of another version or damaged"};
  return ledger;
}

Ledger::Ledger(Ledger&& other) noexcept
    : memfd_(std::move(other.memfd_)), layout_(std::exchange(other.layout_, nullptr)), devices_(other.devices_) {}

Ledger& Ledger::operator=(Ledger&& other) noexcept {
  std::swap(memfd_, other.memfd_);
  std::swap(layout_, other.layout_);
  std::swap(devices_, other.devices_);
  return *this;
}

Ledger::~Ledger() {
  if (layout_ != nullptr) ::munmap(layout_, sizeof(Layout));
}

uint64_t Ledger::limit(size_t device) const {
  BF_CHECK(device < devices_);
  return layout_->limit[device];
}

uint64_t Ledger::used(size_t device) const {
  BF_CHECK(device < devices_);
  uint64_t sum = 0;
  for (auto& slot : layout_->charged) sum += slot[device].load(std::memory_order_relaxed);
  return sum;
}

uint64_t Ledger::charged(size_t slot, size_t device) const {
  BF_CHECK(slot < limits::kSessionsPerLease && device < devices_);
  return layout_->charged[slot][device].load(std::memory_order_relaxed);
}

bool Ledger::charge(size_t slot, size_t device, uint64_t bytes) {
  BF_CHECK(slot < limits::kSessionsPerLease && device < devices_);
  // EOWNERDEAD: its owner died between lock and unlock; nothing it did can be half done, since a charge is one store.
  if (pthread_mutex_lock(&layout_->mutex) == EOWNERDEAD) pthread_mutex_consistent(&layout_->mutex);
  uint64_t before = used(device);
  bool fits = bytes <= layout_->limit[device] && before <= layout_->limit[device] - bytes;
  if (fits) layout_->charged[slot][device].fetch_add(bytes, std::memory_order_relaxed);
  pthread_mutex_unlock(&layout_->mutex);
  return fits;
}

void Ledger::refund(size_t slot, size_t device, uint64_t bytes) {
  BF_CHECK(slot < limits::kSessionsPerLease && device < devices_);
  auto& cell = layout_->charged[slot][device];
  uint64_t now = cell.load(std::memory_order_relaxed);
  while (!cell.compare_exchange_weak(now, now - std::min(now, bytes), std::memory_order_relaxed)) {
  }
}

void Ledger::clear_slot(size_t slot) {
  BF_CHECK(slot < limits::kSessionsPerLease);
  for (size_t device = 0; device < devices_; device++)
    layout_->charged[slot][device].store(0, std::memory_order_relaxed);
}

}  // namespace bf::server
