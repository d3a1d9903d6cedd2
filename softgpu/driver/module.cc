#include "base/cuda_environment.h"
#include "softgpu/driver/module.h"

#include <cstdio>
#include <cstring>

#include "base/log.h"
#include "softgpu/driver/driver.h"

namespace bf::softgpu {

ModuleRegistry& modules() {
  static ModuleRegistry* registry = new ModuleRegistry;
  return *registry;
}
FunctionRegistry& functions() {
  static FunctionRegistry* registry = new FunctionRegistry;
  return *registry;
}

JitLog::JitLog(unsigned count, const CUjit_option* options, void** values) {
  if (count && (!options || !values)) {
    status_ = CUDA_ERROR_INVALID_VALUE;
    return;
  }
  for (unsigned i = 0; i < count; i++) {
    switch (options[i]) {
      case CU_JIT_INFO_LOG_BUFFER:
        info_ = (char*)values[i];
        break;
      case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
        info_bytes_ = uint32_t(uintptr_t(values[i]));
        info_slot_ = &values[i];
        break;
      case CU_JIT_ERROR_LOG_BUFFER:
        error_ = (char*)values[i];
        break;
      case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
        error_bytes_ = uint32_t(uintptr_t(values[i]));
        error_slot_ = &values[i];
        break;
      default:
        if (options[i] >= CU_JIT_NUM_OPTIONS) status_ = CUDA_ERROR_INVALID_VALUE;
    }
  }
}

CUresult JitLog::finish(CUresult code, const std::string& message) {
  if (info_ && info_bytes_) info_[0] = 0;
  if (info_slot_) *info_slot_ = nullptr;
  size_t length = 0;
  if (error_ && error_bytes_) {
    length = std::min(message.size(), error_bytes_ - 1);
    memcpy(error_, message.data(), length);
    error_[length] = 0;
  }
  if (error_slot_) *error_slot_ = (void*)length;
  return code;
}

CUresult compile(const std::vector<std::string>& units, std::shared_ptr<ptx::Module>* program, std::string* message) {
  std::vector<ptx::Source> sources;
  for (const std::string& unit : units) sources.push_back({unit, ""});
  Result<std::shared_ptr<ptx::Module>> loaded = ptx::Module::load(sources);
  if (!loaded.ok()) {
    *message = loaded.status().message();
    BF_WARN("PTX refused: {}", *message);
    return CUDA_ERROR_INVALID_PTX;
  }
  *program = std::move(*loaded);
  return CUDA_SUCCESS;
}

CUresult instantiate(const ContextRef& context, std::shared_ptr<ptx::Module> program, Library* library,
                     ModuleRef* out) {
  auto module = std::make_shared<Module>();
  module->context = context;
  module->program = program;
  if (library) module->library = library->handle;
  std::vector<std::pair<AllocationRef, std::string>> kept;  // managed variables in use, and their values
  for (const ptx::Variable& variable : program->variables()) {
    AllocationRef shared;
    if (variable.managed && library) shared = library->managed[variable.name];
    if (shared) kept.emplace_back(shared, std::string((const char*)shared->begin, shared->bytes));
    if (!shared) {
      MemoryKind kind = variable.managed ? MemoryKind::kManaged : MemoryKind::kVariable;
      shared = allocate_memory(*context, std::max<uint64_t>(variable.bytes, 1), kind);
      if (shared && variable.managed && library) library->managed[variable.name] = shared;
    }
    if (!shared) {
      drop_module(*module);
      return CUDA_ERROR_OUT_OF_MEMORY;
    }
    module->addresses.push_back(shared->begin);
  }
  Result<std::shared_ptr<ptx::Image>> image = program->instantiate(module->addresses);
  if (!image.ok()) {
    BF_WARN("module refused: {}", image.status().message());
    drop_module(*module);
    return CUDA_ERROR_INVALID_PTX;
  }
  for (const auto& [storage, value] : kept) memcpy((void*)storage->begin, value.data(), value.size());
  module->image = std::move(*image);
  modules().add(module);
  for (const ptx::KernelInfo& info : program->kernels()) {
    auto function = std::make_shared<Function>();
    function->context = context;
    function->module = module;
    function->info = &info;
    if (library) {
      function->kernel = library->kernels[info.index];
      function->loaded = true;
      if (auto kernel = kernels().find(function->kernel))
        function->settings = std::make_shared<FunctionSettings>(kernel->settings[context->device->ordinal]);
    }
    if (!function->settings)
      function->settings = std::make_shared<FunctionSettings>(kSharedPerBlock - int(info.static_shared_bytes), -1);
    module->functions.push_back(functions().add(std::move(function)));
  }
  *out = std::move(module);
  return CUDA_SUCCESS;
}

void drop_module(Module& module) {
  for (CUfunction function : module.functions) functions().remove(function);
  for (size_t i = 0; i < module.addresses.size(); i++) {
    if (module.library && module.program->variables()[i].managed) continue;  // the library's
    auto variable = [](const Allocation& a) {
      return a.kind == MemoryKind::kVariable || a.kind == MemoryKind::kManaged;
    };
    if (AllocationRef storage = AddressSpace::instance().remove(module.addresses[i], variable))
      release_memory(*storage);
  }
}

CUresult load_module(const ContextRef& context, const void* image, FatbinForm form, ModuleRef* module,
                     std::string* message) {
  std::vector<std::string> units;
  BF_TRY(ptx_units(image, form, &units, message));
  std::shared_ptr<ptx::Module> program;
  BF_TRY(compile(units, &program, message));
  return instantiate(context, std::move(program), nullptr, module);
}

CUresult read_file(const char* path, std::string* bytes) {
  FILE* file = fopen(path, "rbe");
  if (!file) return CUDA_ERROR_FILE_NOT_FOUND;
  char chunk[65536];
  for (size_t got; (got = fread(chunk, 1, sizeof chunk, file)) > 0 && bytes->size() <= limits::kImageBytes;)
    bytes->append(chunk, got);
  bool failed = ferror(file) || bytes->size() > limits::kImageBytes;
  fclose(file);
  return failed ? CUDA_ERROR_FILE_NOT_FOUND : CUDA_SUCCESS;
}

// --------------------------------------------------------------------------------------------------------- entry
// points

BF_API CUresult cuModuleLoadDataEx(CUmodule* out, const void* image, unsigned int count, CUjit_option* options,
                                   void** values) {
  BF_ENTER();
  if (!out || !image) return CUDA_ERROR_INVALID_VALUE;
  ContextRef context;
  BF_TRY(current_context(&context));
  JitLog log(count, options, values);
  BF_TRY(log.status());
  ModuleRef module;
  std::string message;
  CUresult result = load_module(context, image, FatbinForm::kHeader, &module, &message);
  if (result == CUDA_SUCCESS) *out = module->handle;
  return log.finish(result, message);
}

BF_API CUresult cuModuleLoadData(CUmodule* out, const void* image) {
  BF_ENTER();
  return cuModuleLoadDataEx(out, image, 0, nullptr, nullptr);
}

BF_API CUresult cuModuleLoadFatBinary(CUmodule* out, const void* image) {
  BF_ENTER();
  return cuModuleLoadData(out, image);
}

BF_API CUresult cuModuleLoad(CUmodule* out, const char* path) {
  BF_ENTER();
  if (!out || !path) return CUDA_ERROR_INVALID_VALUE;
  std::string bytes;
  BF_TRY(read_file(path, &bytes));
  return cuModuleLoadData(out, bytes.c_str());
}

BF_API CUresult cuModuleUnload(CUmodule handle) {
  BF_ENTER();
  ModuleRef module = modules().find(handle);
  if (!module || module->library) return CUDA_ERROR_INVALID_HANDLE;
  CUresult result = synchronize(*module->context);
  if (modules().remove(handle)) drop_module(*module);
  return result;
}

BF_API CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode* mode) {
  BF_ENTER();
  if (!mode) return CUDA_ERROR_INVALID_VALUE;
  *mode = CudaEnvironment::read().eager_loading ? CU_MODULE_EAGER_LOADING : CU_MODULE_LAZY_LOADING;
  return CUDA_SUCCESS;
}

namespace {

CUresult find_module(CUmodule handle, ModuleRef* module) {
  *module = modules().find(handle);
  if (!*module) return CUDA_ERROR_INVALID_HANDLE;
  return usable(*(*module)->context);
}

}  // namespace

BF_API CUresult cuModuleGetFunction(CUfunction* out, CUmodule handle, const char* name) {
  BF_ENTER();
  if (!out || !name || !*name) return CUDA_ERROR_INVALID_VALUE;
  ModuleRef module;
  BF_TRY(find_module(handle, &module));
  const ptx::KernelInfo* info = module->program->find_kernel(name);
  *out = nullptr;  // as the real driver does (580.159.04)
  if (!info) return CUDA_ERROR_NOT_FOUND;
  *out = module->functions[info->index];
  return cuFuncLoad(*out);
}

BF_API CUresult cuModuleGetFunctionCount(unsigned int* count, CUmodule handle) {
  BF_ENTER();
  if (!count) return CUDA_ERROR_INVALID_VALUE;
  ModuleRef module;
  BF_TRY(find_module(handle, &module));
  *count = module->functions.size();
  return CUDA_SUCCESS;
}

BF_API CUresult cuModuleEnumerateFunctions(CUfunction* out, unsigned int count, CUmodule handle) {
  BF_ENTER();
  if (!out || count == 0) return CUDA_ERROR_INVALID_VALUE;
  ModuleRef module;
  BF_TRY(find_module(handle, &module));
  for (size_t i = 0; i < count && i < module->functions.size(); i++) out[i] = module->functions[i];
  return CUDA_SUCCESS;
}

BF_API CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, size_t* bytes, CUmodule handle, const char* name) {
  BF_ENTER();
  if (!name || (!address && !bytes)) return CUDA_ERROR_INVALID_VALUE;
  ModuleRef module;
  BF_TRY(find_module(handle, &module));
  // nvcc leaves variables without .visible where nothing else is linked to them; they have names all the same.
  auto variables = module->program->variables();
  const ptx::Variable* found = nullptr;
  for (const ptx::Variable& variable : variables)
    if (variable.name == name && (!found || variable.visible)) found = &variable;
  // A kernel has a name, but is no variable (580.159.04).
  if (!found) return module->program->find_kernel(name) ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_FOUND;
  if (address) *address = module->addresses[found - variables.data()];
  if (bytes) *bytes = found->bytes;
  return CUDA_SUCCESS;
}

// ------------------------------------------------------------------------------------------------------------
// functions

CUresult find_function(CUfunction handle, const ContextRef& context, FunctionRef* out) {
  if (kind_of_handle(uint64_t(handle)) != ObjectKind::kKernel) {
    *out = functions().find(handle);
    return *out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
  }
  auto kernel = kernels().find(CUkernel(handle));
  if (!kernel) return CUDA_ERROR_INVALID_HANDLE;
  Library& library = *kernel->library;
  std::lock_guard lock(library.mutex);
  ModuleRef& module = library.instances[context->id];
  if (!module) BF_TRY(instantiate(context, library.program, &library, &module));
  *out = functions().find(module->functions[kernel->info->index]);
  return *out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult find_function(CUfunction handle, FunctionRef* out) {
  ContextRef context;
  BF_TRY(current_context(&context));
  return find_function(handle, context, out);
}

CUresult function_attribute(const ptx::KernelInfo& info, const FunctionSettings& settings,
                            CUfunction_attribute attribute, int* value) {
  if (!value) return CUDA_ERROR_INVALID_VALUE;
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
      *value = info.max_threads;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES:
      *value = info.static_shared_bytes;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES:
      *value = info.const_bytes;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES:
      *value = info.local_bytes;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
      *value = info.registers;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
      *value = info.target;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
      *value = 80;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_CACHE_MODE_CA:
    case CU_FUNC_ATTRIBUTE_CLUSTER_SIZE_MUST_BE_SET:
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      *value = 0;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
      *value = info.required_cluster.x;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
      *value = info.required_cluster.y;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
      *value = info.required_cluster.z;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      *value = settings.get(&FunctionSettings::max_dynamic_shared);
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      *value = settings.get(&FunctionSettings::carveout);
      return CUDA_SUCCESS;
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult set_function_attribute(const ptx::KernelInfo& info, FunctionSettings& settings, CUfunction_attribute attribute,
                                int value) {
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES:
      if (value < 0 || value + int64_t(info.static_shared_bytes) > kSharedPerBlockOptin)
        return CUDA_ERROR_INVALID_VALUE;
      settings.max_dynamic_shared = value;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      if (value < -1 || value > 100) return CUDA_ERROR_INVALID_VALUE;
      settings.carveout = value;
      return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_HEIGHT:
    case CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_DEPTH:
    case CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED:
    case CU_FUNC_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      return CUDA_ERROR_NOT_SUPPORTED;  // devices of this generation have no clusters
    default:
      return CUDA_ERROR_INVALID_VALUE;
  }
}

BF_API CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction handle) {
  BF_ENTER();
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  if (!function->loaded && (attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK || attribute == CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES ||
                            attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES))
    return CUDA_ERROR_FUNCTION_NOT_LOADED;  // these three, says cuda.h 13.0
  return function_attribute(*function->info, *function->settings, attribute, value);
}

BF_API CUresult cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
  BF_ENTER();
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  return set_function_attribute(*function->info, *function->settings, attribute, value);
}

BF_API CUresult cuFuncSetCacheConfig(CUfunction handle, CUfunc_cache config) {
  BF_ENTER();
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  return unsigned(config) > CU_FUNC_CACHE_PREFER_EQUAL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

BF_API CUresult cuFuncSetSharedMemConfig(CUfunction handle, CUsharedconfig) {
  BF_ENTER();
  FunctionRef function;
  return find_function(handle, &function);
}

BF_API CUresult cuFuncGetModule(CUmodule* module, CUfunction handle) {
  BF_ENTER();
  if (!module) return CUDA_ERROR_INVALID_VALUE;
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  *module = function->module->handle;
  return CUDA_SUCCESS;
}

BF_API CUresult cuFuncGetName(const char** name, CUfunction handle) {
  BF_ENTER();
  if (!name) return CUDA_ERROR_INVALID_VALUE;
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  *name = function->info->name.c_str();
  return CUDA_SUCCESS;
}

BF_API CUresult cuFuncGetParamInfo(CUfunction handle, size_t index, size_t* offset, size_t* bytes) {
  BF_ENTER();
  if (!offset) return CUDA_ERROR_INVALID_VALUE;
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  if (index >= function->info->params.size()) return CUDA_ERROR_INVALID_VALUE;
  *offset = function->info->params[index].offset;
  if (bytes) *bytes = function->info->params[index].bytes;
  return CUDA_SUCCESS;
}

BF_API CUresult cuFuncIsLoaded(CUfunctionLoadingState* state, CUfunction handle) {
  BF_ENTER();
  if (!state) return CUDA_ERROR_INVALID_VALUE;
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  *state = function->loaded ? CU_FUNCTION_LOADING_STATE_LOADED : CU_FUNCTION_LOADING_STATE_UNLOADED;
  return CUDA_SUCCESS;
}

BF_API CUresult cuFuncLoad(CUfunction handle) {
  BF_ENTER();
  FunctionRef function;
  BF_TRY(find_function(handle, &function));
  function->loaded = true;
  return CUDA_SUCCESS;
}

}  // namespace bf::softgpu
