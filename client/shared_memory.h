// Pinned memory on the worker's own host: it lies in a file that both map (transport::Link::shared_memory), at one
// address, so that the GPU reads and writes the program's buffer and nothing has to travel.
//
// To the program it is ordinary memory. A forked child gets it as a private copy, as it would other memory - of what is
// there when the child looks, not when it forked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

#include "client/futex.h"

namespace bf::client {

class SharedMemory {
 public:
  static SharedMemory& instance();

  // Zeroed memory, a multiple of the page size; nullptr where nothing can be shared.
  void* map(size_t bytes);
  void unmap(void* memory);
  bool holds(const void* memory);

  // Around fork(): the child's copies become private.
  void before_fork() { lock_.lock(); }
  void after_fork() { lock_.unlock(); }
  void in_forked_child();

 private:
  // Where `bytes` are free from `from` on; 0 if nowhere.
  uint64_t free_at(uint64_t from, size_t bytes) const;

  SpinLock lock_;
  std::map<uint64_t, size_t> live_;  // address -> bytes
  uint64_t next_ = 0;
  int file_ = -1;                    // the link's
  uint64_t inode_ = 0;               // the program may have closed our file, and opened another with its number
};

}  // namespace bf::client
