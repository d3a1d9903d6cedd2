// Context-local storage: every copy of the CUDA runtime keeps its per-context state here, under a key of its own, and
// is told by a destructor when the context goes away. Purely client-side. get() is on the path of every runtime call,
// so a thread remembers its last answers and takes no lock while nobody changes anything.
#pragma once

#include "proto/abi/driver_hooks.h"

namespace bf::abi {

using ContextDestructor = void (*)(CUcontext context, void* key, void* value);

// A NULL context (or -1) is the current one; none, or a dead one: CUDA_ERROR_INVALID_CONTEXT.
// A key that is there already: CUDA_ERROR_INVALID_HANDLE, and the old value stays. A dead context, named:
// CUDA_ERROR_CONTEXT_IS_DESTROYED.
CUresult storage_put(CUcontext context, void* key, void* value, ContextDestructor destructor) noexcept;
// Does not call the destructor. A missing key: CUDA_ERROR_INVALID_HANDLE.
CUresult storage_remove(CUcontext context, void* key) noexcept;
CUresult storage_get(void** value, CUcontext context, void* key) noexcept;

// For the owner of the hooks: the context has just died (context_state() says kDead, it may still be current). Runs the
// destructors on this thread, last put first, without holding a lock; the entry of the running destructor can still be
// read. Call before cuCtxDestroy, cuDevicePrimaryCtxReset or the last cuDevicePrimaryCtxRelease returns; not at exit.
void storage_context_died(CUcontext context) noexcept;

}  // namespace bf::abi
