#include "client/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <mutex>

#include "client/session.h"
#include "proto/shared_memory.h"

namespace bf::client {

namespace {

uint64_t inode_of(int file) {
  struct stat facts;
  return fstat(file, &facts) == 0 ? facts.st_ino : 0;
}

}  // namespace

SharedMemory& SharedMemory::instance() {
  static SharedMemory* const made = new SharedMemory;
  return *made;
}

uint64_t SharedMemory::free_at(uint64_t from, size_t bytes) const {
  auto next = live_.upper_bound(from);
  uint64_t at = from;
  if (next != live_.begin()) at = std::max(at, std::prev(next)->first + std::prev(next)->second);
  for (; next != live_.end(); ++next) {
    if (next->first - at >= bytes) return at;
    at = next->first + next->second;
  }
  return bytes <= kSharedBegin + kSharedBytes - at ? at : 0;
}

void* SharedMemory::map(size_t bytes) {
  Session* session = Session::get();
  if (!session || session->link().shared_memory() < 0 || bytes > kSharedBytes) return nullptr;
  std::lock_guard guard(lock_);
  if (file_ < 0) {
    file_ = session->link().shared_memory();
    inode_ = inode_of(file_);
    next_ = kSharedBegin;
  }
  if (inode_of(file_) != inode_) return nullptr;
  uint64_t address = free_at(next_, bytes);
  if (!address) address = free_at(kSharedBegin, bytes);
  if (!address) return nullptr;
  void* wanted = reinterpret_cast<void*>(address);
  void* got = mmap(wanted, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, file_,
                   off_t(address - kSharedBegin));
  next_ = address + bytes;  // also where somebody else's memory is in the way
  if (got == wanted) {
    live_.emplace(address, bytes);
    return got;
  }
  if (got != MAP_FAILED) munmap(got, bytes);
  return nullptr;
}

void SharedMemory::unmap(void* memory) {
  const auto address = reinterpret_cast<uint64_t>(memory);
  std::lock_guard guard(lock_);
  auto found = live_.find(address);
  if (found == live_.end()) return;
  munmap(memory, found->second);
  if (inode_of(file_) == inode_) {  // gives the pages back, and zeroes for whoever gets the place next
    fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(address - kSharedBegin), off_t(found->second));
  }
  live_.erase(found);
}

bool SharedMemory::holds(const void* memory) {
  std::lock_guard guard(lock_);
  return live_.count(reinterpret_cast<uint64_t>(memory)) > 0;
}

void SharedMemory::in_forked_child() {
  for (const auto& [address, bytes] : live_) {
    mmap(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, file_,
         off_t(address - kSharedBegin));
  }
  lock_.unlock();
}

}  // namespace bf::client
