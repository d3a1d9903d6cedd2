// What the driver's private tables (proto/abi/private_tables.h) ask of this driver.
#include "proto/abi/private_tables.h"

#include <cstring>

#include "api/remote.h"
#include "client/contexts.h"

namespace bf::client {

namespace {

abi::ContextState context_state(CUcontext handle) noexcept {
  Context* context = state().contexts.find(value_of(handle));
  if (!context) return abi::ContextState::kUnknown;
  if (context->alive()) return abi::ContextState::kActive;
  return context->epoch.load(std::memory_order_acquire) == 0 ? abi::ContextState::kInactive : abi::ContextState::kDead;
}

CUresult primary_context_handle(CUcontext* context, CUdevice device) noexcept {
  uint64_t value = primary_context(device);
  if (!value) return CUDA_ERROR_INVALID_DEVICE;
  *context = as_handle<CUcontext>(value);
  return CUDA_SUCCESS;
}

CUresult id_of_context(CUcontext handle, uint64_t* id) noexcept {
  Context* context = state().contexts.find(value_of(handle));
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  *id = context_id(*context);
  return CUDA_SUCCESS;
}

CUresult id_of_stream(CUstream stream, uint64_t* id) noexcept {
  unsigned long long value = 0;
  CUresult result = handle_cuStreamGetId(stream, &value);
  if (result == CUDA_SUCCESS) *id = value;
  return result;
}

int version_for_tables() noexcept {
  int version = 0;
  handle_cuDriverGetVersion(&version);
  return version;
}

bool device_identity(int ordinal, CUuuid* uuid, abi::PciAddress* pci) noexcept {
  const DeviceSnapshot* device = device_snapshot(ordinal);
  if (!device) return false;
  std::memcpy(uuid->bytes, device->uuid.data(), sizeof uuid->bytes);
  *pci = {device_attribute(ordinal, CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID),
          device_attribute(ordinal, CU_DEVICE_ATTRIBUTE_PCI_BUS_ID),
          device_attribute(ordinal, CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)};
  return true;
}

CUcontext underlying_context(CUcontext context) noexcept {
  Context* object = state().contexts.find(context ? value_of(context) : current_as_set());
  return as_handle<CUcontext>(object ? object->owner : 0);
}

constexpr abi::DriverHooks kHooks = {
    .alive = []() noexcept { return Session::gate() != CUDA_ERROR_DEINITIALIZED; },
    .driver_version = version_for_tables,
    .current_context = []() noexcept { return as_handle<CUcontext>(current_as_set()); },
    .context_state = context_state,
    .primary_context = primary_context_handle,
    .context_id = id_of_context,
    .stream_id = id_of_stream,
    .underlying_context = underlying_context,
    .device_count = []() noexcept { return Session::get() ? int(Session::get()->snapshot().devices.size()) : 0; },
    .device_identity = device_identity,
    .load_module = handle_cuModuleLoadData,
    .function_count = remote_cuModuleGetFunctionCount,
    .enumerate_functions = handle_cuModuleEnumerateFunctions,
    .function_name = handle_cuFuncGetName,
};

__attribute__((constructor)) void install() { abi::set_driver_hooks(&kHooks); }

}  // namespace

CUresult handle_cuGetExportTable(const void** ppExportTable, const CUuuid* pExportTableId) noexcept {
  return abi::export_table(ppExportTable, pExportTableId);
}

}  // namespace bf::client
