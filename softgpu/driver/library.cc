#include "softgpu/driver/driver.h"
#include "softgpu/driver/module.h"

namespace bf::softgpu {

LibraryRegistry& libraries() {
  static LibraryRegistry* registry = new LibraryRegistry;
  return *registry;
}
KernelRegistry& kernels() {
  static KernelRegistry* registry = new KernelRegistry;
  return *registry;
}

namespace {

// The library's code in `context`.
CUresult instance_in(Library& library, const ContextRef& context, ModuleRef* module) {
  std::lock_guard lock(library.mutex);
  ModuleRef& slot = library.instances[context->id];
  if (!slot) BF_TRY(instantiate(context, library.program, &library, &slot));
  *module = slot;
  return CUDA_SUCCESS;
}

CUresult find_kernel(CUkernel handle, std::shared_ptr<Kernel>* kernel) {
  *kernel = kernels().find(handle);
  return *kernel ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult find_library(CUlibrary handle, std::shared_ptr<Library>* library) {
  *library = libraries().find(handle);
  return *library ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

}  // namespace

void drop_library_instances(Context& context) {
  libraries().for_each([&](Library& library) {
    std::lock_guard lock(library.mutex);
    library.instances.erase(context.id);
    // Managed storage was charged to the context that first used it, and ends with it.
    std::erase_if(library.managed, [&](const auto& entry) { return entry.second->context_id == context.id; });
  });
}

BF_API CUresult cuLibraryLoadData(CUlibrary* out, const void* code, CUjit_option* options, void** values,
                                  unsigned int count, CUlibraryOption* library_options, void** library_values,
                                  unsigned int library_count) {
  BF_ENTER();
  if (!out || !code || (library_count && (!library_options || !library_values))) return CUDA_ERROR_INVALID_VALUE;
  JitLog log(count, options, values);
  BF_TRY(log.status());
  std::vector<std::string> units;
  std::string message;
  auto library = std::make_shared<Library>();
  CUresult result = ptx_units(code, FatbinForm::kAny, &units, &message);
  if (result == CUDA_SUCCESS) result = compile(units, &library->program, &message);
  if (result != CUDA_SUCCESS) return log.finish(result, message);
  for (const ptx::KernelInfo& info : library->program->kernels()) {
    auto kernel = std::make_shared<Kernel>();
    kernel->library = library;
    kernel->info = &info;
    for (auto& settings : kernel->settings)
      settings = std::make_shared<FunctionSettings>(kSharedPerBlock - int(info.static_shared_bytes), -1);
    library->kernels.push_back(kernels().add(std::move(kernel)));
  }
  *out = libraries().add(std::move(library));
  return log.finish(CUDA_SUCCESS, {});
}

BF_API CUresult cuLibraryLoadFromFile(CUlibrary* out, const char* path, CUjit_option* options, void** values,
                                      unsigned int count, CUlibraryOption* library_options, void** library_values,
                                      unsigned int library_count) {
  BF_ENTER();
  if (!out || !path) return CUDA_ERROR_INVALID_VALUE;
  std::string bytes;
  BF_TRY(read_file(path, &bytes));
  return cuLibraryLoadData(out, bytes.c_str(), options, values, count, library_options, library_values, library_count);
}

BF_API CUresult cuLibraryUnload(CUlibrary handle) {
  BF_ENTER();
  auto library = libraries().find(handle);
  if (!library) return CUDA_ERROR_INVALID_HANDLE;
  std::map<uint64_t, ModuleRef> instances;
  {
    std::lock_guard lock(library->mutex);
    instances.swap(library->instances);
  }
  if (!libraries().remove(handle)) return CUDA_ERROR_INVALID_HANDLE;
  for (auto& [id, module] : instances) {
    synchronize(*module->context);
    if (modules().remove(module->handle)) drop_module(*module);
  }
  for (CUkernel kernel : library->kernels) kernels().remove(kernel);
  for (auto& [name, storage] : library->managed)
    if (AddressSpace::instance().remove(storage->begin, [](const Allocation&) { return true; }))
      release_memory(*storage);
  return CUDA_SUCCESS;
}

BF_API CUresult cuLibraryGetKernel(CUkernel* out, CUlibrary handle, const char* name) {
  BF_ENTER();
  if (!out || !name) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Library> library;
  BF_TRY(find_library(handle, &library));
  const ptx::KernelInfo* info = library->program->find_kernel(name);
  if (!info) return CUDA_ERROR_NOT_FOUND;
  *out = library->kernels[info->index];
  return CUDA_SUCCESS;
}

BF_API CUresult cuLibraryGetKernelCount(unsigned int* count, CUlibrary handle) {
  BF_ENTER();
  if (!count) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Library> library;
  BF_TRY(find_library(handle, &library));
  *count = library->kernels.size();
  return CUDA_SUCCESS;
}

BF_API CUresult cuLibraryEnumerateKernels(CUkernel* out, unsigned int count, CUlibrary handle) {
  BF_ENTER();
  if (!out || count == 0) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Library> library;
  BF_TRY(find_library(handle, &library));
  for (size_t i = 0; i < count && i < library->kernels.size(); i++) out[i] = library->kernels[i];
  return CUDA_SUCCESS;
}

BF_API CUresult cuLibraryGetModule(CUmodule* out, CUlibrary handle) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Library> library;
  BF_TRY(find_library(handle, &library));
  ContextRef context;
  BF_TRY(current_context(&context));
  ModuleRef module;
  BF_TRY(instance_in(*library, context, &module));
  *out = module->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuLibraryGetGlobal(CUdeviceptr* address, size_t* bytes, CUlibrary handle, const char* name) {
  BF_ENTER();
  CUmodule module;
  BF_TRY(cuLibraryGetModule(&module, handle));
  return cuModuleGetGlobal_v2(address, bytes, module, name);
}

namespace {

// Storage and initial values of all managed variables; they may be used before the library has an instance anywhere.
// library.mutex is held.
CUresult make_managed(Library& library, const ContextRef& context) {
  auto variables = library.program->variables();
  std::vector<uint64_t> addresses;
  std::vector<std::vector<uint64_t>> scratch;
  for (const ptx::Variable& variable : variables) {
    if (variable.managed) {
      AllocationRef storage = allocate_memory(*context, std::max<uint64_t>(variable.bytes, 1), MemoryKind::kManaged);
      if (!storage) return CUDA_ERROR_OUT_OF_MEMORY;
      library.managed[variable.name] = storage;
      addresses.push_back(storage->begin);
    } else {
      uint64_t bytes = variable.bytes + variable.alignment;
      scratch.emplace_back(bytes / 8 + 1);
      addresses.push_back((uint64_t(scratch.back().data()) + variable.alignment - 1) / variable.alignment *
                          variable.alignment);
    }
  }
  return library.program->instantiate(addresses).ok() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_PTX;
}

}  // namespace

BF_API CUresult cuLibraryGetManaged(CUdeviceptr* address, size_t* bytes, CUlibrary handle, const char* name) {
  BF_ENTER();
  if (!name) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Library> library;
  BF_TRY(find_library(handle, &library));
  for (const ptx::Variable& variable : library->program->variables()) {
    if (!variable.managed || variable.name != name) continue;
    std::lock_guard lock(library->mutex);
    if (library->managed.empty()) {
      // cudart asks before there is a context; the storage then belongs to the primary context of the first device.
      ContextRef context = current_or_null();
      BF_TRY(make_managed(*library, context ? context : device_at(0)->primary));
    }
    if (address) *address = library->managed[name]->begin;
    if (bytes) *bytes = variable.bytes;
    return CUDA_SUCCESS;
  }
  return CUDA_ERROR_NOT_FOUND;
}

BF_API CUresult cuLibraryGetUnifiedFunction(void** pointer, CUlibrary handle, const char* symbol) {
  BF_ENTER();
  if (!pointer || !symbol) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Library> library;
  BF_TRY(find_library(handle, &library));
  return CUDA_ERROR_NOT_FOUND;
}

BF_API CUresult cuKernelGetFunction(CUfunction* out, CUkernel handle) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  FunctionRef function;
  std::shared_ptr<Kernel> kernel;
  BF_TRY(find_kernel(handle, &kernel));
  BF_TRY(find_function(CUfunction(handle), &function));
  *out = function->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuKernelGetLibrary(CUlibrary* out, CUkernel handle) {
  BF_ENTER();
  if (!out) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Kernel> kernel;
  BF_TRY(find_kernel(handle, &kernel));
  *out = kernel->library->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuKernelGetAttribute(int* value, CUfunction_attribute attribute, CUkernel handle, CUdevice dev) {
  BF_ENTER();
  std::shared_ptr<Kernel> kernel;
  BF_TRY(find_kernel(handle, &kernel));
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  return function_attribute(*kernel->info, *kernel->settings[dev], attribute, value);
}

BF_API CUresult cuKernelSetAttribute(CUfunction_attribute attribute, int value, CUkernel handle, CUdevice dev) {
  BF_ENTER();
  std::shared_ptr<Kernel> kernel;
  BF_TRY(find_kernel(handle, &kernel));
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  return set_function_attribute(*kernel->info, *kernel->settings[dev], attribute, value);
}

BF_API CUresult cuKernelSetCacheConfig(CUkernel handle, CUfunc_cache config, CUdevice dev) {
  BF_ENTER();
  std::shared_ptr<Kernel> kernel;
  BF_TRY(find_kernel(handle, &kernel));
  if (!device_at(dev)) return CUDA_ERROR_INVALID_DEVICE;
  return unsigned(config) > CU_FUNC_CACHE_PREFER_EQUAL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

BF_API CUresult cuKernelGetName(const char** name, CUkernel handle) {
  BF_ENTER();
  if (!name) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Kernel> kernel;
  BF_TRY(find_kernel(handle, &kernel));
  *name = kernel->info->name.c_str();
  return CUDA_SUCCESS;
}

BF_API CUresult cuKernelGetParamInfo(CUkernel handle, size_t index, size_t* offset, size_t* bytes) {
  BF_ENTER();
  if (!offset) return CUDA_ERROR_INVALID_VALUE;
  std::shared_ptr<Kernel> kernel;
  BF_TRY(find_kernel(handle, &kernel));
  if (index >= kernel->info->params.size()) return CUDA_ERROR_INVALID_VALUE;
  *offset = kernel->info->params[index].offset;
  if (bytes) *bytes = kernel->info->params[index].bytes;
  return CUDA_SUCCESS;
}

}  // namespace bf::softgpu
