#include "proto/abi/error.h"
#include "proto/abi/error_log.h"

#include "softgpu/driver/driver.h"

namespace bf::softgpu {

BF_API CUresult cuGetErrorName(CUresult error, const char** text) { return abi::error_name(error, text); }
BF_API CUresult cuGetErrorString(CUresult error, const char** text) { return abi::error_string(error, text); }

BF_API CUresult cuLogsRegisterCallback(CUlogsCallback callback, void* user, CUlogsCallbackHandle* handle) {
  return abi::register_log_callback(callback, user, handle);
}
BF_API CUresult cuLogsUnregisterCallback(CUlogsCallbackHandle handle) { return abi::unregister_log_callback(handle); }
BF_API CUresult cuLogsCurrent(CUlogIterator* iterator, unsigned int flags) { return abi::current_log(iterator, flags); }
BF_API CUresult cuLogsDumpToFile(CUlogIterator* iterator, const char* path, unsigned int flags) {
  return abi::dump_log_to_file(iterator, path, flags);
}
BF_API CUresult cuLogsDumpToMemory(CUlogIterator* iterator, char* buffer, size_t* size, unsigned int flags) {
  return abi::dump_log_to_memory(iterator, buffer, size, flags);
}

}  // namespace bf::softgpu
