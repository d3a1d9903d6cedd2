#include "transport/tls.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <cstring>
#include <ctime>

#include "base/openssl.h"

namespace bf::transport {

// OpenSSL calls these.
struct TlsCallbacks {
  static Tls* of(SSL* ssl) { return static_cast<Tls*>(SSL_get_app_data(ssl)); }

  static SSL_SESSION* session(SSL* ssl) {
    const unsigned char aes_128_gcm_sha256[] = {0x13, 0x01};
    auto& key = of(ssl)->key_;
    SSL_SESSION* session = SSL_SESSION_new();
    if (session != nullptr &&
        SSL_SESSION_set1_master_key(session, reinterpret_cast<const unsigned char*>(key.data()), key.size()) &&
        SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, aes_128_gcm_sha256)) &&
        SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION))
      return session;
    SSL_SESSION_free(session);
    return nullptr;
  }

  static constexpr std::string_view kIdentity = "backfield";

  static int use_key(SSL* ssl, const EVP_MD*, const unsigned char** identity, size_t* bytes, SSL_SESSION** made) {
    *identity = reinterpret_cast<const unsigned char*>(kIdentity.data());
    *bytes = kIdentity.size();
    *made = session(ssl);
    return *made != nullptr;
  }

  static int find_key(SSL* ssl, const unsigned char* identity, size_t bytes, SSL_SESSION** made) {
    *made = nullptr;
    if (std::string_view(reinterpret_cast<const char*>(identity), bytes) == kIdentity) *made = session(ssl);
    return 1;
  }

  static int read(BIO* bio, char* to, int bytes) {
    auto& in = static_cast<Tls*>(BIO_get_data(bio))->in_;
    BIO_clear_retry_flags(bio);
    if (in.empty()) {
      BIO_set_retry_read(bio);
      return -1;
    }
    size_t count = std::min(in.size(), size_t(bytes));
    memcpy(to, in.data(), count);
    in = in.subspan(count);
    return int(count);
  }

  static int write(BIO* bio, const char* from, int bytes) {
    static_cast<Tls*>(BIO_get_data(bio))->out_.append(from, size_t(bytes));
    return bytes;
  }

  static long control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH; }

  // The chain is good if its authority has the pinned key, and the rest follows from that by the usual rules. Names do
  // not matter: whoever has a certificate of the pool's authority is a server of the pool.
  static int verify(X509_STORE_CTX* store, void*) {
    auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    Tls& tls = *of(ssl);
    STACK_OF(X509)* shown = X509_STORE_CTX_get0_untrusted(store);
    X509* authority = nullptr;
    for (int i = 0; i < sk_X509_num(shown); i++)
      if (tls.key_ == pin_of(sk_X509_value(shown, i))) authority = sk_X509_value(shown, i);
    if (authority == nullptr) {
      tls.refusal_ = "its certificate is not of the pool that the token is for; is this the right server, or the right token?";
      X509_STORE_CTX_set_error(store, X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN);
      return 0;
    }
    STACK_OF(X509)* trusted = sk_X509_new_null();
    sk_X509_push(trusted, authority);
    X509_STORE_CTX_set0_trusted_stack(store, trusted);
    X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(store), X509_V_FLAG_PARTIAL_CHAIN);
    int good = X509_verify_cert(store);
    if (good != 1) tls.refusal_ = explain(X509_STORE_CTX_get_error(store), X509_STORE_CTX_get_current_cert(store));
    X509_STORE_CTX_set0_trusted_stack(store, nullptr);
    sk_X509_free(trusted);
    return good == 1;
  }

  static std::string pin_of(X509* certificate) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned bytes = 0;
    unsigned char* der = nullptr;
    int der_bytes = i2d_PUBKEY(X509_get0_pubkey(certificate), &der);
    if (der_bytes > 0) EVP_Digest(der, size_t(der_bytes), digest, &bytes, EVP_sha256(), nullptr);
    OPENSSL_free(der);
    return {reinterpret_cast<char*>(digest), bytes};
  }

  static std::string explain(int error, X509* certificate) {
    auto days = [&](const ASN1_TIME* time) {
      int days = 0, seconds = 0;
      ASN1_TIME_diff(&days, &seconds, nullptr, time);
      return std::to_string(std::abs(days)) + " days and " + std::to_string(std::abs(seconds) / 3600) + " hours";
    };
    if (error == X509_V_ERR_CERT_NOT_YET_VALID && certificate != nullptr)
      return "its certificate becomes valid in " + days(X509_get0_notBefore(certificate)) + ": one of the two clocks is wrong";
    if (error == X509_V_ERR_CERT_HAS_EXPIRED && certificate != nullptr)
      return "its certificate expired " + days(X509_get0_notAfter(certificate)) +
             " ago: restart bfserver to renew it, or correct this machine's clock";
    return std::string("its certificate is refused: ") + X509_verify_cert_error_string(error);
  }
};

namespace {

std::string last_error() {
  const char* reason = ERR_reason_error_string(ERR_peek_last_error());
  ERR_clear_error();
  return reason != nullptr ? reason : "unknown error";
}

SSL_CTX* make_context(const SSL_METHOD* method) {
  prepare_openssl();
  SSL_CTX* context = SSL_CTX_new(method);
  if (context == nullptr) return nullptr;
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  return context;
}

// Of sessions. One for both ends, never freed.
SSL_CTX* keyed_context() {
  static SSL_CTX* context = [] {
    SSL_CTX* made = make_context(TLS_method());
    if (made != nullptr) {
      SSL_CTX_set_ciphersuites(made, "TLS_AES_128_GCM_SHA256");
      SSL_CTX_set_verify(made, SSL_VERIFY_PEER, nullptr);  // trusting nobody: a certificate instead of the key fails
    }
    return made;
  }();
  return context;
}

SSL_CTX* pinned_context() {
  static SSL_CTX* context = [] {
    SSL_CTX* made = make_context(TLS_client_method());
    if (made != nullptr) {
      SSL_CTX_set_verify(made, SSL_VERIFY_PEER, nullptr);
      SSL_CTX_set_cert_verify_callback(made, TlsCallbacks::verify, nullptr);
    }
    return made;
  }();
  return context;
}

BIO_METHOD* bio_method() {
  static BIO_METHOD* method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "backfield");
    BIO_meth_set_read(made, TlsCallbacks::read);
    BIO_meth_set_write(made, TlsCallbacks::write);
    BIO_meth_set_ctrl(made, TlsCallbacks::control);
    return made;
  }();
  return method;
}

Status no_memory() { return {StatusCode::kInternal, "OpenSSL cannot be used: " + last_error()}; }

BIO* memory_bio(const std::string& text) { return BIO_new_mem_buf(text.data(), int(text.size())); }

}  // namespace

// --- certificates ----------------------------------------------------------------------------------------------------

Result<std::shared_ptr<Tls::Certificate>> Tls::Certificate::parse(const std::string& chain_pem,
                                                                  const std::string& key_pem) {
  SSL_CTX* context = make_context(TLS_server_method());
  if (context == nullptr) return no_memory();
  std::shared_ptr<Certificate> certificate(new Certificate(context));
  BIO* bio = memory_bio(chain_pem);
  bool first = true, good = true;
  while (X509* one = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr)) {
    good = good && (first ? SSL_CTX_use_certificate(context, one) : SSL_CTX_add1_chain_cert(context, one)) == 1;
    first = false;
    X509_free(one);
  }
  BIO_free(bio);
  ERR_clear_error();  // the end of the text
  if (first || !good) return Status{StatusCode::kInvalid, "the certificate is not in PEM form"};
  bio = memory_bio(key_pem);
  EVP_PKEY* key = PEM_read_bio_PrivateKey(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  good = key != nullptr && SSL_CTX_use_PrivateKey(context, key) == 1 && SSL_CTX_check_private_key(context) == 1;
  EVP_PKEY_free(key);
  if (!good) return Status{StatusCode::kInvalid, "the key does not belong to the certificate: " + last_error()};
  return certificate;
}

Tls::Certificate::~Certificate() { SSL_CTX_free(context_); }

std::optional<std::string> Tls::pin_of(const std::string& pem) {
  BIO* bio = memory_bio(pem);
  X509* certificate = PEM_read_bio_X509(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  if (certificate == nullptr) return std::nullopt;
  std::string pin = TlsCallbacks::pin_of(certificate);
  X509_free(certificate);
  return pin;
}

// --- engines ---------------------------------------------------------------------------------------------------------

Tls::Tls(ssl_st* ssl) : ssl_(ssl) {
  BIO* bio = BIO_new(bio_method());
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl, bio, bio);
  SSL_set_app_data(ssl, this);
}

Tls::~Tls() { SSL_free(ssl_); }

Result<std::unique_ptr<Tls>> Tls::with_key(std::string_view key, bool server) {
  BF_CHECK(key.size() == kKeyBytes);
  SSL* ssl = keyed_context() != nullptr ? SSL_new(keyed_context()) : nullptr;
  if (ssl == nullptr) return no_memory();
  std::unique_ptr<Tls> tls(new Tls(ssl));
  tls->key_ = key;
  tls->keyed_ = true;
  if (server) {
    SSL_set_accept_state(ssl);
    SSL_set_verify(ssl, SSL_VERIFY_NONE, nullptr);
    SSL_set_psk_find_session_callback(ssl, TlsCallbacks::find_key);
  } else {
    SSL_set_connect_state(ssl);
    SSL_set_psk_use_session_callback(ssl, TlsCallbacks::use_key);
  }
  return tls;
}

Result<std::unique_ptr<Tls>> Tls::with_certificate(const Certificate& certificate) {
  SSL* ssl = SSL_new(certificate.context_);
  if (ssl == nullptr) return no_memory();
  std::unique_ptr<Tls> tls(new Tls(ssl));
  SSL_set_accept_state(ssl);
  return tls;
}

Result<std::unique_ptr<Tls>> Tls::with_pin(std::string_view pin) {
  SSL* ssl = pinned_context() != nullptr ? SSL_new(pinned_context()) : nullptr;
  if (ssl == nullptr) return no_memory();
  std::unique_ptr<Tls> tls(new Tls(ssl));
  tls->key_ = pin;
  SSL_set_connect_state(ssl);
  return tls;
}

void Tls::feed(std::span<const std::byte> bytes) {
  BF_CHECK(in_.empty());
  in_ = bytes;
}

Status Tls::failure(const char* what, int result) {
  int error = SSL_get_error(ssl_, result);
  if (!refusal_.empty()) {
    ERR_clear_error();
    return {StatusCode::kDenied, refusal_};
  }
  if (error == SSL_ERROR_ZERO_RETURN) return {StatusCode::kUnavailable, "the peer has ended the connection"};
  unsigned long code = ERR_peek_last_error();
  int reason = ERR_GET_REASON(code);
  StatusCode status = StatusCode::kInvalid;
  // A wrong key shows itself as a binder that does not verify, or as no common way to go on.
  if (keyed_ && !shaken_) status = StatusCode::kDenied;
  if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST)
    return ERR_clear_error(), Status{StatusCode::kInvalid, std::string(what) + ": the peer does not speak TLS"};
  return {status, std::string(what) + ": " + last_error()};
}

Result<bool> Tls::handshake() {
  ERR_clear_error();
  int result = SSL_do_handshake(ssl_);
  if (result != 1) {
    if (SSL_get_error(ssl_, result) == SSL_ERROR_WANT_READ) return false;
    return failure("the TLS handshake failed", result);
  }
  if (keyed_ && !SSL_session_reused(ssl_))
    return Status{StatusCode::kDenied, "the peer does not use the key of this session"};
  return shaken_ = true;
}

Result<size_t> Tls::read(std::span<std::byte> buffer) {
  ERR_clear_error();
  size_t got = 0;
  int result = SSL_read_ex(ssl_, buffer.data(), buffer.size(), &got);
  if (result == 1) return got;
  if (SSL_get_error(ssl_, result) == SSL_ERROR_WANT_READ) return size_t{0};
  return failure("receiving over TLS failed", result);
}

bool Tls::holds_more() const { return !in_.empty() || SSL_has_pending(ssl_) == 1; }

Status Tls::write(std::span<const iovec> parts) {
  for (const iovec& part : parts) {
    if (part.iov_len == 0) continue;
    if (sent_bytes_ > rekey_bytes_) {
      if (SSL_key_update(ssl_, SSL_KEY_UPDATE_NOT_REQUESTED) != 1) return failure("changing the TLS key failed", 0);
      sent_bytes_ = 0;
    }
    ERR_clear_error();
    size_t written = 0;
    int result = SSL_write_ex(ssl_, part.iov_base, part.iov_len, &written);
    if (result != 1) return failure("sending over TLS failed", result);
    sent_bytes_ += written;
  }
  return {};
}

}  // namespace bf::transport
