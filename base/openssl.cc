#include "base/openssl.h"

#include <openssl/ssl.h>

#include <mutex>

namespace bf {

void prepare_openssl() {
  static std::once_flag once;
  std::call_once(once, [] { OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT, nullptr); });
}

}  // namespace bf
