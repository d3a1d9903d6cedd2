#include "proto/abi/context_storage.h"

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace bf::abi {
namespace {

struct Stored {
  CUcontext context;
  void* key;
  void* value;
  ContextDestructor destructor;
};

struct Storage {
  std::mutex mutex;
  std::vector<Stored> entries;  // in order of put; a handful per context
};

// Never destroyed: programs call after static destructors ran.
Storage& storage() {
  static Storage* const instance = new Storage;
  return *instance;
}

std::atomic<uint64_t> g_generation{1};  // counts changes; what a thread remembers is good while it stands still

struct Remembered {
  uint64_t generation = 0;
  CUcontext context = nullptr;
  void* key = nullptr;
  void* value = nullptr;
};
constexpr size_t kRemembered = 8;  // a PyTorch process carries 5 or 6 runtimes
constinit thread_local Remembered t_remembered[kRemembered]{};

size_t slot_of(const void* key) { return (uintptr_t(key) >> 6) % kRemembered; }

std::vector<Stored>::iterator find(std::vector<Stored>& entries, CUcontext context, const void* key) {
  auto it = entries.begin();
  while (it != entries.end() && (it->context != context || it->key != key)) ++it;
  return it;
}

// The context meant, and whether the caller named it.
struct Subject {
  CUcontext context = nullptr;
  bool named = false;
  CUresult error = CUDA_SUCCESS;
};

Subject subject_of(CUcontext context) {
  const DriverHooks& hooks = driver_hooks();
  if (!hooks.alive()) return {.error = CUDA_ERROR_DEINITIALIZED};
  Subject s{context, context && context != reinterpret_cast<CUcontext>(-1)};
  if (!s.named) s.context = hooks.current_context();
  if (!s.context) s.error = CUDA_ERROR_INVALID_CONTEXT;
  return s;
}

// For put and remove: a dead context is refused, an unretained primary is not.
CUresult changeable(CUcontext context) {
  switch (driver_hooks().context_state(context)) {
    case ContextState::kUnknown:
      return CUDA_ERROR_INVALID_CONTEXT;
    case ContextState::kDead:
      return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    default:
      return CUDA_SUCCESS;
  }
}

}  // namespace

CUresult storage_put(CUcontext context, void* key, void* value, ContextDestructor destructor) noexcept {
  const Subject s = subject_of(context);
  if (s.error) return s.error;
  if (CUresult why = changeable(s.context)) return why;
  Storage& all = storage();
  std::lock_guard lock(all.mutex);
  if (find(all.entries, s.context, key) != all.entries.end()) return CUDA_ERROR_INVALID_HANDLE;
  all.entries.push_back({s.context, key, value, destructor});
  return CUDA_SUCCESS;  // nobody remembers a missing entry, so the generation may stay
}

CUresult storage_remove(CUcontext context, void* key) noexcept {
  const Subject s = subject_of(context);
  if (s.error) return s.error;
  if (CUresult why = changeable(s.context)) return why;
  Storage& all = storage();
  std::lock_guard lock(all.mutex);
  auto it = find(all.entries, s.context, key);
  if (it == all.entries.end()) return CUDA_ERROR_INVALID_HANDLE;
  all.entries.erase(it);
  g_generation.fetch_add(1, std::memory_order_release);
  return CUDA_SUCCESS;
}

CUresult storage_get(void** value, CUcontext context, void* key) noexcept {
  const Subject s = subject_of(context);
  if (s.error) return s.error;
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  const uint64_t generation = g_generation.load(std::memory_order_acquire);
  Remembered& last = t_remembered[slot_of(key)];
  if (last.generation == generation && last.context == s.context && last.key == key) {
    *value = last.value;
    return CUDA_SUCCESS;
  }
  // The runtime asks about "the current context" and must hear that it is gone, or it goes on with a dead one.
  const ContextState state = driver_hooks().context_state(s.context);
  if (state == ContextState::kUnknown || (!s.named && state == ContextState::kDead)) return CUDA_ERROR_INVALID_CONTEXT;
  Storage& all = storage();
  std::lock_guard lock(all.mutex);
  auto it = find(all.entries, s.context, key);
  if (it == all.entries.end()) return CUDA_ERROR_INVALID_HANDLE;
  *value = it->value;
  if (state != ContextState::kDead) last = {generation, s.context, key, it->value};
  return CUDA_SUCCESS;
}

void storage_context_died(CUcontext context) noexcept {
  Storage& all = storage();
  g_generation.fetch_add(1, std::memory_order_release);
  std::unique_lock lock(all.mutex);
  for (;;) {
    auto it = all.entries.end();
    while (it != all.entries.begin() && (it - 1)->context != context) --it;
    if (it == all.entries.begin()) return;
    const Stored entry = *(it - 1);
    lock.unlock();
    if (entry.destructor) entry.destructor(entry.context, entry.key, entry.value);
    lock.lock();
    auto done = find(all.entries, context, entry.key);
    if (done != all.entries.end()) all.entries.erase(done);
    g_generation.fetch_add(1, std::memory_order_release);
  }
}

}  // namespace bf::abi
