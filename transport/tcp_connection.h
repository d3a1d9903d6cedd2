// One connected socket of a tcp link, plain or with TLS over it.
//
// The socket blocks: hang_up() wakes every thread in it, and the descriptor is closed only with the object, after all
// threads are gone. One thread may send while another receives. With TLS both take turns in the engine, but never wait
// for the network there.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "transport/thread.h"
#include "transport/tls.h"
#include "transport/wake.h"

namespace bf::transport {

inline Status cut_off() { return {StatusCode::kUnavailable, "the peer left in the middle of a bulk block"}; }

class TcpConnection {
 public:
  explicit TcpConnection(Fd fd);
  TcpConnection(TcpConnection&&) = default;

  // Both ends call this, before anything else. kDenied: the other end does not have the key.
  Status secure(std::string_view key, bool server, std::chrono::steady_clock::time_point deadline);

  // For bulk: send() lets the kernel hold little that is not on its way. What it holds beyond that nobody else can send, while the
  // peer may be slow to take from this connection and quick on others.
  void hold_little() noexcept;

  // kUnavailable if the peer closed the connection, another code if the network or this machine failed.
  Status send(std::span<const iovec> parts);
  // 1..size bytes; 0 at an orderly end.
  Result<size_t> receive(std::span<std::byte> buffer);
  bool encrypted() const { return cipher_ != nullptr; }
  // As receive(), at once; nothing if there is nothing. Not for an encrypted connection.
  std::optional<Result<size_t>> receive_now(std::span<std::byte> buffer);
  // Would receive() find something? With TLS it may be the beginning of a record only, for the rest of which receive() waits.
  bool ready();
  // Sleeps until it would, perhaps for less; another thread may receive meanwhile.
  void wait_until_ready();
  // All of them; false at an orderly end before the first.
  Result<bool> receive_all(std::span<std::byte> buffer);
  // The same for memory that a device reads next: where the processor can, its caches are left out, for a device that has to fetch
  // bytes from the cache of a processor that is at work there slows both.
  Result<bool> receive_all_for_device(std::span<std::byte> buffer);
  // Ends the connection both ways, so that a peer blocked in a send notices, too. Whoever still receives may then see
  // bytes with a gap before them: set a flag first, and look at it after every receive.
  void hang_up() noexcept;

 private:
  Status send_encrypted(std::span<const iovec> parts);
  Result<size_t> receive_encrypted(std::span<std::byte> buffer);

  struct Cipher {
    std::mutex mutex;  // of the engine
    std::unique_ptr<Tls> tls;
    std::vector<std::byte> raw;       // the receiver's: what the engine has not taken yet lies here
    std::atomic<bool> more{false};    // the engine holds bytes
    std::atomic<bool> waited{false};  // somebody sleeps until there is something, or is about to
    Wake left;                        // what he sleeps on, beside the socket
    std::string sending;              // the sender's
  };

  Fd fd_;
  std::unique_ptr<Cipher> cipher_;    // none: plain
  std::unique_ptr<std::byte[]> part_;  // receive_all_for_device()'s
};

}  // namespace bf::transport
