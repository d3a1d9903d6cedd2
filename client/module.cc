// Modules: code bound to a context, and the functions and variables in it.
#include <fstream>

#include "api/remote.h"
#include "client/contexts.h"
#include "client/functions.h"
#include "client/images.h"
#include "client/jit.h"

namespace bf::client {

CUresult handle_cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int numOptions, CUjit_option* options,
                                   void** optionValues) noexcept {
  if (!module || !image) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  JitCall jit;
  if (CUresult result = jit.read(numOptions, options, optionValues); result != CUDA_SUCCESS) return result;
  Sha256 name;
  if (CUresult result = send_image(image, Loader::kModule, &name); result != CUDA_SUCCESS) return result;
  std::string encoded = jit.encoded();
  std::span<const std::byte> jit_out;
  CUmodule made = nullptr;
  CUresult result = remote_cuModuleLoadDataEx(&made, nullptr, 0, nullptr, nullptr, name,
                                              std::as_bytes(std::span(encoded)), jit_out);
  jit.write_back(jit_out);
  if (result != CUDA_SUCCESS) return result;
  state().modules.find(value_of(made))->context = current_context();
  *module = made;
  return CUDA_SUCCESS;
}

CUresult handle_cuModuleLoadData(CUmodule* module, const void* image) noexcept {
  return handle_cuModuleLoadDataEx(module, image, 0, nullptr, nullptr);
}

CUresult handle_cuModuleLoadFatBinary(CUmodule* module, const void* fatCubin) noexcept {
  return handle_cuModuleLoadDataEx(module, fatCubin, 0, nullptr, nullptr);
}

CUresult handle_cuModuleLoad(CUmodule* module, const char* fname) noexcept {
  if (!module || !fname) return CUDA_ERROR_INVALID_VALUE;
  std::vector<char> image;
  if (CUresult result = read_image_file(fname, &image); result != CUDA_SUCCESS) return result;
  return handle_cuModuleLoadDataEx(module, image.data(), 0, nullptr, nullptr);
}

CUresult handle_cuModuleUnload(CUmodule hmod) noexcept {
  Module* module = state().modules.find(value_of(hmod));
  if (!module || module->library) return CUDA_ERROR_INVALID_HANDLE;
  auto globals = take_globals(*module);
  auto functions = module->functions;
  forget_globals(globals);
  CUresult result = remote_cuModuleUnload(hmod);
  if (result != CUDA_SUCCESS) return result;
  for (auto& [name, function] : functions) state().functions.erase(function);
  return CUDA_SUCCESS;
}

CUresult handle_cuModuleGetFunction(CUfunction* hfunc, CUmodule hmod, const char* name) noexcept {
  if (!hfunc || !name || !*name) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  Module* module = state().modules.find(value_of(hmod));
  if (!module) return CUDA_ERROR_INVALID_HANDLE;
  if (uint64_t known = find_by_name(*module, name)) {
    *hfunc = as_handle<CUfunction>(known);
    return CUDA_SUCCESS;
  }
  std::span<const std::byte> facts;
  CUfunction made = nullptr;
  *hfunc = nullptr;  // what the driver leaves behind for an unknown name (580.159.04)
  if (CUresult result = remote_cuModuleGetFunction(&made, hmod, name, facts); result != CUDA_SUCCESS) return result;
  Function* function = state().functions.find(value_of(made));
  if (!set_facts(*function, facts)) return malformed_reply("cuModuleGetFunction");
  function->owner = value_of(hmod);
  function->context = module->context;
  *hfunc = as_handle<CUfunction>(keep_by_name(*module, name, value_of(made)));
  return CUDA_SUCCESS;
}

CUresult handle_cuModuleGetGlobal_v2(CUdeviceptr* dptr, size_t* bytes, CUmodule hmod, const char* name) noexcept {
  if (!name || (!dptr && !bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult result = need_context(); result != CUDA_SUCCESS) return result;
  Module* module = state().modules.find(value_of(hmod));
  if (!module) return CUDA_ERROR_INVALID_HANDLE;
  CUdeviceptr address = 0;
  size_t size = 0;
  uint32_t managed = 0;
  CUresult result = remote_cuModuleGetGlobal_v2(&address, &size, hmod, name, managed);
  if (result == CUDA_SUCCESS) result = keep_global(*module, address, size, managed);
  if (result != CUDA_SUCCESS) return result;
  if (dptr) *dptr = address;
  if (bytes) *bytes = size;
  return CUDA_SUCCESS;
}

CUresult handle_cuModuleEnumerateFunctions(CUfunction* functions, unsigned int numFunctions, CUmodule mod) noexcept {
  if (!functions || numFunctions == 0) return CUDA_ERROR_INVALID_VALUE;
  Module* module = state().modules.find(value_of(mod));
  if (!module) return CUDA_ERROR_INVALID_HANDLE;
  std::span<const std::byte> handles, facts;
  CUresult result = remote_cuModuleEnumerateFunctions(nullptr, numFunctions, mod, handles, facts);
  if (result != CUDA_SUCCESS) return result;
  auto list = adopt_functions(handles, facts, state().functions, *module, value_of(mod));
  if (!list || list->size() > numFunctions) return malformed_reply("cuModuleEnumerateFunctions");
  for (size_t i = 0; i < list->size(); ++i) functions[i] = as_handle<CUfunction>((*list)[i]);
  return CUDA_SUCCESS;
}

}  // namespace bf::client
