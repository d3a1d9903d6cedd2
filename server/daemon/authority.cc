#include "server/daemon/authority.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>

namespace bf::daemon {
namespace {

constexpr long kDay = 86'400;
constexpr long kAuthorityTime = 20 * 365 * kDay;
constexpr long kServerTime = 365 * kDay;
constexpr long kRenewBefore = 30 * kDay;
constexpr long kSkew = kDay;  // clocks of clients may be behind

struct Free {
  void operator()(X509* object) const { X509_free(object); }
  void operator()(EVP_PKEY* object) const { EVP_PKEY_free(object); }
  void operator()(BIO* object) const { BIO_free(object); }
};
using X509Ptr = std::unique_ptr<X509, Free>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Free>;
using BioPtr = std::unique_ptr<BIO, Free>;

std::string pem(X509* certificate) {
  BioPtr bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(bio.get(), certificate);
  char* data = nullptr;
  long bytes = BIO_get_mem_data(bio.get(), &data);
  return {data, size_t(bytes)};
}

std::string pem(EVP_PKEY* key) {
  BioPtr bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  char* data = nullptr;
  long bytes = BIO_get_mem_data(bio.get(), &data);
  return {data, size_t(bytes)};
}

X509Ptr certificate_of(const std::string& text) {
  BioPtr bio(BIO_new_mem_buf(text.data(), int(text.size())));
  return X509Ptr(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
}

KeyPtr key_of(const std::string& text) {
  BioPtr bio(BIO_new_mem_buf(text.data(), int(text.size())));
  return KeyPtr(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
}

void extend(X509* certificate, X509* issuer, int what, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, what, value);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

struct Subject {
  std::string name;
  std::string usage = "serverAuth";
  std::string alternative_name{};  // "DNS:..." or "IP:..."
};

// Signed by `issuer`, or by itself.
X509Ptr make_certificate(const Subject& subject, EVP_PKEY* key, long seconds, X509* issuer, EVP_PKEY* issuer_key) {
  X509Ptr certificate(X509_new());
  X509* x = certificate.get();
  X509_set_version(x, 2);
  unsigned char serial[16];
  RAND_bytes(serial, sizeof serial);
  serial[0] &= 0x7f;
  BIGNUM* number = BN_bin2bn(serial, sizeof serial, nullptr);
  BN_to_ASN1_INTEGER(number, X509_get_serialNumber(x));
  BN_free(number);
  X509_gmtime_adj(X509_getm_notBefore(x), -kSkew);
  X509_gmtime_adj(X509_getm_notAfter(x), seconds);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(subject.name.c_str()), -1, -1, 0);
  X509_set_issuer_name(x, X509_get_subject_name(issuer != nullptr ? issuer : x));
  X509_set_pubkey(x, key);
  bool authority = issuer == nullptr;
  extend(x, authority ? x : issuer, NID_basic_constraints, authority ? "critical,CA:TRUE" : "critical,CA:FALSE");
  extend(x, authority ? x : issuer, NID_key_usage, authority ? "critical,keyCertSign,cRLSign" : "critical,digitalSignature");
  if (!authority) extend(x, issuer, NID_ext_key_usage, subject.usage.c_str());
  if (!subject.alternative_name.empty()) extend(x, issuer, NID_subject_alt_name, subject.alternative_name.c_str());
  extend(x, authority ? x : issuer, NID_subject_key_identifier, "hash");
  X509_sign(x, issuer_key, EVP_sha256());
  return certificate;
}

bool expires_within(X509* certificate, long seconds) {
  time_t then = ::time(nullptr) + seconds;
  return X509_cmp_time(X509_get0_notAfter(certificate), &then) < 0;
}

time_t expiry(X509* certificate) {
  tm time{};
  return ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &time) == 1 ? ::timegm(&time) : 0;
}

}  // namespace

bool exists(const std::string& path) { return ::access(path.c_str(), F_OK) == 0; }

Result<std::string> read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return Status{StatusCode::kInvalid, "cannot read " + path};
  return text.str();
}

Status write_file(const std::string& path, const std::string& text) {
  std::string fresh = path + ".new";
  ::unlink(fresh.c_str());
  int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return errno_status("cannot write " + fresh, errno);
  bool written = ::write(fd, text.data(), text.size()) == ssize_t(text.size()) && ::fsync(fd) == 0;
  ::close(fd);
  if (!written || ::rename(fresh.c_str(), path.c_str()) != 0) return errno_status("cannot write " + path, errno);
  return {};
}

Result<Credentials> load_credentials(const std::string& certificate, const std::string& key,
                                     const std::string& authority) {
  std::string texts[3];
  const std::string* paths[3] = {&certificate, &key, &authority};
  for (int i = 0; i < 3; i++) {
    auto text = read_file(*paths[i]);
    if (!text.ok()) return text.status();
    texts[i] = std::move(*text);
  }
  auto shown = transport::Tls::Certificate::parse(texts[0] + "\n" + texts[2], texts[1]);
  if (!shown.ok()) return Status{StatusCode::kInvalid, certificate + ", " + key + ": " + shown.status().message()};
  auto pin = transport::Tls::pin_of(texts[2]);
  if (!pin) return Status{StatusCode::kInvalid, authority + " is not a certificate in PEM form"};
  X509Ptr own = certificate_of(texts[0]);
  return Credentials{std::move(*shown), *pin, own ? expiry(own.get()) : 0};
}

namespace {

struct Authority {
  X509Ptr certificate;
  KeyPtr key;  // none on a server that was not given it
};

// ca.pem and ca-key.pem, made if there are none.
Result<Authority> authority_in(const std::string& folder) {
  const std::string ca = folder + "/ca.pem", ca_key = folder + "/ca-key.pem";
  if (!exists(ca)) {
    KeyPtr key(EVP_EC_gen("P-256"));
    if (!key) return Status{StatusCode::kInternal, "OpenSSL makes no key"};
    X509Ptr made = make_certificate({"Backfield pool"}, key.get(), kAuthorityTime, nullptr, key.get());
    BF_RETURN_IF_ERROR(write_file(ca_key, pem(key.get())));
    BF_RETURN_IF_ERROR(write_file(ca, pem(made.get())));
  }
  auto text = read_file(ca);
  if (!text.ok()) return text.status();
  X509Ptr certificate = certificate_of(*text);
  if (!certificate) return Status{StatusCode::kInvalid, ca + " is damaged; restore it from a backup"};
  auto key = read_file(ca_key);
  return Authority{std::move(certificate), key.ok() ? key_of(*key) : nullptr};
}

// FOLDER/NAME.pem and NAME-key.pem: left as they are while they are good.
Status make_signed(const std::string& folder, const std::string& name, const Subject& subject) {
  const std::string file = folder + "/" + name + ".pem", key_file = folder + "/" + name + "-key.pem";
  auto authority = authority_in(folder);
  if (!authority.ok()) return authority.status();
  auto old = read_file(file);
  X509Ptr own = old.ok() ? certificate_of(*old) : nullptr;
  if (own && exists(key_file) && X509_verify(own.get(), X509_get0_pubkey(authority->certificate.get())) == 1 &&
      !expires_within(own.get(), kRenewBefore))
    return {};
  if (!authority->key)
    return {StatusCode::kInvalid, folder + "/ca-key.pem is missing or damaged, and this server needs a new certificate from it"};
  KeyPtr key(EVP_EC_gen("P-256"));
  if (!key) return {StatusCode::kInternal, "OpenSSL makes no key"};
  own = make_certificate(subject, key.get(), kServerTime, authority->certificate.get(), authority->key.get());
  BF_RETURN_IF_ERROR(write_file(key_file, pem(key.get())));
  return write_file(file, pem(own.get()));
}

}  // namespace

Result<Credentials> make_credentials(const std::string& folder, const std::string& server_name) {
  BF_RETURN_IF_ERROR(make_signed(folder, "server", {server_name.substr(0, 64)}));
  return load_credentials(folder + "/server.pem", folder + "/server-key.pem", folder + "/ca.pem");
}

Status make_etcd_certificate(const std::string& folder, const std::string& host) {
  in6_addr binary;
  bool numeric = ::inet_pton(AF_INET, host.c_str(), &binary) == 1 || ::inet_pton(AF_INET6, host.c_str(), &binary) == 1;
  return make_signed(folder, "etcd", {host.substr(0, 64), "serverAuth,clientAuth", (numeric ? "IP:" : "DNS:") + host});
}

}  // namespace bf::daemon
