// Libraries: code that is independent of contexts, and its kernels.
#include "api/remote.h"
#include "client/contexts.h"
#include "client/functions.h"
#include "client/images.h"
#include "client/jit.h"

namespace bf::client {

CUresult handle_cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option* jitOptions, void** jitOptionsValues,
                                  unsigned int numJitOptions, CUlibraryOption* libraryOptions, void** libraryOptionValues,
                                  unsigned int numLibraryOptions) noexcept {
  if (!library || !code) return CUDA_ERROR_INVALID_VALUE;
  JitCall jit;
  if (CUresult result = jit.read(numJitOptions, jitOptions, jitOptionsValues); result != CUDA_SUCCESS) return result;
  CUresult result = jit.read_library(numLibraryOptions, libraryOptions, libraryOptionValues);
  if (result != CUDA_SUCCESS) return result;
  Sha256 name;
  if (result = send_image(code, Loader::kLibrary, &name); result != CUDA_SUCCESS) return result;
  std::string encoded = jit.encoded();
  std::span<const std::byte> jit_out;
  CUlibrary made = nullptr;
  result = remote_cuLibraryLoadData(&made, nullptr, nullptr, nullptr, 0, nullptr, nullptr, 0, name,
                                    std::as_bytes(std::span(encoded)), jit_out);
  jit.write_back(jit_out);
  if (result == CUDA_SUCCESS) *library = made;
  return result;
}

CUresult handle_cuLibraryLoadFromFile(CUlibrary* library, const char* fileName, CUjit_option* jitOptions,
                                      void** jitOptionsValues, unsigned int numJitOptions, CUlibraryOption* libraryOptions,
                                      void** libraryOptionValues, unsigned int numLibraryOptions) noexcept {
  if (!library || !fileName) return CUDA_ERROR_INVALID_VALUE;
  std::vector<char> image;
  if (CUresult result = read_image_file(fileName, &image); result != CUDA_SUCCESS) return result;
  return handle_cuLibraryLoadData(library, image.data(), jitOptions, jitOptionsValues, numJitOptions, libraryOptions,
                                  libraryOptionValues, numLibraryOptions);
}

CUresult handle_cuLibraryUnload(CUlibrary library) noexcept {
  Module* object = state().libraries.find(value_of(library));
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  auto globals = take_globals(*object);
  auto kernels = object->functions;
  auto modules = object->modules;
  forget_globals(globals);
  CUresult result = remote_cuLibraryUnload(library);
  if (result != CUDA_SUCCESS) return result;
  for (auto& [context, module] : modules) {
    if (Module* of_context = state().modules.find(module)) {
      for (auto& [name, function] : of_context->functions) state().functions.erase(function);
    }
    state().modules.erase(module);
  }
  for (auto& [name, kernel] : kernels) {
    Function* function = state().kernels.find(kernel);
    if (!function) continue;
    for (auto& [context, of_context] : function->functions) state().functions.erase(of_context);
    state().kernels.erase(kernel);
  }
  return CUDA_SUCCESS;
}

CUresult handle_cuLibraryGetKernel(CUkernel* pKernel, CUlibrary library, const char* name) noexcept {
  if (!pKernel || !name) return CUDA_ERROR_INVALID_VALUE;
  Module* object = state().libraries.find(value_of(library));
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  if (uint64_t known = find_by_name(*object, name)) {
    *pKernel = as_handle<CUkernel>(known);
    return CUDA_SUCCESS;
  }
  std::span<const std::byte> facts;
  CUkernel made = nullptr;
  if (CUresult result = remote_cuLibraryGetKernel(&made, library, name, facts); result != CUDA_SUCCESS) return result;
  Function* kernel = state().kernels.find(value_of(made));
  if (!set_facts(*kernel, facts)) return malformed_reply("cuLibraryGetKernel");
  kernel->owner = value_of(library);
  *pKernel = as_handle<CUkernel>(keep_by_name(*object, name, value_of(made)));
  return CUDA_SUCCESS;
}

CUresult handle_cuLibraryEnumerateKernels(CUkernel* kernels, unsigned int numKernels, CUlibrary lib) noexcept {
  if (!kernels || numKernels == 0) return CUDA_ERROR_INVALID_VALUE;
  Module* library = state().libraries.find(value_of(lib));
  if (!library) return CUDA_ERROR_INVALID_HANDLE;
  std::span<const std::byte> handles, facts;
  CUresult result = remote_cuLibraryEnumerateKernels(nullptr, numKernels, lib, handles, facts);
  if (result != CUDA_SUCCESS) return result;
  auto list = adopt_functions(handles, facts, state().kernels, *library, value_of(lib));
  if (!list || list->size() > numKernels) return malformed_reply("cuLibraryEnumerateKernels");
  for (size_t i = 0; i < list->size(); ++i) kernels[i] = as_handle<CUkernel>((*list)[i]);
  return CUDA_SUCCESS;
}

// One module per library and context.
CUresult handle_cuLibraryGetModule(CUmodule* pMod, CUlibrary library) noexcept {
  if (!pMod) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  Module* object = state().libraries.find(value_of(library));
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  const uint64_t context = current_context();
  {
    std::lock_guard guard(object->lock);
    for (auto& [owner, module] : object->modules) {
      if (owner != context || !state().modules.find(module)) continue;
      *pMod = as_handle<CUmodule>(module);
      return CUDA_SUCCESS;
    }
  }
  CUmodule made = nullptr;
  if (CUresult result = remote_cuLibraryGetModule(&made, library); result != CUDA_SUCCESS) return result;
  Module& module = *state().modules.find(value_of(made));
  module.context = context;
  module.library = value_of(library);
  std::lock_guard guard(object->lock);
  object->modules.emplace_back(context, value_of(made));
  *pMod = made;
  return CUDA_SUCCESS;
}

CUresult handle_cuLibraryGetGlobal(CUdeviceptr* dptr, size_t* bytes, CUlibrary library, const char* name) noexcept {
  if (!name || (!dptr && !bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  Module* object = state().libraries.find(value_of(library));
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  CUdeviceptr address = 0;
  size_t size = 0;
  uint32_t managed = 0;
  CUresult result = remote_cuLibraryGetGlobal(&address, &size, library, name, managed);
  if (result == CUDA_SUCCESS) result = keep_global(*object, address, size, managed);
  if (result != CUDA_SUCCESS) return result;
  if (dptr) *dptr = address;
  if (bytes) *bytes = size;
  return CUDA_SUCCESS;
}

CUresult handle_cuLibraryGetManaged(CUdeviceptr* dptr, size_t* bytes, CUlibrary library, const char* name) noexcept {
  if (!name || (!dptr && !bytes)) return CUDA_ERROR_INVALID_VALUE;
  Module* object = state().libraries.find(value_of(library));
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  CUdeviceptr address = 0;
  size_t size = 0;
  if (CUresult result = remote_cuLibraryGetManaged(&address, &size, library, name); result != CUDA_SUCCESS) return result;
  if (CUresult result = keep_global(*object, address, size, true); result != CUDA_SUCCESS) return result;
  if (dptr) *dptr = address;
  if (bytes) *bytes = size;
  return CUDA_SUCCESS;
}

}  // namespace bf::client
