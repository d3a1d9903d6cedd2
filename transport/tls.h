// TLS 1.3 (OpenSSL) as an engine without sockets: bytes of the peer go in, bytes for the peer come out. Whoever owns the
// socket moves them: the daemon on its event loop, tools with deadlines, sessions on blocking sockets.
//
// Two ways to know the peer. Sessions: both sides hold a key (proto/secrets.h), used as pre-shared key with an ephemeral
// Diffie-Hellman exchange; without the key there is no handshake. Control connections: the server shows a certificate,
// and the client knows its pool's authority by the SHA-256 of the authority's public key, the pin.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

struct ssl_st;
struct ssl_ctx_st;

namespace bf::transport {

class Tls {
 public:
  static constexpr size_t kKeyBytes = 32;
  static constexpr size_t kPinBytes = 32;

  // What a server shows; shared by its connections. kInvalid says what is wrong with the files' contents (PEM).
  class Certificate {
   public:
    static Result<std::shared_ptr<Certificate>> parse(const std::string& chain_pem, const std::string& key_pem);
    ~Certificate();
    Certificate(const Certificate&) = delete;

   private:
    friend class Tls;
    explicit Certificate(ssl_ctx_st* context) : context_(context) {}
    ssl_ctx_st* context_;
  };

  // The pin of the first certificate in a PEM text; nothing if there is none.
  static std::optional<std::string> pin_of(const std::string& pem);

  static Result<std::unique_ptr<Tls>> with_key(std::string_view key, bool server);
  static Result<std::unique_ptr<Tls>> with_certificate(const Certificate& certificate);
  static Result<std::unique_ptr<Tls>> with_pin(std::string_view pin);
  ~Tls();
  Tls(const Tls&) = delete;

  // Bytes from the peer. They must stay where they are until handshake() or read() wants more.
  void feed(std::span<const std::byte> bytes);
  // Bytes for the peer; the caller takes them away after each of the functions below.
  std::string& out() { return out_; }

  // True once it is done, false while it waits for the peer. kDenied: the peer is not who it should be, with the reason;
  // kInvalid: it speaks something else.
  Result<bool> handshake();
  // Plain bytes: 1..size, or 0 when it wants more of the peer's. kUnavailable once the peer has said goodbye, kInvalid
  // for bytes that somebody changed.
  Result<size_t> read(std::span<std::byte> buffer);
  // Bytes of the peer that read() has not given yet; perhaps not enough of them.
  bool holds_more() const;
  Status write(std::span<const iovec> parts);

  // Changes the sending key after so many bytes: AES-GCM is good for less than 2^24.5 full records. For tests.
  void set_rekey_bytes(uint64_t bytes) { rekey_bytes_ = bytes; }

 private:
  explicit Tls(ssl_st* ssl);
  Status failure(const char* what, int result);

  friend struct TlsCallbacks;
  ssl_st* ssl_;
  std::string key_;  // or the pin
  bool keyed_ = false;
  bool shaken_ = false;  // hands
  std::string refusal_;  // why the peer's certificate will not do
  std::span<const std::byte> in_;
  std::string out_;
  uint64_t rekey_bytes_ = uint64_t{1} << 37;  // 2^23 records
  uint64_t sent_bytes_ = 0;                   // since the last change
};

}  // namespace bf::transport
