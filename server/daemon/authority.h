// Certificates: the pool's authority, this server's own, and where they lie.
#pragma once

#include <ctime>
#include <memory>
#include <string>

#include "base/status.h"
#include "transport/tls.h"

namespace bf::daemon {

struct Credentials {
  std::shared_ptr<transport::Tls::Certificate> certificate;
  std::string pin;     // of the authority; what tokens carry
  time_t expires = 0;  // of the certificate
};

// Files of the administrator's own: certificate chain, key, authority (PEM). kInvalid says which will not do.
Result<Credentials> load_credentials(const std::string& certificate, const std::string& key,
                                     const std::string& authority);

// From the state folder: ca.pem and ca-key.pem (the pool; made at the first start, to be shared by all its servers), and
// server.pem and server-key.pem, made by that authority and again a month before they expire.
Result<Credentials> make_credentials(const std::string& folder, const std::string& server_name);

// For etcd, whose members and clients know one another by certificates: etcd.pem and etcd-key.pem, for the host name or
// address `host`, made by the pool's authority (which is made if there is none) and again a month before they expire.
Status make_etcd_certificate(const std::string& folder, const std::string& host);

bool exists(const std::string& path);
Result<std::string> read_file(const std::string& path);
// Whole or not at all, readable by the owner only.
Status write_file(const std::string& path, const std::string& text);

}  // namespace bf::daemon
