// The servers a person may borrow from: where their addresses come from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "transport/transport.h"

namespace bf::tools {

inline constexpr uint16_t kDefaultPort = 56001;

// The first source that names any: `given` (--server), `file` (--servers), $BF_SERVERS (separated by commas or blanks),
// ~/.backfield/servers.conf, /etc/backfield/servers.conf. Files hold one host[:port] per line and # comments, or YAML
// (parse_servers); they are never written. kInvalid says what to type, or which line is wrong. Duplicates are dropped.
Result<std::vector<transport::Address>> find_servers(const std::vector<std::string>& given, const std::string& file);

// The addresses in the text of such a file; `name` is for messages. A file that has a line "servers:" is YAML: a list
// of addresses, or of maps whose `address`, `addresses` or `reachable` holds one or several.
Result<std::vector<transport::Address>> parse_servers(const std::string& text, const std::string& name);

}  // namespace bf::tools
