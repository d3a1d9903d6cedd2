// The frame: one unit on every transport. 16-byte little-endian header, protobuf body, raw payload.
// docs/protocol.md is the specification for other implementations; this header is the only definition in code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/limits.h"

namespace bf {

struct FrameHeader {
  uint32_t body_bytes = 0;
  uint32_t payload_bytes = 0;
  uint16_t opcode = 0;
  uint16_t flags = 0;
  uint32_t lane = 0;
};
static_assert(sizeof(FrameHeader) == 16 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

enum FrameFlags : uint16_t {
  kReply = 1 << 0,      // answers the outstanding call of `lane`
  kPost = 1 << 1,       // no reply wanted
  kPerThread = 1 << 2,  // the `_ptds`/`_ptsz` twin of a function without a stream parameter
};

// Opcodes 1..255: control and server-initiated frames. 256..: calls (proto/api/opcodes.lock).
enum class Opcode : uint16_t {
  // Client -> bfserver, and the answers (same opcode with kReply). Bodies: proto/control.proto.
  kAttach = 1,
  kJoin = 2,
  kLease = 3,      // CommitRequest -> LeaseReply
  kList = 4,
  kHealth = 5,
  kPing = 6,       // answered with the same payload: latency
  kBandwidth = 7,  // bulk echo for netperf, see control.proto
  kReading = 9,    // what NVML says of the GPUs of a lease
  kError = 8,      // bfserver -> client: ErrorReply, then the connection closes
  kSessionLost = 10,   // bfserver -> who keeps a lease: SessionLost, unasked
  kSettle = 11,        // no body; answered once no session of the connection's lease is left
  kReserve = 16,       // LeaseRequest -> ReserveReply
  kHold = 17,          // HoldRequest -> LeaseReply
  kChallenge = 18,     // bfserver -> client, answer to kAttach
  kProof = 19,         // client -> bfserver; answered by kAttach
  kAuthenticate = 20,  // AuthRequest -> AuthReply
  kManage = 21,        // ManageRequest (+ a backup) -> ManageReply + JSON payload
  // Worker -> client on the call stream.
  kData = 32,        // DataNotice + payload: bytes of a device-to-host copy
  kAsyncError = 33,  // AsyncErrorNotice: a post failed
  kPrint = 34,       // PrintNotice + payload: what device code printed (1 stdout, 2 stderr)
  kHostChanges = 35, // payload: patches of mirrored memory (proto/mirror.h). Also client -> worker on the side stream
  // Side stream: worker -> client kCallback, client -> worker kCallbackDone (CallbackNotice); data between them.
  kCallback = 48,
  kCallbackDone = 49,
  kHostData = 50,  // both ways: HostData + payload
  kTrace = 51,     // client -> worker: nothing; worker -> client: payload of records (proto/trace.h)
  kFirstCall = 256,
};

// True if the header keeps every bound of base/limits.h; the decoder's first violation ends the session.
inline bool frame_header_ok(const FrameHeader& h) {
  return h.body_bytes <= limits::kBodyBytes && h.payload_bytes <= limits::kPayloadBytes && h.lane < limits::kLanes &&
         h.opcode != 0;
}

// The largest frame of the side stream: data of staging.
inline constexpr size_t kSideFrameBytes = sizeof(FrameHeader) + limits::kControlBodyBytes + limits::kInlineBytes;

}  // namespace bf
