// What a worker tells of itself for a trace (docs/tracing.md). A client asks with an empty kTrace frame on the side
// stream; from the first one on the worker records, and answers each with a kTrace frame whose payload is a TraceHead and
// then the oldest records, at most kTraceRecords of them. More are there if it holds that many.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/limits.h"

namespace bf {

struct TraceRecord {
  enum Kind : uint16_t {
    kRun = 0,    // a lane's twin ran the call
    kBytes = 1,  // within it: it waited for bytes of the client
  };
  uint64_t begin_ns = 0, end_ns = 0;  // the worker's monotonic clock
  uint32_t lane = 0;
  uint16_t opcode = 0;
  uint16_t kind = kRun;
};
static_assert(sizeof(TraceRecord) == 24);

struct TraceHead {
  uint64_t now_ns = 0;   // the worker's clock when it answered
  uint64_t dropped = 0;  // records lost so far because nobody asked in time
};

inline constexpr size_t kTraceRecords = (limits::kControlBodyBytes - sizeof(TraceHead)) / sizeof(TraceRecord);

}  // namespace bf
