#include "base/random.h"

#include <sys/random.h>

#include <cerrno>

#include "base/hex.h"
#include "base/status.h"

namespace bf {

std::string random_bytes(size_t count) {
  std::string bytes(count, '\0');
  size_t have = 0;
  while (have < count) {
    ssize_t got = ::getrandom(bytes.data() + have, count - have, 0);
    BF_CHECK(got > 0 || errno == EINTR);
    if (got > 0) have += size_t(got);
  }
  return bytes;
}

std::string random_id() { return to_hex(random_bytes(8)); }

bool equal_secrets(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); i++) difference |= unsigned(uint8_t(a[i])) ^ uint8_t(b[i]);
  return difference == 0;
}

}  // namespace bf
