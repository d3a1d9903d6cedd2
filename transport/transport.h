// Transports: how frames and bulk bytes travel between a client process and its worker.
//
// A Link is what a session uses: two ordered byte streams (calls, and the side stream for callbacks) and a Bulk mover.
// tcp, shm, rdma and loopback implement it. A transport advertises its limits and the layer above adapts.
// Nothing here knows CUDA or protobuf. All functions are safe to call from any thread unless they say otherwise.
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/limits.h"
#include "base/status.h"
#include "transport/thread.h"

namespace bf::transport {

// An ordered, reliable byte stream to one peer.
class Stream {
 public:
  virtual ~Stream() = default;

  // Sends every byte of `parts`. Blocks while the peer does not take them. One sender at a time (the caller's lock).
  // kUnavailable once the peer is gone or shut() was called.
  virtual Status send(std::span<const iovec> parts) = 0;

  // Receives 1..buffer.size() bytes; 0 means the peer closed in order. Sleeps until there are any. One receiver at a time.
  virtual Result<size_t> receive(std::span<std::byte> buffer) = 0;

  // Has something come for receive()? Also its end or its failure. The receiver's, who polls with it (await_ready()).
  virtual bool ready() = 0;

  // Sleeps until ready(), or for less. For one thread that is not the receiver: who is may receive meanwhile what ready() told it of.
  virtual void wait_until_ready() = 0;

  // Makes every pending and later send/receive here, and soon at the peer, fail. Idempotent, never blocks.
  virtual void shut() noexcept = 0;
};

// For a receiver: polls until the stream is ready(), `look` is over, or `leave()` says so; true for the first.
template <typename Leave>
bool await_ready(Stream& stream, LookOut look, Leave leave) {
  for (Blink blink; !look.over() && !leave(); blink.pause())
    if (stream.ready()) return true;
  return false;
}
inline bool await_ready(Stream& stream, LookOut look) {
  return await_ready(stream, look, [] { return false; });
}

// One piece of a bulk transfer. `sequence` counts the blocks of one direction of a link, from 0, in send order.
struct Block {
  uint64_t sequence = 0;
  uint64_t transfer = 0;  // the sender's id of the transfer
  uint64_t offset = 0;    // of this block in the transfer
  uint32_t bytes = 0;     // 1..kBulkBlockBytes
};

// The blocks of a transfer of so many bytes are of this size, but for the last. A small one is cut finer, so that all channels
// carry a part of it: one connection moves a third of what four do.
size_t bulk_block_bytes(size_t transfer_bytes);

// Where incoming bulk bytes go. Called on transport threads, for one block at a time per channel, possibly for several
// blocks at once; never called after Bulk::stop() returned.
class BulkSink {
 public:
  virtual ~BulkSink() = default;

  // The final place of the block, or nullptr: land it in the ring. Must not block. Only asked by transports that can
  // place (Limits::places). Everything in `block` is the peer's claim: answer kReject for what was never agreed.
  virtual std::byte* place(const Block& block) noexcept = 0;

  // The bytes lie at `data`: the address place() gave, or a ring slot. A ring slot stays the sink's until it calls
  // Bulk::release(block) (from any thread, any order). Must not block for long. False: the block was never agreed;
  // the link is shut.
  virtual bool landed(const Block& block, std::byte* data) noexcept = 0;

  // The link failed or the peer left; no more blocks come. Called at most once.
  virtual void lost(const Status& why) noexcept = 0;
};

// place() returns this to refuse a block; the link is shut.
inline std::byte* const kReject = reinterpret_cast<std::byte*>(1);

// Moves large byte ranges beside the call stream, cut into blocks, striped over channels, with a landing ring of
// Limits::ring_blocks slots of kBulkBlockBytes at the receiver. Flow control: block `s` may enter the ring only when
// every block below `s - ring_blocks + 1` has been released, so a receiver that consumes in sequence order never
// deadlocks. Blocks that were placed (place() != nullptr) count as released when landed() returns.
class Bulk {
 public:
  virtual ~Bulk() = default;

  // Starts delivering into `sink` (kept until stop()). Call once, before any send.
  virtual void start(BulkSink& sink) = 0;

  // Queues `bytes` at `data` as transfer `transfer` and returns the sequence number after its last block. Never waits for
  // the peer. Block sequence numbers follow the order of send() calls. `sent` runs once on a transport thread when the
  // bytes at `data` are no longer needed (also, with an error, when the link fails).
  virtual uint64_t send(uint64_t transfer, const void* data, size_t bytes, std::function<void(const Status&)> sent) = 0;

  // Gives a ring slot back.
  virtual void release(const Block& block) = 0;

  // Tells of memory that stays mapped and will be sent from more than once (pinned memory), until forget(): a transport
  // that registers memory may then send without a copy. Never needed for correctness; again is no harm.
  virtual void remember(const void* data, size_t bytes) {
    (void)data;
    (void)bytes;
  }
  // The same for memory of a GPU, handed over as a dma-buf that begins at `data`: true if send() may be given addresses in it
  // until forget(), which nothing on this host could read otherwise.
  virtual bool remember_device(const void* data, size_t bytes, int dmabuf) {
    (void)data;
    (void)bytes;
    (void)dmabuf;
    return false;
  }
  // Before the memory goes; `data` as remembered.
  virtual void forget(const void* data) { (void)data; }

  // The landing ring: the worker registers it with the driver, so that copies run straight from it. Empty if the
  // transport always places.
  virtual std::span<std::byte> ring() = 0;

  // Stops threads; pending sends end with kUnavailable. Returns when no callback runs any more.
  virtual void stop() noexcept = 0;
};

struct Limits {
  const char* name = "";      // "tcp", "shm", "rdma", "loopback"
  bool same_host = false;
  bool places = false;        // asks BulkSink::place
  uint32_t ring_blocks = limits::kBulkBlocks;
  uint32_t bulk_channels = 1;
  bool same_process = false;  // both ends are: they have one memory
};

// What a session uses. Destroying a link shuts it.
class Link {
 public:
  virtual ~Link() = default;
  virtual Stream& calls() = 0;
  virtual Stream& side() = 0;
  virtual Bulk& bulk() = 0;
  virtual const Limits& limits() const = 0;
  // A file of kSharedBytes that both ends may map (proto/shared_memory.h), or -1. The client gives out what lies in
  // it; it cannot shrink, and pages that nobody uses take no memory.
  virtual int shared_memory() const { return -1; }
  // Shuts all streams and stops bulk from delivering. Idempotent; never blocks.
  virtual void shut() noexcept = 0;
  // What the link opened besides the sockets it was made from: a forked child closes its copies.
  virtual std::vector<int> descriptors() const { return {}; }
};

// --- Establishing links ------------------------------------------------------------------------------------------------

// "host:port", "[v6]:port", "tcp://host:port", or "unix:NAME" (abstract socket NAME).
struct Address {
  std::string host;
  uint16_t port = 0;
  std::string unix_name;  // not empty: an abstract Unix socket
  std::string to_string() const;
};
Result<Address> parse_address(const std::string& text, uint16_t default_port);

// A connected socket (TCP_NODELAY, close-on-exec). Tries every address a name resolves to. kUnavailable or kTimeout.
Result<Fd> dial(const Address& address, std::chrono::milliseconds timeout);

// A listening socket (close-on-exec, non-blocking). kDenied/kInvalid/kInternal with what to do.
Result<Fd> listen(const Address& address, int backlog);

enum class End : bool { kClient, kWorker };

// tcp: `calls`, `side` and at least one bulk connection, all connected to the same peer. Of several bulk connections the client
// sends on the first half and the worker on the others: who sends on a socket holds its lock, and who receives there would wait.
std::unique_ptr<Link> make_tcp_link(Fd calls, Fd side, std::vector<Fd> bulk, End end);
// The same with TLS 1.3 on every connection, by keys made of the session's (proto/secrets.h). kDenied if the peer does
// not have it.
Result<std::unique_ptr<Link>> make_tls_link(Fd calls, Fd side, std::vector<Fd> bulk, std::string_view session_key,
                                            End end, std::chrono::milliseconds timeout);

// shm: over one connected Unix socket. The worker offers (makes the memfd and sends it), the client accepts.
// The socket stays open for as long as the link lives: its hang-up is how a dead peer is noticed.
// Everything read from the shared segment is the peer's claim and is bounded on every access.
Result<std::unique_ptr<Link>> offer_shm_link(Fd socket);
Result<std::unique_ptr<Link>> accept_shm_link(Fd socket, std::chrono::milliseconds timeout);

// loopback: two ends in one process, the reference implementation, with faults.
struct Faults {
  std::chrono::microseconds delay{0};     // added to every delivery
  bool bulk_backwards = false;            // of the blocks that are under way the newest arrives first
  size_t split_bytes = 0;                 // receive() returns at most this many bytes; 0: no limit
  uint64_t cut_after_bytes = 0;           // the link fails after so many stream bytes; 0: never
  uint64_t corrupt_at_byte = UINT64_MAX;  // this byte of the calls stream is inverted on its way
};
struct LoopbackPair {
  std::unique_ptr<Link> client;
  std::unique_ptr<Link> worker;
};
LoopbackPair make_loopback(const Faults& to_worker = {}, const Faults& to_client = {});

}  // namespace bf::transport
