#pragma once

namespace bf {

// Before anything else of OpenSSL: nothing of the program's own OpenSSL configuration, and nothing at exit, when threads of
// ours may still be running. Again is no harm; from any thread.
void prepare_openssl();

}  // namespace bf
