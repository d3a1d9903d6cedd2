// Unguessable ids and secrets.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace bf {

// From getrandom(2).
std::string random_bytes(size_t count);
// An id for people and logs: 16 hexadecimal digits.
std::string random_id();
// In time that depends on the lengths only.
bool equal_secrets(std::string_view a, std::string_view b);

}  // namespace bf
