#include "client/attach.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/log.h"
#include "proto/control.h"
#include "proto/control_channel.h"
#include "transport/rdma.h"

namespace bf::client {
namespace {

constexpr uint32_t kApiVersion = 13000;  // the CUDA version whose functions this shim has
constexpr uint16_t kDefaultPort = 56001;
constexpr std::chrono::milliseconds kRdmaPatience{3000};  // before a program that may use tcp does so

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

Result<std::string> from_hex(const std::string& text) {
  auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; };
  std::string bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    int high = digit(text[i]), low = digit(text[i + 1]);
    if (high < 0 || low < 0) break;
    bytes.push_back(char(high << 4 | low));
  }
  if (bytes.size() * 2 != text.size()) {
    return Status(StatusCode::kInvalid, "BF_LEASE_SECRET is not a row of hexadecimal digits; start the program with bfrun");
  }
  return bytes;
}

bool names_this_host(const std::string& host) {
  if (host == "localhost" || host == "::1" || host.starts_with("127.")) return true;
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 && host == name;
}

Result<Fd> join(const transport::Address& address, const control::AttachReply& session, uint32_t index,
                control::Deadline deadline) {
  auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  auto socket = transport::dial(address, left);
  if (!socket.ok()) return socket.status();
  control::JoinRequest request{session.session_id, session.channel_secret, index};
  auto body = control::round_trip(socket->get(), Opcode::kJoin, control::encode_JoinRequest(request), deadline);
  if (!body.ok()) return body.status();
  auto reply = control::decode_JoinReply(control::as_bytes(*body));
  if (!reply.ok()) return reply.status();
  if (reply->status != 0) return control::to_status(reply->status, reply->message);
  return std::move(*socket);
}

LinkFactory& factory_slot() {
  static auto* factory = new LinkFactory;
  return *factory;
}

// Which transport to ask for, once it is known where the server is.
struct Wish {
  std::string transport;
  std::string why;
};

Result<Wish> wish_for(const AttachSettings& settings, const Dialled& dialled) {
  if (dialled.same_host) return Wish{"shm", "the server is on this host"};
  if (settings.transport == "tcp") return Wish{"tcp", "as asked for"};
  Status rdma = transport::rdma_available();
  if (rdma.ok()) return Wish{"rdma", settings.transport == "rdma" ? "as asked for" : "both ends have it"};
  if (settings.transport == "rdma") return rdma;
  return Wish{"tcp", rdma.message()};
}

// The numeric address that `socket` is connected to.
std::string peer_host(int socket) {
  sockaddr_storage name{};
  socklen_t bytes = sizeof name;
  char host[NI_MAXHOST] = "";
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&name), &bytes) != 0) return {};
  if (getnameinfo(reinterpret_cast<sockaddr*>(&name), bytes, host, sizeof host, nullptr, 0, NI_NUMERICHOST) != 0) return {};
  return host;
}

Result<std::unique_ptr<transport::Link>> connect_rdma(Fd& control, const control::AttachReply& reply,
                                                      std::chrono::milliseconds timeout) {
  if (reply.rdma_port == 0) {
    const std::string why = reply.rdma_note.empty() ? "it is switched off there (bfserver --rdma)" : reply.rdma_note;
    return Status(StatusCode::kUnavailable, "the server offers no RDMA: " + why);
  }
  if (reply.rdma_port > UINT16_MAX) return Status(StatusCode::kInvalid, "the server's RDMA port is no port");
  const std::string host = reply.rdma_address.empty() ? peer_host(control.get()) : reply.rdma_address;
  return transport::connect_rdma_link(control, host, uint16_t(reply.rdma_port), reply.channel_secret, timeout);
}

}  // namespace

Result<Dialled> dial_server(const AttachSettings& settings, control::Deadline deadline, transport::Address* address) {
  auto parsed = transport::parse_address(settings.server, kDefaultPort);
  if (!parsed.ok()) return parsed.status();
  *address = *parsed;
  auto left = [&] {
    return std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
  };
  if (settings.transport != "tcp") {
    transport::Address local = *address;
    if (local.unix_name.empty()) local.unix_name = "backfield." + std::to_string(address->port);
    bool try_local = settings.transport == "shm" || !address->unix_name.empty() || names_this_host(address->host);
    if (try_local) {
      auto socket = transport::dial(local, left());
      if (socket.ok()) return Dialled{std::move(*socket), true};
      if (settings.transport == "shm" || !address->unix_name.empty()) return socket.status();
    }
  }
  auto socket = transport::dial(*address, left());
  if (!socket.ok()) return socket.status();
  return Dialled{std::move(*socket), false};
}

Result<AttachSettings> AttachSettings::from_environment() {
  AttachSettings settings;
  settings.server = environment("BF_SERVER");
  settings.lease = environment("BF_LEASE");
  settings.transport = environment("BF_TRANSPORT");
  auto secret = from_hex(environment("BF_LEASE_SECRET"));
  if (!secret.ok()) return secret.status();
  settings.secret = std::move(*secret);
  if (settings.transport.empty()) settings.transport = "auto";
  for (const char* known : {"auto", "tcp", "shm", "rdma"})
    if (settings.transport == known) return settings;
  return Status(StatusCode::kInvalid, "BF_TRANSPORT is '" + settings.transport + "'; it must be auto, tcp, shm or rdma");
}

Result<Attached> attach(const AttachSettings& settings) {
  auto deadline = control::deadline_in(std::chrono::milliseconds(limits::kHandshakeTimeoutMs));
  transport::Address address;
  auto dialled = dial_server(settings, deadline, &address);
  if (!dialled.ok()) return dialled.status();
  auto wish = wish_for(settings, *dialled);
  if (!wish.ok()) return wish.status();
  control::AttachRequest request;
  request.protocol = control::kProtocolVersion;
  request.lease_id = settings.lease;
  request.secret = settings.secret;
  request.pid = uint32_t(getpid());
  request.program = program_invocation_short_name;
  request.transport = wish->transport;
  request.api_version = kApiVersion;
  int socket = dialled->socket.get();
  auto body = control::round_trip(socket, Opcode::kAttach, control::encode_AttachRequest(request), deadline);
  if (!body.ok()) return body.status();
  auto reply = control::decode_AttachReply(control::as_bytes(*body));
  if (!reply.ok()) return reply.status();
  if (reply->status != 0) return control::to_status(reply->status, reply->message);

  Attached attached;
  attached.sockets.push_back(socket);
  if (wish->transport == "shm") {
    auto link = transport::accept_shm_link(std::move(dialled->socket), std::chrono::milliseconds(limits::kHandshakeTimeoutMs));
    if (!link.ok()) return link.status();
    attached.link = std::move(*link);
    attached.choice = "shm (" + wish->why + ")";
    return attached;
  }
  if (wish->transport == "rdma") {
    const bool must = settings.transport == "rdma";
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    auto link = connect_rdma(dialled->socket, *reply, must ? left : std::min(left, kRdmaPatience));
    if (link.ok()) {
      attached.link = std::move(*link);
      for (int descriptor : attached.link->descriptors()) attached.sockets.push_back(descriptor);
      attached.choice = "rdma (" + wish->why + ")";
      return attached;
    }
    if (must) return link.status();
    wish->why = "not rdma: " + link.status().message();
  }
  if (reply->channels < 2 || reply->channels > 1 + limits::kBulkChannels) {
    return Status(StatusCode::kInvalid, "the server asks for " + std::to_string(reply->channels) + " channels");
  }
  Fd side;
  std::vector<Fd> bulk;
  for (uint32_t index = 0; index < reply->channels; ++index) {
    auto channel = join(address, *reply, index, deadline);
    if (!channel.ok()) return channel.status();
    attached.sockets.push_back(channel->get());
    if (index == 0) {
      side = std::move(*channel);
    } else {
      bulk.push_back(std::move(*channel));
    }
  }
  attached.link = transport::make_tcp_link(std::move(dialled->socket), std::move(side), std::move(bulk));
  attached.choice = "tcp (" + wish->why + ")";
  return attached;
}

void set_link_factory(LinkFactory factory) { factory_slot() = std::move(factory); }
const LinkFactory& link_factory() { return factory_slot(); }

}  // namespace bf::client
