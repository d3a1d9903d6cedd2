// Handles are numbers, never addresses: kind in bits 40.., a counter below. They are never reused, so a stale, foreign
// or invented handle is always recognised. A lookup returns shared ownership: an object that another thread destroys
// stays alive until its last user is done.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

namespace bf::softgpu {

enum class ObjectKind : uint8_t {
  kContext = 5,
  kStream,
  kEvent,
  kModule,
  kLibrary,
  kFunction,
  kKernel,
  kArray,
  kMipmappedArray,
  kGraph,
  kGraphNode,
  kGraphExec,
  kMemoryPool,
  kUserObject,
  kLinkState,
  kPhysicalMemory,
  kTexture,
  kSurface,
  kGreenContext,
  kResourceDescriptor,
};

inline ObjectKind kind_of_handle(uint64_t handle) { return ObjectKind(handle >> 40); }

// Objects of one kind. `Handle` is NVIDIA's opaque pointer (or integer) type. Thread-safe.
template <typename Handle, typename T, ObjectKind kKind>
class Registry {
 public:
  // Gives `object` a handle and holds it; `handle_of` is set first, so that it is valid before anybody can look it up.
  Handle add(std::shared_ptr<T> object) {
    std::unique_lock lock(mutex_);
    uint64_t value = (uint64_t(kKind) << 40) | (++counter_ << 4);
    object->handle = (Handle)value;
    objects_.emplace(value, std::move(object));
    return (Handle)value;
  }
  std::shared_ptr<T> find(Handle handle) const {
    std::shared_lock lock(mutex_);
    auto it = objects_.find((uint64_t)handle);
    return it == objects_.end() ? nullptr : it->second;
  }
  // The object that was removed, or nullptr if there is none.
  std::shared_ptr<T> remove(Handle handle) {
    std::unique_lock lock(mutex_);
    auto it = objects_.find((uint64_t)handle);
    if (it == objects_.end()) return nullptr;
    std::shared_ptr<T> object = std::move(it->second);
    objects_.erase(it);
    return object;
  }
  // `visit` must not use this registry.
  template <typename Visit>
  void for_each(Visit visit) const {
    std::shared_lock lock(mutex_);
    for (const auto& [value, object] : objects_) visit(*object);
  }
  // Removes and returns all objects for which `predicate(object)` holds.
  template <typename Predicate>
  std::vector<std::shared_ptr<T>> remove_if(Predicate predicate) {
    std::vector<std::shared_ptr<T>> removed;
    std::unique_lock lock(mutex_);
    for (auto it = objects_.begin(); it != objects_.end();) {
      if (predicate(*it->second)) {
        removed.push_back(std::move(it->second));
        it = objects_.erase(it);
      } else {
        ++it;
      }
    }
    return removed;
  }

 private:
  mutable std::shared_mutex mutex_;
  std::unordered_map<uint64_t, std::shared_ptr<T>> objects_;
  uint64_t counter_ = 0;
};

}  // namespace bf::softgpu
