// The parts of a driver that programs reach without a declared name: cuGetProcAddress and cuGetExportTable. Both are
// proto/abi's, which asks us through hooks; nothing here needs cuInit.
#include "proto/abi/context_storage.h"
#include "proto/abi/private_tables.h"
#include "proto/abi/procaddr.h"
#include "softgpu/driver/driver.h"
#include "softgpu/driver/module.h"
#include "softgpu/driver/stream.h"

namespace bf::softgpu {
namespace {

CUcontext current_handle() noexcept {
  ContextRef context = current_as_set();
  return context ? context->handle : nullptr;
}

abi::ContextState state_of(CUcontext handle) noexcept {
  ContextRef context = contexts().find(handle);
  if (!context) context = current_as_set();  // a destroyed context may still be current somewhere
  if (!context || context->handle != handle) return abi::ContextState::kUnknown;
  if (context->active) return abi::ContextState::kActive;
  return context->destroyed ? abi::ContextState::kDead : abi::ContextState::kInactive;
}

CUresult primary_of(CUcontext* context, CUdevice dev) noexcept {
  Device* device = device_at(dev);
  if (!device) return CUDA_ERROR_INVALID_DEVICE;
  *context = device->primary->handle;
  return CUDA_SUCCESS;
}

CUresult context_id(CUcontext context, uint64_t* id) noexcept {
  unsigned long long value;
  BF_TRY(cuCtxGetId(context, &value));
  *id = value;
  return CUDA_SUCCESS;
}

CUresult stream_id(CUstream stream, uint64_t* id) noexcept {
  unsigned long long value;
  BF_TRY(cuStreamGetId(stream, &value));
  *id = value;
  return CUDA_SUCCESS;
}

bool identity(int ordinal, CUuuid* uuid, abi::PciAddress* pci) noexcept {
  Device* device = device_at(ordinal);
  if (!device) return false;
  *uuid = device->uuid();
  *pci = {0, device->pci_bus(), 0};
  return true;
}

CUcontext underlying_of(CUcontext handle) noexcept {
  ContextRef context = handle ? contexts().find(handle) : current_as_set();
  return context && context->underlying ? context->underlying->handle : nullptr;
}

constexpr abi::DriverHooks kHooks = {
    .alive = []() noexcept { return enter_call() != CUDA_ERROR_DEINITIALIZED; },
    .driver_version = []() noexcept { return kDriverVersion; },
    .current_context = current_handle,
    .context_state = state_of,
    .primary_context = primary_of,
    .context_id = context_id,
    .stream_id = stream_id,
    .underlying_context = underlying_of,
    .device_count = []() noexcept { return device_count(); },
    .device_identity = identity,
    .load_module = [](CUmodule* module, const void* fatbin) noexcept { return cuModuleLoadData(module, fatbin); },
    .function_count = [](unsigned* count, CUmodule module) noexcept { return cuModuleGetFunctionCount(count, module); },
    .enumerate_functions =
        [](CUfunction* functions, unsigned count, CUmodule module) noexcept {
          return cuModuleEnumerateFunctions(functions, count, module);
        },
    .function_name = [](const char** name, CUfunction function) noexcept { return cuFuncGetName(name, function); },
};

}  // namespace

BF_API CUresult cuGetExportTable(const void** table, const CUuuid* id) {
  abi::set_driver_hooks(&kHooks);
  return abi::export_table(table, id);
}

BF_API CUresult cuGetProcAddress_v2(const char* symbol, void** pfn, int version, cuuint64_t flags,
                                    CUdriverProcAddressQueryResult* status) {
  return abi::proc_address_v2(symbol, pfn, version, flags, status, kDriverVersion);
}

BF_API CUresult cuGetProcAddress(const char* symbol, void** pfn, int version, cuuint64_t flags) {
  return abi::proc_address_v1(symbol, pfn, version, flags, kDriverVersion);
}

}  // namespace bf::softgpu
