// The servers a person may borrow from: where their addresses come from, and asking them.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/status.h"
#include "proto/control.h"
#include "proto/control_channel.h"
#include "transport/transport.h"

namespace bf::tools {

inline constexpr uint16_t kDefaultPort = 56001;

// The first source that names any: `given` (--server), `file` (--servers), $BF_SERVERS (separated by commas or blanks),
// ~/.backfield/servers.conf, /etc/backfield/servers.conf. Files hold one host[:port] per line and # comments; they are
// never written. kInvalid says what to type, or which line is wrong. Duplicates are dropped.
Result<std::vector<transport::Address>> find_servers(const std::vector<std::string>& given, const std::string& file);

// The addresses in the text of such a file; `name` is for messages.
Result<std::vector<transport::Address>> parse_servers(const std::string& text, const std::string& name);

struct Answer {
  transport::Address server;
  Status status;
  control::ListReply list;  // if status is ok
};

// Asks all servers at once; each has `time` to answer. In the order of `servers`. With `sampled`, each takes a sample of its
// GPUs first, if its last one is old.
std::vector<Answer> ask_servers(const std::vector<transport::Address>& servers, std::chrono::milliseconds time,
                                bool sampled = false);

// One request on a connection of its own; returns the body of the reply.
Result<std::string> ask(const transport::Address& server, Opcode opcode, const std::string& body,
                        std::chrono::milliseconds time);

// Text from a server, safe for a terminal: control characters become '?'.
std::string printable(const std::string& text);

}  // namespace bf::tools
