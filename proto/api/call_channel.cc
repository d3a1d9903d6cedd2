#include "proto/api/call_channel.h"

namespace bf::client {

constinit thread_local bool t_per_thread = false;

}  // namespace bf::client
