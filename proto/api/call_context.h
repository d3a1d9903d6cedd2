// One call on the worker, as generated dispatch code (api/dispatch_*.cc) and hand-written handlers see it.
// The worker derives from Call and supplies the handle tables; tests derive a fake.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/handle.h"
#include "proto/api/arena.h"
#include "proto/api/cuda_api.h"
#include "proto/frame.h"

namespace bf {
struct DriverApi;  // generated: api/driver_api.h
}

namespace bf::server {

class Session;  // the worker's own; hand-written handlers reach it through Call::session, generated code never does

class Call {
 public:
  Call(Session* session, const DriverApi& driver) : session(session), driver(driver) {}
  virtual ~Call() = default;

  Session* const session;
  const DriverApi& driver;
  Arena arena;  // reset by the worker before each call

  // The frame. `body` and `payload` stay valid until run() returned.
  uint16_t opcode = 0;
  uint16_t flags = 0;
  uint32_t lane = 0;
  std::span<const std::byte> body;
  std::span<const std::byte> payload;
  bool per_thread() const { return flags & kPerThread; }

  // The answer, set by run(). `outs` goes behind the ReplyHead; both spans stay valid until the arena is reset (or, for
  // a payload that a handler set, for as long as that handler promises).
  CUresult result = CUDA_SUCCESS;
  std::span<const std::byte> outs;
  std::span<const std::byte> reply_payload;
  const char* violation = nullptr;  // what was wrong, when run() says kViolation

  // --- Handle tables. Values come from the peer: any number is possible. Real handles are pointers (or, for
  // CUmemGenericAllocationHandle, numbers) as 64 bits. Called from all lanes at once.

  // The real handle stored under `value` if it lives and has this kind. NULL and the streams 1 and 2 never get here.
  virtual bool resolve(HandleKind kind, uint64_t value, uint64_t& real) = 0;

  // Stores `real` under a value the client made. False if the value is not of this kind, not client-made or in use:
  // a violation.
  virtual bool register_new(HandleKind kind, uint64_t value, uint64_t real) = 0;

  // The object died.
  virtual void erase(HandleKind kind, uint64_t value) = 0;

  // The call is refused before its handler ran: the bytes of this bulk transfer have no reader.
  virtual void drop_transfer(uint64_t transfer) = 0;

  // The value under which the client knows `real`; one made by the worker if it does not know it yet. 0 for NULL, and
  // when the table is full.
  virtual uint64_t value_of(HandleKind kind, uint64_t real) = 0;
};

enum class Outcome : uint8_t {
  kDone,       // result, outs and reply_payload are set
  kViolation,  // the body breaks the protocol: end the session
};

struct Dispatch {
  const char* name = nullptr;  // the row's
  bool post = false;           // no reply wanted; a result other than 0 becomes an AsyncError
  Outcome (*run)(Call&) = nullptr;
};

// nullptr: no such opcode, a violation. (Generated: api/dispatch.cc)
const Dispatch* lookup(uint16_t opcode);

}  // namespace bf::server
