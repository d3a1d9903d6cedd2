// The error log of cuLogs*: which calls gave the program an error, when and in which thread. Kept by the process that makes
// the calls; the newest are remembered, and callbacks hear of each.
#pragma once

#include "proto/api/cuda_api.h"

namespace bf::abi {

// `symbol` lives for ever. Callbacks have run when it returns.
void log_error(const char* symbol, CUresult result);

CUresult register_log_callback(CUlogsCallback callback, void* user, CUlogsCallbackHandle* handle);
CUresult unregister_log_callback(CUlogsCallbackHandle handle);
CUresult current_log(CUlogIterator* iterator, unsigned int flags);
CUresult dump_log_to_file(CUlogIterator* iterator, const char* path, unsigned int flags);
CUresult dump_log_to_memory(CUlogIterator* iterator, char* buffer, size_t* size, unsigned int flags);

}  // namespace bf::abi
