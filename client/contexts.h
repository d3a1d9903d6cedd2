// Contexts as the client keeps them: handles, lives, each thread's stack.
//
// The primary context of a device has one handle for the life of the process, whether it is retained or not. A context
// has lives: an odd epoch is a life, and everything made in it (streams, modules, memory, local storage) dies with it.
#pragma once

#include "client/state.h"

namespace bf::client {

// Once, when the session starts: the primary contexts' handles, and the devices' attributes by number.
void make_attribute_tables(const SessionSnapshot& snapshot);
void make_primary_contexts(const SessionSnapshot& snapshot);
uint64_t primary_context(int device);  // 0 for an unknown device

// The context that is current in the calling thread, 0 if none; it need not be alive.
inline uint64_t current_as_set() {
  ThreadState* thread = find_thread();
  return thread && !thread->contexts.empty() ? thread->contexts.back() : 0;
}
// The one whose are the objects that the thread makes: for a green context the primary one.
uint64_t current_context();
// The current context if it is a green one; 0 otherwise.
uint64_t current_green();

// A green context's CUcontext, its CUgreenCtx and the primary context.
void begin_green_context(uint64_t value, uint64_t green, uint64_t owner);
void end_green_context(uint64_t value);

// Makes `context` current for as long as the object lives.
class CurrentContext {
 public:
  explicit CurrentContext(uint64_t context) { this_thread().contexts.push_back(context); }
  ~CurrentContext() { this_thread().contexts.pop_back(); }
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;
};

// cuCtxGetId's number; given on first use, so that the first context used is 1.
uint64_t context_id(Context& context);

// What the twin should have current, told before the next call if it differs.
void use_current_context(ThreadState& thread);

}  // namespace bf::client
