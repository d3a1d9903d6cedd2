// Modules, libraries and what is known of their functions.
#include <cstring>
#include <mutex>

#include "proto/session.h"
#include "server/worker/jit.h"
#include "server/worker/session.h"

namespace bf::server {
namespace {

constexpr size_t kMaxParameters = 8192;

template <typename Load>
CUresult load(Call& call, std::span<const std::byte> hash, std::span<const std::byte> jit,
              std::span<const std::byte>& jit_out, Load driver_load) {
  Session& session = session_of(call);
  JitArguments arguments;
  if (!arguments.decode(jit)) {
    session.violation(call, "malformed JIT options");
    return CUDA_ERROR_INVALID_VALUE;
  }
  const auto image = session.images.find(hash);
  if (!image || !loadable(*image)) return CUDA_ERROR_INVALID_IMAGE;
  RelaxedCapture relaxed(call.driver);  // loading may allocate while a stream captures, as lazy loading does
  const CUresult result = driver_load(image->data(), arguments);
  jit_out = keep(call, arguments.result());
  return result;
}

template <typename Handle>
CUresult enumerate(Call& call, HandleKind kind, const std::vector<Handle>& found, std::span<const std::byte>& handles,
                   std::span<const std::byte>& facts) {
  Session& session = session_of(call);
  std::string values;
  std::vector<FunctionFacts> list;
  for (const Handle& handle : found) {
    const uint64_t value = session.handles.value_of(kind, uint64_t(handle));
    if (value == 0) return CUDA_ERROR_OUT_OF_MEMORY;
    values.append(reinterpret_cast<const char*>(&value), sizeof(value));
    list.push_back(session.functions.learn(handle));
  }
  handles = keep(call, values);
  facts = keep(call, encode(list));
  return found.empty() || !handles.empty() ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

}  // namespace

// --- Facts -----------------------------------------------------------------------------------------------------------

CUlibrary Functions::library_of(CUkernel kernel) const {
  CUlibrary library = nullptr;
  if (kernel && session_.driver.cuKernelGetLibrary) session_.driver.cuKernelGetLibrary(&library, kernel);
  return library;
}

FunctionFacts Functions::learn(CUfunction function, CUkernel kernel) {
  AnyContext context(session_);
  const DriverApi& driver = session_.driver;
  // A function that was only enumerated is not loaded, and then some of its attributes are not to be had (cuFFT's, 580.159.04).
  if (driver.cuFuncLoad) driver.cuFuncLoad(function);
  FunctionFacts facts;
  const char* name = nullptr;
  if (driver.cuFuncGetName && driver.cuFuncGetName(&name, function) == CUDA_SUCCESS && name) facts.name = name;
  facts.parameters_known = driver.cuFuncGetParamInfo != nullptr;
  size_t offset = 0, size = 0;
  while (facts.parameters_known && facts.parameters.size() < kMaxParameters &&
         driver.cuFuncGetParamInfo(function, facts.parameters.size(), &offset, &size) == CUDA_SUCCESS) {
    facts.parameters.push_back({uint32_t(offset), uint32_t(size)});
  }
  for (int attribute = 0; attribute < CU_FUNC_ATTRIBUTE_MAX; ++attribute) {
    int value = 0;
    if (driver.cuFuncGetAttribute(&value, CUfunction_attribute(attribute), function) == CUDA_SUCCESS)
      facts.attributes.emplace_back(attribute, value);
  }
  CUmodule module = nullptr;
  if (driver.cuFuncGetModule && driver.cuFuncGetModule(&module, function) == CUDA_SUCCESS)
    facts.owner = session_.handles.find_value(HandleKind::kModule, uint64_t(module));
  remember(uint64_t(function), facts, {.kind = HandleKind::kFunction, .module = module, .library = library_of(kernel), .context = session_.contexts.owner()});
  return facts;
}

FunctionFacts Functions::learn(CUkernel kernel) {
  AnyContext context(session_);
  const DriverApi& driver = session_.driver;
  FunctionFacts facts;
  facts.kernel = true;
  const char* name = nullptr;
  if (driver.cuKernelGetName && driver.cuKernelGetName(&name, kernel) == CUDA_SUCCESS && name) facts.name = name;
  facts.parameters_known = driver.cuKernelGetParamInfo != nullptr;
  size_t offset = 0, size = 0;
  while (facts.parameters_known && facts.parameters.size() < kMaxParameters &&
         driver.cuKernelGetParamInfo(kernel, facts.parameters.size(), &offset, &size) == CUDA_SUCCESS) {
    facts.parameters.push_back({uint32_t(offset), uint32_t(size)});
  }
  size_t device = 0;
  session_.contexts.current_device(device);
  for (int attribute = 0; attribute < CU_FUNC_ATTRIBUTE_MAX; ++attribute) {
    int value = 0;
    if (driver.cuKernelGetAttribute(&value, CUfunction_attribute(attribute), kernel, CUdevice(device)) == CUDA_SUCCESS)
      facts.attributes.emplace_back(attribute, value);
  }
  const CUlibrary library = library_of(kernel);
  facts.owner = session_.handles.find_value(HandleKind::kLibrary, uint64_t(library));
  remember(uint64_t(kernel), facts, {.kind = HandleKind::kKernel, .library = library});
  return facts;
}

void Functions::remember(uint64_t real, const FunctionFacts& facts, Known known) {
  known.list = facts.parameters;
  known.parameters_known = facts.parameters_known;
  for (const ParameterInfo& parameter : known.list)
    known.bytes = std::max(known.bytes, size_t{parameter.offset} + parameter.size);
  std::unique_lock guard(mutex_);
  known_[real] = std::move(known);
}

void Functions::note_module(CUlibrary library, CUmodule module) {
  remember(uint64_t(module), {}, {.kind = HandleKind::kModule, .library = library, .context = session_.contexts.owner()});
}

void Functions::drop_all(const std::function<bool(const Known&)>& ends) {
  std::vector<std::pair<HandleKind, uint64_t>> gone;
  {
    std::unique_lock guard(mutex_);
    for (auto known = known_.begin(); known != known_.end();) {
      if (!ends(known->second)) {
        ++known;
        continue;
      }
      gone.emplace_back(known->second.kind, known->first);
      known = known_.erase(known);
    }
  }
  for (const auto& [kind, real] : gone) {
    session_.handles.erase_real(kind, real);
    if (kind == HandleKind::kModule) drop(reinterpret_cast<CUmodule>(real));
  }
}

bool Functions::accepts(CUfunction function, size_t bytes) const {
  std::shared_lock guard(mutex_);
  const auto found = known_.find(uint64_t(function));
  return found != known_.end() && (!found->second.parameters_known || found->second.bytes == bytes);
}

bool Functions::spread(CUfunction function, std::span<const std::byte> packed, std::vector<void*>& pointers) const {
  std::shared_lock guard(mutex_);
  const auto found = known_.find(uint64_t(function));
  if (found == known_.end() || !found->second.parameters_known || found->second.bytes != packed.size()) return false;
  for (const ParameterInfo& parameter : found->second.list)
    pointers.push_back(const_cast<std::byte*>(packed.data()) + parameter.offset);
  return true;
}

bool Functions::gather(CUfunction function, void* const* pointers, std::string& packed) const {
  std::shared_lock guard(mutex_);
  const auto found = known_.find(uint64_t(function));
  if (found == known_.end() || !found->second.parameters_known || (!pointers && found->second.bytes > 0)) return false;
  packed.assign(found->second.bytes, '\0');
  for (size_t i = 0; i < found->second.list.size(); ++i) {
    const ParameterInfo& parameter = found->second.list[i];
    std::memcpy(packed.data() + parameter.offset, pointers[i], parameter.size);
  }
  return true;
}

// --- Modules
// -------------------------------------------------------------------------------------------------------------

CUresult handle_cuModuleLoadDataEx(Call& call, CUmodule* module, const void*, unsigned int, CUjit_option*, void**,
                                   std::span<const std::byte> hash, std::span<const std::byte> jit,
                                   std::span<const std::byte>& jit_out) {
  return load(call, hash, jit, jit_out, [&](const void* image, JitArguments& arguments) {
    return call.driver.cuModuleLoadDataEx(module, image, arguments.count(), arguments.options(), arguments.values());
  });
}

CUresult handle_cuModuleUnload(Call& call, CUmodule hmod) {
  session_of(call).functions.drop(hmod);
  return call.driver.cuModuleUnload(hmod);
}

CUresult handle_cuModuleGetFunction(Call& call, CUfunction* hfunc, CUmodule hmod, const char* name,
                                    std::span<const std::byte>& facts) {
  const CUresult result = call.driver.cuModuleGetFunction(hfunc, hmod, name);
  if (result == CUDA_SUCCESS) facts = keep(call, encode(session_of(call).functions.learn(*hfunc)));
  return result;
}

namespace {

// Managed variables lie in memory of the driver's own that the host uses, too.
bool is_managed(Call& call, CUresult result, const CUdeviceptr* address) {
  unsigned managed = 0;
  return result == CUDA_SUCCESS && address &&
         call.driver.cuPointerGetAttribute(&managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, *address) == CUDA_SUCCESS && managed;
}

}  // namespace

CUresult handle_cuModuleGetGlobal_v2(Call& call, CUdeviceptr* dptr, size_t* bytes, CUmodule hmod, const char* name, uint32_t& managed) {
  const CUresult result = call.driver.cuModuleGetGlobal_v2(dptr, bytes, hmod, name);
  managed = is_managed(call, result, dptr);
  return result;
}

CUresult handle_cuModuleEnumerateFunctions(Call& call, CUfunction*, unsigned int numFunctions, CUmodule mod,
                                           std::span<const std::byte>& handles, std::span<const std::byte>& facts) {
  unsigned int count = 0;
  if (CUresult result = call.driver.cuModuleGetFunctionCount(&count, mod); result != CUDA_SUCCESS) return result;
  std::vector<CUfunction> functions(std::min(count, numFunctions));
  const CUresult result = call.driver.cuModuleEnumerateFunctions(functions.data(), unsigned(functions.size()), mod);
  return result == CUDA_SUCCESS ? enumerate(call, HandleKind::kFunction, functions, handles, facts) : result;
}

// --- Libraries
// -----------------------------------------------------------------------------------------------------------

// Library options do not travel on: one is an address in the program, the other speaks of the program's own buffer.
CUresult handle_cuLibraryLoadData(Call& call, CUlibrary* library, const void*, CUjit_option*, void**, unsigned int,
                                  CUlibraryOption*, void**, unsigned int, std::span<const std::byte> hash,
                                  std::span<const std::byte> jit, std::span<const std::byte>& jit_out) {
  return load(call, hash, jit, jit_out, [&](const void* image, JitArguments& arguments) {
    return call.driver.cuLibraryLoadData(library, image, arguments.options(), arguments.values(), arguments.count(),
                                         nullptr, nullptr, 0);
  });
}

CUresult handle_cuLibraryUnload(Call& call, CUlibrary library) {
  session_of(call).functions.drop(library);
  return call.driver.cuLibraryUnload(library);
}

CUresult handle_cuLibraryGetKernel(Call& call, CUkernel* pKernel, CUlibrary library, const char* name,
                                   std::span<const std::byte>& facts) {
  const CUresult result = call.driver.cuLibraryGetKernel(pKernel, library, name);
  if (result == CUDA_SUCCESS) facts = keep(call, encode(session_of(call).functions.learn(*pKernel)));
  return result;
}

CUresult handle_cuLibraryGetModule(Call& call, CUmodule* pMod, CUlibrary library) {
  const CUresult result = call.driver.cuLibraryGetModule(pMod, library);
  if (result == CUDA_SUCCESS) session_of(call).functions.note_module(library, *pMod);
  return result;
}

CUresult handle_cuLibraryGetGlobal(Call& call, CUdeviceptr* dptr, size_t* bytes, CUlibrary library, const char* name,
                                   uint32_t& managed) {
  const CUresult result = call.driver.cuLibraryGetGlobal(dptr, bytes, library, name);
  managed = is_managed(call, result, dptr);
  return result;
}

CUresult handle_cuLibraryGetManaged(Call& call, CUdeviceptr* dptr, size_t* bytes, CUlibrary library, const char* name) {
  return call.driver.cuLibraryGetManaged(dptr, bytes, library, name);
}

CUresult handle_cuLibraryEnumerateKernels(Call& call, CUkernel*, unsigned int numKernels, CUlibrary lib,
                                          std::span<const std::byte>& handles, std::span<const std::byte>& facts) {
  unsigned int count = 0;
  if (CUresult result = call.driver.cuLibraryGetKernelCount(&count, lib); result != CUDA_SUCCESS) return result;
  std::vector<CUkernel> kernels(std::min(count, numKernels));
  const CUresult result = call.driver.cuLibraryEnumerateKernels(kernels.data(), unsigned(kernels.size()), lib);
  return result == CUDA_SUCCESS ? enumerate(call, HandleKind::kKernel, kernels, handles, facts) : result;
}

CUresult handle_bfSetDynamicShared(Call& call, uint64_t code, uint32_t device, uint32_t bytes) {
  constexpr auto kAttribute = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
  uint64_t real;
  if (call.resolve(HandleKind::kKernel, code, real))
    return call.driver.cuKernelSetAttribute(kAttribute, int(bytes), reinterpret_cast<CUkernel>(real), CUdevice(device));
  if (call.resolve(HandleKind::kFunction, code, real)) return call.driver.cuFuncSetAttribute(reinterpret_cast<CUfunction>(real), kAttribute, int(bytes));
  return CUDA_ERROR_INVALID_HANDLE;
}

CUresult handle_cuKernelGetFunction(Call& call, CUfunction* pFunc, CUkernel kernel, std::span<const std::byte>& facts) {
  const CUresult result = call.driver.cuKernelGetFunction(pFunc, kernel);
  if (result == CUDA_SUCCESS) facts = keep(call, encode(session_of(call).functions.learn(*pFunc, kernel)));
  return result;
}

}  // namespace bf::server
