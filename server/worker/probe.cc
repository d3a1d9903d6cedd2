// The cost of a context cannot be asked for; it is measured: the card's free memory before and after everything that a
// warm worker does. NVML tells it without a context of our own. The software GPU's NVML counts no memory.
#include "server/worker/probe.h"

#include <algorithm>
#include <optional>

#include "base/log.h"
#include "server/worker/charges.h"
#include "server/worker/driver_library.h"
#include "server/worker/nvml_library.h"
#include "server/worker/prepared.h"
#include "transport/rdma.h"

namespace bf::server {
namespace {

constexpr uint64_t kGuessedContext = uint64_t{640} << 20;  // without NVML: what an H200's takes, with room

std::string uuid_text(const CUuuid& uuid) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", uint8_t(uuid.bytes[i]));
  }
  return text;
}

control::Gpu describe_gpu(const DriverApi& api, int device) {
  control::Gpu gpu;
  gpu.index = uint32_t(device);
  char text[256] = "";
  api.cuDeviceGetName(text, sizeof(text) - 1, device);
  gpu.name = text;
  CUuuid uuid{};
  api.cuDeviceGetUuid_v2(&uuid, device);
  gpu.uuid = uuid_text(uuid);
  size_t bytes = 0;
  api.cuDeviceTotalMem_v2(&bytes, device);
  gpu.memory_bytes = bytes;
  int value = 0;
  api.cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device);
  gpu.compute_major = uint32_t(value);
  api.cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device);
  gpu.compute_minor = uint32_t(value);
  char bus[32] = "";
  api.cuDeviceGetPCIBusId(bus, sizeof(bus) - 1, device);
  gpu.pci_bus_id = bus;
  gpu.healthy = true;
  return gpu;
}

uint64_t whole_blocks(uint64_t bytes) { return bytes / Charges::kBlockBytes * Charges::kBlockBytes; }

void measure(const DriverApi& api, const Prepared& prepared, const NvmlLibrary* nvml, uint64_t free_before,
             control::Gpu& gpu) {
  const auto free_after = nvml ? nvml->free_bytes(gpu.uuid) : std::nullopt;
  if (free_after && free_before > *free_after) {
    gpu.free_bytes = whole_blocks(free_before);
    gpu.context_bytes = whole_blocks(free_before - *free_after + Charges::kBlockBytes - 1);
    return;
  }
  // Others' memory would be counted as ours, so the guess bounds it.
  size_t free = 0, total = 0;
  api.cuCtxSetCurrent(prepared.primary[gpu.index]);
  if (api.cuMemGetInfo_v2(&free, &total) != CUDA_SUCCESS || total < free) return;
  gpu.context_bytes = std::min<uint64_t>(whole_blocks(total - free + Charges::kBlockBytes - 1), kGuessedContext);
  gpu.free_bytes = whole_blocks(free + gpu.context_bytes);
}

control::ProbeReply failed(const Status& status) {
  control::ProbeReply reply;
  reply.status = uint32_t(status.code());
  reply.message = status.message();
  return reply;
}

}  // namespace

control::ProbeReply probe() {
  const auto driver = load_driver();
  if (!driver.ok()) return failed(driver.status());
  const DriverApi& api = driver.value().api;
  control::ProbeReply reply;
  int version = 0, count = 0;
  api.cuDriverGetVersion(&version);
  reply.driver_version = uint32_t(version);
  reply.rdma = transport::rdma_available().ok();
  api.cuDeviceGetCount(&count);
  std::optional<NvmlLibrary> nvml;
  if (!driver.value().software)
    if (auto library = NvmlLibrary::load(); library.ok()) nvml = *library;
  std::vector<uint64_t> before;
  for (int device = 0; device < count; ++device) {
    reply.gpus.push_back(describe_gpu(api, device));
    before.push_back(nvml ? nvml->free_bytes(reply.gpus.back().uuid).value_or(0) : 0);
  }
  Prepared prepared(api, DeviceStaging::wanted());
  CUresult result = prepared.start();
  if (result == CUDA_SUCCESS) result = prepared.warm();
  if (result != CUDA_SUCCESS) {
    return failed(Status(StatusCode::kUnavailable, fmt::format("making a context failed: {}", describe(api, result))));
  }
  for (size_t i = 0; i < reply.gpus.size(); ++i)
    measure(api, prepared, nvml ? &*nvml : nullptr, before[i], reply.gpus[i]);
  return reply;
}

}  // namespace bf::server
