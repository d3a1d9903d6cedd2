// A tool's connection to a server: TLS and a token where there is one, else plain.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "proto/control.h"
#include "proto/control_channel.h"
#include "tools/token.h"
#include "transport/transport.h"

namespace bf::tools {

class Remote {
 public:
  // Dials, and shows the token (tools/token.h) if one is found. Without one, or over a Unix socket, it stays plain.
  // kDenied when either side does not believe the other, with the reason.
  static Result<std::unique_ptr<Remote>> open(const transport::Address& server, control::Deadline deadline);

  // One request; returns the body of its reply.
  Result<std::string> ask(Opcode opcode, std::string_view body, control::Deadline deadline);
  // A command of manage.cc, and the file that goes with it; returns its JSON. Sends nothing that would arrive changed.
  Result<std::string> manage(const std::vector<std::string>& words, control::Deadline deadline, std::string_view file = {});
  // The next whole frame that has come without being asked for; nothing if there is none yet. Never waits. Do not mix
  // with ask() while a frame may be on its way.
  Result<std::optional<control::Frame>> overhear();

  const transport::Address& server() const { return server_; }
  control::Wire& wire() { return *wire_; }
  int fd() const { return socket_.get(); }
  // The server's numeric address; empty over a Unix socket.
  std::string numeric_address() const;

 private:
  Remote(transport::Address server, Fd socket, std::unique_ptr<control::Wire> wire)
      : server_(std::move(server)), socket_(std::move(socket)), wire_(std::move(wire)) {}
  Status authenticate(const Token& token, control::Deadline deadline);

  transport::Address server_;
  Fd socket_;
  std::unique_ptr<control::Wire> wire_;
  std::string overheard_;  // of a frame that is not whole yet
};

// Text from a server, safe for a terminal: control characters become '?'.
std::string printable(const std::string& text);

}  // namespace bf::tools
