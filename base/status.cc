#include "base/status.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bf {

Status errno_status(const std::string& what, int error) {
  StatusCode code = StatusCode::kInternal;
  switch (error) {
    case ETIMEDOUT:
    case EAGAIN:
      code = StatusCode::kTimeout;
      break;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENOTCONN:
      code = StatusCode::kUnavailable;
      break;
    case EACCES:
    case EPERM:
      code = StatusCode::kDenied;
      break;
    default:
      break;
  }
  char text[128];
  return {code, what + ": " + strerror_r(error, text, sizeof text)};
}

void check_failed(const char* condition, const char* file, int line) noexcept {
  fprintf(stderr, "backfield: internal error: %s (%s:%d)\n", condition, file, line);
  abort();
}

}  // namespace bf
