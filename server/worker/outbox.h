// Everything the worker sends on the call stream, and the bytes of device-to-host copies.
//
// A copy's bytes lie in pinned staging, behind a fence. A piece whose fence is done is *finished*. One lock covers
// "take the finished pieces, send them, send this reply", so a reply that lets the client observe completion always
// travels behind the data: small pieces as Data frames before it on the same stream, large ones as bulk blocks below
// its watermark. The receiving side never needs this lock, so it may be held while a send blocks.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "proto/control.h"
#include "proto/frame.h"
#include "server/worker/fences.h"
#include "server/worker/staging.h"
#include "transport/transport.h"

namespace bf::server {

class Outbox {
 public:
  // The hold that a piece has on its slot. When its bytes have left, the slot goes to whom it was promised, or back.
  class Tenure {
   public:
    // The next copy into the slot waits in its stream at `gate`. False: too late, the slot went back.
    bool promise(const Fences::Fence& gate);
    // That copy does not come. False: too late, the slot is the caller's.
    bool take_back();
    bool over() const;

   private:
    friend class Outbox;
    Fences::Fence end();  // the gate, if there is one

    mutable std::mutex mutex_;
    bool over_ = false;
    Fences::Fence gate_;
  };

  // Bytes of a ticket on their way from the device.
  struct Piece {
    uint64_t ticket = 0;
    uint64_t offset = 0;  // of these bytes in the ticket; a multiple of kBulkBlockBytes
    uint32_t bytes = 0;
    bool bulk = false;  // else a Data frame
    StagingSlot slot;
    Fences::Fence fence{};
    std::shared_ptr<Tenure> tenure{};  // none: the slot goes back
    std::shared_ptr<Tenure> before{};  // of who promised the slot,
    Fences::Fence gate{};              // and where the stream waits for it
  };
  // How far data must have landed before something may be observed.
  struct Mark {
    uint64_t watermark = 0;  // bulk blocks
    uint64_t data_frames = 0;
  };

  // `lost` runs when a send fails.
  Outbox(transport::Link& link, Staging& staging, Fences& fences, std::function<void(const Status&)> lost)
      : link_(link), staging_(staging), fences_(fences), lost_(std::move(lost)) {}

  void add(const Piece& piece);
  size_t pieces_open() const { return open_.load(std::memory_order_acquire); }

  // Sends finished pieces; what is sent then is what has to land before anything that the caller tells the client.
  Mark flush();
  // The same, then the reply to the outstanding call of `lane`. `tells`: the client may take it for a sign that copies are done; else
  // it need not wait for bytes that are on their way.
  void reply(uint16_t opcode, uint32_t lane, uint32_t result, std::span<const std::byte> outs, std::span<const std::byte> payload,
             bool tells);
  void notice(Opcode opcode, std::string_view body, std::span<const std::byte> payload = {});

  // What device code changed in mirrored memory. Counts as a data frame.
  void host_changes(std::span<const std::byte> patches);

  // The context is broken: open pieces never finish, and nobody may see their bytes.
  void abandon();
  // The session ends: no stream waits at a gate for a slot any more.
  void stop();

  uint64_t bytes_sent() const { return bytes_sent_.load(std::memory_order_relaxed); }

 private:
  void push_finished_locked();
  void send_locked(std::span<const iovec> parts);
  void forget(std::vector<Piece>& pieces);
  void leave(const StagingSlot& slot, Tenure* tenure);

  transport::Link& link_;
  Staging& staging_;
  Fences& fences_;
  std::function<void(const Status&)> lost_;

  std::mutex pieces_mutex_;  // taken inside send_mutex_, never around it
  std::vector<Piece> pieces_;
  bool stopped_ = false;
  std::atomic<size_t> open_{0};

  std::mutex send_mutex_;
  Mark mark_;
  std::vector<Piece> finished_;   // scratch
  std::vector<iovec> parts_;      // scratch: gathered, not yet sent
  std::vector<std::byte> heads_;  // scratch: headers and bodies of Data frames
  std::atomic<uint64_t> bytes_sent_{0};
};

}  // namespace bf::server
