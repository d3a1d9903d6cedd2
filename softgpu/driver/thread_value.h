// A value of each thread that ends with its thread, except the main thread's: that one stays, because programs call CUDA
// from exit handlers, which run after the main thread's thread-local destructors.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

namespace bf::softgpu {

// `Tag` tells values of the same type apart.
template <typename T, typename Tag>
T& thread_value() {
  thread_local T* value = nullptr;
  struct Keeper {
    T* const owned;
    ~Keeper() {
      if (syscall(SYS_gettid) == getpid()) return;
      value = nullptr;
      delete owned;
    }
  };
  if (!value) {
    value = new T;
    thread_local Keeper keeper{value};
  }
  return *value;
}

}  // namespace bf::softgpu
