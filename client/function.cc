// Functions and kernels: questions answered from the facts that came with them.
#include "client/functions.h"
#include "client/managed.h"
#include "client/mirrors.h"

#include <cstdio>
#include <cstring>

#include "api/remote.h"
#include "client/contexts.h"

namespace bf::client {

namespace {

Function* find_function(CUfunction function) { return state().code(function); }
Function* find_kernel(CUkernel kernel) { return state().kernels.find(value_of(kernel)); }

// The kernel's function in a context; 0 if it was not asked for yet.
uint64_t known_function(Function& kernel, uint64_t context) {
  std::lock_guard guard(kernel.lock);
  for (auto& [owner, known] : kernel.functions) {
    if (owner == context && state().functions.find(known)) return known;
  }
  return 0;
}

CUresult get_attribute(int* value, CUfunction_attribute attribute, const Function* function, int device) {
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  if (attribute < 0 || attribute >= CU_FUNC_ATTRIBUTE_MAX) return CUDA_ERROR_INVALID_VALUE;
  if (!function->on(device)->holder(attribute)) return CUDA_ERROR_INVALID_VALUE;
  *value = function->attribute(attribute, device);
  return CUDA_SUCCESS;
}

// A library that sets a kernel's shared memory before each launch must not wait for an answer each time (cuDNN goes back and
// forth between two sizes): what the driver has granted once, and less, it grants again.
template <typename Ask>
CUresult set_attribute(uint64_t code, Function& function, int device, CUfunction_attribute attribute, int value, Ask ask) {
  if (!Function::changeable(attribute)) return CUDA_ERROR_INVALID_VALUE;
  Function::Attributes& attributes = *function.on(device);
  if (attributes.known[attribute].load(std::memory_order_relaxed) && function.attribute(attribute, device) == value) return CUDA_SUCCESS;
  const bool shared = attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
  const int granted = attributes.granted_shared.load(std::memory_order_relaxed);
  if (shared && value >= 0 && value <= granted) {
    if (CUresult result = post_bfSetDynamicShared(code, uint32_t(device), uint32_t(value)); result != CUDA_SUCCESS) return result;
  } else {
    if (CUresult result = ask(); result != CUDA_SUCCESS) return result;
    if (shared) attributes.granted_shared.store(std::max(value, granted), std::memory_order_relaxed);
  }
  attributes.set(attribute, value);
  return CUDA_SUCCESS;
}

CUresult parameter_info(const Function* function, size_t index, size_t* offset, size_t* size) {
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  if (!offset || index >= function->parameters.size()) return CUDA_ERROR_INVALID_VALUE;
  *offset = function->parameters[index].offset;
  if (size) *size = function->parameters[index].size;
  return CUDA_SUCCESS;
}

CUresult get_name(const char** name, const Function* function) {
  if (!name) return CUDA_ERROR_INVALID_VALUE;
  if (!function) return CUDA_ERROR_INVALID_HANDLE;
  *name = function->name.c_str();
  return CUDA_SUCCESS;
}

template <typename Table>
std::optional<std::vector<uint64_t>> adopt(std::span<const std::byte> handles, std::span<const std::byte> facts,
                                           Table& table, Module& module, uint64_t owner) {
  auto decoded = decode_function_facts_list({reinterpret_cast<const char*>(facts.data()), facts.size()});
  if (!decoded.ok() || decoded->size() * 8 != handles.size()) return std::nullopt;
  std::vector<uint64_t> values(decoded->size());
  if (!values.empty()) std::memcpy(values.data(), handles.data(), handles.size());
  for (size_t i = 0; i < values.size(); ++i) {
    if (!table.find(values[i])) {
      Function* function = table.adopt(values[i]);
      if (!function) return std::nullopt;
      function->set((*decoded)[i]);
      function->owner = owner;
      function->context = module.context;
    }
    keep_by_name(module, (*decoded)[i].name.c_str(), values[i]);  // to end with the module
  }
  return values;
}

}  // namespace

// --- functions.h -----------------------------------------------------------------------------------------------------------

CUresult read_image_file(const char* path, std::vector<char>* image) {
  FILE* file = std::fopen(path, "rbe");
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  char block[64 << 10];
  for (size_t got; (got = std::fread(block, 1, sizeof block, file)) > 0;) image->insert(image->end(), block, block + got);
  bool failed = std::ferror(file);
  std::fclose(file);
  image->push_back(0);
  return failed ? CUDA_ERROR_FILE_NOT_FOUND : CUDA_SUCCESS;
}

bool set_facts(Function& function, std::span<const std::byte> facts) {
  auto decoded = decode_function_facts({reinterpret_cast<const char*>(facts.data()), facts.size()});
  if (!decoded.ok()) return false;
  function.set(*decoded);
  return true;
}

std::optional<std::vector<uint64_t>> adopt_functions(std::span<const std::byte> handles, std::span<const std::byte> facts,
                                                     HandleTable<Function, HandleKind::kFunction>& table, Module& module,
                                                     uint64_t owner) {
  return adopt(handles, facts, table, module, owner);
}

std::optional<std::vector<uint64_t>> adopt_functions(std::span<const std::byte> handles, std::span<const std::byte> facts,
                                                     HandleTable<Function, HandleKind::kKernel>& table, Module& library,
                                                     uint64_t owner) {
  return adopt(handles, facts, table, library, owner);
}

uint64_t find_by_name(Module& module, const char* name) {
  std::lock_guard guard(module.lock);
  auto known = module.functions.find(name);
  return known == module.functions.end() ? 0 : known->second;
}

uint64_t keep_by_name(Module& module, const char* name, uint64_t value) {
  std::lock_guard guard(module.lock);
  return module.functions.emplace(name, value).first->second;
}

CUresult keep_global(Module& module, CUdeviceptr address, size_t bytes, bool managed) {
  auto known = state().ranges.find(address);
  if (known && known->base == address && known->bytes == bytes) return CUDA_SUCCESS;
  Range range;
  range.base = address;
  range.bytes = bytes;
  range.context = current_context();  // none for a library's managed variable, perhaps
  if (Context* context = state().contexts.find(range.context)) range.device = context->device;
  range.owned = false;
  if (managed) {
    if (CUresult result = hold_variable(address, bytes); result != CUDA_SUCCESS) return result;
    range.kind = Range::Kind::kManaged;
    range.mirrored = true;
  }
  state().ranges.insert(range);
  std::lock_guard guard(module.lock);
  module.globals.push_back(address);
  return CUDA_SUCCESS;
}

void forget_globals(const std::vector<uint64_t>& addresses) {
  for (uint64_t address : addresses) {
    if (state().ranges.remove(address, Range::Kind::kDevice)) continue;
    if (state().ranges.remove(address, Range::Kind::kManaged)) Mirrors::instance().remove(address);
  }
}

std::vector<uint64_t> take_globals(Module& module) {
  std::lock_guard guard(module.lock);
  return std::exchange(module.globals, {});
}

CUresult function_of_kernel(CUkernel kernel, CUfunction* function) {
  Context* context;
  if (CUresult result = need_context(&context); result != CUDA_SUCCESS) return result;
  Function* object = find_kernel(kernel);
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  const uint64_t current = current_context();
  if (uint64_t known = known_function(*object, current)) {
    *function = as_handle<CUfunction>(known);
    return CUDA_SUCCESS;
  }
  std::span<const std::byte> facts;
  CUfunction made = nullptr;
  if (CUresult result = remote_cuKernelGetFunction(&made, kernel, facts); result != CUDA_SUCCESS) return result;
  Function& added = *state().functions.find(value_of(made));
  added.on(context->device)->followed = object->on(context->device);
  if (!set_facts(added, facts)) return malformed_reply("cuKernelGetFunction");
  added.of_kernel = value_of(kernel);
  added.context = current;
  std::lock_guard guard(object->lock);
  object->functions.emplace_back(current, value_of(made));
  *function = made;
  return CUDA_SUCCESS;
}

Function* launched(CUfunction f) {
  Function* object = find_function(f);
  if (!object || !object->kernel || !object->left.load(std::memory_order_relaxed)) [[likely]] return object;
  Function* made = state().functions.find(known_function(*object, current_context()));
  return made ? made : object;
}

// --- Kernels ---------------------------------------------------------------------------------------------------------------

CUresult handle_cuKernelGetFunction(CUfunction* pFunc, CUkernel kernel) noexcept {
  if (!pFunc) return CUDA_ERROR_INVALID_VALUE;
  return function_of_kernel(kernel, pFunc);
}

CUresult handle_cuKernelGetLibrary(CUlibrary* pLib, CUkernel kernel) noexcept {
  if (!pLib) return CUDA_ERROR_INVALID_VALUE;
  Function* object = find_kernel(kernel);
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  *pLib = as_handle<CUlibrary>(object->owner);
  return CUDA_SUCCESS;
}

CUresult handle_cuKernelGetName(const char** name, CUkernel hfunc) noexcept { return get_name(name, find_kernel(hfunc)); }

CUresult handle_cuKernelGetAttribute(int* pi, CUfunction_attribute attrib, CUkernel kernel, CUdevice dev) noexcept {
  if (!device_snapshot(dev)) return CUDA_ERROR_INVALID_DEVICE;
  return get_attribute(pi, attrib, find_kernel(kernel), dev);
}

CUresult handle_cuKernelSetAttribute(CUfunction_attribute attrib, int val, CUkernel kernel, CUdevice dev) noexcept {
  if (!device_snapshot(dev)) return CUDA_ERROR_INVALID_DEVICE;
  Function* object = find_kernel(kernel);
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  return set_attribute(value_of(kernel), *object, dev, attrib, val, [&] { return remote_cuKernelSetAttribute(attrib, val, kernel, dev); });
}

CUresult handle_cuKernelGetParamInfo(CUkernel kernel, size_t paramIndex, size_t* paramOffset, size_t* paramSize) noexcept {
  return parameter_info(find_kernel(kernel), paramIndex, paramOffset, paramSize);
}

// --- Functions ---------------------------------------------------------------------------------------------------------------

CUresult handle_cuFuncGetAttribute(int* pi, CUfunction_attribute attrib, CUfunction hfunc) noexcept {
  Context* context = state().contexts.find(current_context());
  return get_attribute(pi, attrib, launched(hfunc), context ? context->device : 0);
}

CUresult handle_cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value) noexcept {
  Function* object = find_function(hfunc);
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  if (object->kernel) {
    if (CUresult result = function_of_kernel(reinterpret_cast<CUkernel>(hfunc), &hfunc); result != CUDA_SUCCESS) return result;
    object = find_function(hfunc);
  }
  CUresult result = set_attribute(value_of(hfunc), *object, 0, attrib, value, [&] { return remote_cuFuncSetAttribute(hfunc, attrib, value); });
  if (Function* kernel = state().kernels.find(object->of_kernel); kernel && result == CUDA_SUCCESS) kernel->left.store(true, std::memory_order_relaxed);
  return result;
}

CUresult handle_cuFuncGetModule(CUmodule* hmod, CUfunction hfunc) noexcept {
  if (!hmod) return CUDA_ERROR_INVALID_VALUE;
  Function* object = find_function(hfunc);
  if (!object) return CUDA_ERROR_INVALID_HANDLE;
  if (object->kernel || object->of_kernel) {
    Function* kernel = object->kernel ? object : state().kernels.find(object->of_kernel);
    if (!kernel) return CUDA_ERROR_INVALID_HANDLE;
    return handle_cuLibraryGetModule(hmod, as_handle<CUlibrary>(kernel->owner));
  }
  *hmod = as_handle<CUmodule>(object->owner);
  return CUDA_SUCCESS;
}

CUresult handle_cuFuncGetName(const char** name, CUfunction hfunc) noexcept { return get_name(name, find_function(hfunc)); }

CUresult handle_cuFuncGetParamInfo(CUfunction func, size_t paramIndex, size_t* paramOffset, size_t* paramSize) noexcept {
  return parameter_info(find_function(func), paramIndex, paramOffset, paramSize);
}

// The worker loads eagerly.
CUresult handle_cuFuncIsLoaded(CUfunctionLoadingState* loading, CUfunction function) noexcept {
  if (!loading) return CUDA_ERROR_INVALID_VALUE;
  if (!find_function(function)) return CUDA_ERROR_INVALID_HANDLE;
  *loading = CU_FUNCTION_LOADING_STATE_LOADED;
  return CUDA_SUCCESS;
}

CUresult handle_cuFuncLoad(CUfunction function) noexcept {
  return find_function(function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

}  // namespace bf::client
