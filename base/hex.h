// Bytes as hexadecimal digits, for environments, files and people.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace bf {

// Two lower-case digits per byte.
std::string to_hex(std::string_view bytes);
// Nothing unless `text` is a whole row of pairs of digits (both cases).
std::optional<std::string> from_hex(std::string_view text);

}  // namespace bf
