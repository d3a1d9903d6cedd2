// What travels on a bulk connection of tcp: a 32-byte little-endian header, then for a block its payload. Both
// directions of a connection are used: blocks one way, and credits for the blocks of the other way between them.
#pragma once

#include <cstdint>

#include "transport/bulk_queue.h"

namespace bf::transport {

enum class TcpKind : uint32_t {
  kBlock = 1,   // `bytes` of payload follow
  kCredit = 2,  // every block below `sequence` was released; the other fields are 0
};

struct TcpHeader {
  uint64_t sequence = 0;
  uint64_t transfer = 0;
  uint64_t offset = 0;
  uint32_t bytes = 0;
  TcpKind kind = TcpKind::kBlock;
};
static_assert(sizeof(TcpHeader) == 32 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);

inline TcpHeader tcp_block_header(const Block& block) {
  return {block.sequence, block.transfer, block.offset, block.bytes, TcpKind::kBlock};
}
inline TcpHeader tcp_credit_header(uint64_t released) { return {released, 0, 0, 0, TcpKind::kCredit}; }

// What a received header means, once it is found true.
struct TcpEvent {
  bool is_block = false;  // else a credit, which the queue has taken
  Block block;
};

// Judges a header against what was sent and received so far. kInvalid: the peer is broken, the link must be shut.
inline Result<TcpEvent> accept_tcp_header(const TcpHeader& header, SendQueue& queue, ReceiveWindow& window) {
  if (header.kind == TcpKind::kBlock) {
    Block block{header.sequence, header.transfer, header.offset, header.bytes};
    if (window.admit(block)) return TcpEvent{true, block};
    return Status(StatusCode::kInvalid, "the peer sent a bulk block out of bounds, out of its window, or twice");
  }
  if (header.kind == TcpKind::kCredit && header.transfer == 0 && header.offset == 0 && header.bytes == 0) {
    if (queue.credit(header.sequence)) return TcpEvent{};
    return Status(StatusCode::kInvalid, "the peer released bulk blocks that it never got");
  }
  return Status(StatusCode::kInvalid, "the peer sent an unknown bulk header");
}

}  // namespace bf::transport
