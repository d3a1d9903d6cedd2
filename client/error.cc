#include "api/remote.h"
#include "proto/abi/error.h"
#include "proto/abi/error_log.h"

namespace bf::client {

CUresult handle_cuGetErrorName(CUresult error, const char** pStr) noexcept { return abi::error_name(error, pStr); }
CUresult handle_cuGetErrorString(CUresult error, const char** pStr) noexcept { return abi::error_string(error, pStr); }

CUresult handle_cuLogsRegisterCallback(CUlogsCallback callbackFunc, void* userData, CUlogsCallbackHandle* callback_out) noexcept {
  return abi::register_log_callback(callbackFunc, userData, callback_out);
}
CUresult handle_cuLogsUnregisterCallback(CUlogsCallbackHandle callback) noexcept { return abi::unregister_log_callback(callback); }
CUresult handle_cuLogsCurrent(CUlogIterator* iterator_out, unsigned int flags) noexcept { return abi::current_log(iterator_out, flags); }
CUresult handle_cuLogsDumpToFile(CUlogIterator* iterator, const char* pathToFile, unsigned int flags) noexcept {
  return abi::dump_log_to_file(iterator, pathToFile, flags);
}
CUresult handle_cuLogsDumpToMemory(CUlogIterator* iterator, char* buffer, size_t* size, unsigned int flags) noexcept {
  return abi::dump_log_to_memory(iterator, buffer, size, flags);
}

}  // namespace bf::client
