// `bfworker --probe`: what GPUs the driver has, for bfserver, which never loads CUDA itself.
#pragma once

#include "proto/control.h"

namespace bf::server {

// Makes contexts on all devices to measure what one costs; the process is to end afterwards.
control::ProbeReply probe();

}  // namespace bf::server
