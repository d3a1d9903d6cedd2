// What the handle values of a session mean on this driver. Values come from the client, so any number is possible; a
// value is found only if it has the right kind, maker and generation. Lookups take no lock. Bounded in memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "base/handle.h"

namespace bf::server {

class HandleTables {
 public:
  HandleTables();
  ~HandleTables();

  // The real handle of a live value.
  bool resolve(HandleKind kind, uint64_t value, uint64_t& real) const;
  // Stores `real` under a value that the client made. A slot that holds an older generation is taken over: the client
  // gave that object up, even if the driver refused to destroy it. False if the value has another kind or maker, lives
  // already with another real handle, or the tables have no room.
  bool insert(HandleKind kind, uint64_t value, uint64_t real);
  void erase(HandleKind kind, uint64_t value);
  // The value the client knows `real` by; a new one made here if it knows none; 0 if real is 0 or there is no room.
  uint64_t value_of(HandleKind kind, uint64_t real);
  // The value of `real` if there is one, else 0.
  uint64_t find_value(HandleKind kind, uint64_t real) const;
  // The driver destroyed `real` together with its parent.
  void erase_real(HandleKind kind, uint64_t real);

  static constexpr uint32_t kChunkSlots = 4096;
  static constexpr uint32_t kMaxChunks = 4096;  // of all kinds together: 16 M objects, 256 MiB

 private:
  struct Slot {
    std::atomic<uint64_t> state{0};  // generation << 1 | live
    std::atomic<uint64_t> real{0};
  };
  struct Kind {
    std::unique_ptr<std::atomic<Slot*>[]> chunks[2];  // by maker
    mutable std::mutex mutex;                         // of everything below, and of all changes
    std::unordered_map<uint64_t, uint64_t> value_by_real;
    std::vector<uint32_t> free_indices;  // of worker-made slots
    uint32_t next_index = 0;
  };

  static bool well_formed(HandleKind kind, uint64_t value, Handle& handle);
  Slot* slot_of(const Handle& handle) const;
  Slot* make_slot(Kind& kind, const Handle& handle);
  void erase_locked(Kind& kind, uint64_t value);

  std::unique_ptr<Kind[]> kinds_;
  std::atomic<uint32_t> chunks_made_{0};
};

}  // namespace bf::server
