// Memory and processes as the lease's books have them: the partition is the card, and nobody else is on it.
#include <algorithm>
#include <cstring>

#include "client/nvml/processes.h"
#include "client/nvml/shim.h"
#include "nvml/handlers.h"

namespace bf::nvml {
namespace {

constexpr unsigned kNoInstance = 0xffffffff;

struct Figures {
  unsigned long long total, used, free;
};

nvmlReturn_t figures_of(nvmlDevice_t device, Figures& figures) {
  DevicePointer reading;
  if (nvmlReturn_t error = read_device(device, LeaseView::Want::kBooks, reading); error != NVML_SUCCESS) return error;
  figures.total = reading->books.memory_bytes;
  figures.used = std::min(reading->books.used_bytes, reading->books.memory_bytes);
  figures.free = figures.total - figures.used;
  return NVML_SUCCESS;
}

// Lists of which the lease has none: graphics and MPS processes, encoder and capture sessions, accounted processes.
nvmlReturn_t none(nvmlDevice_t device, unsigned int* count) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (!index_of(device) || count == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  *count = 0;
  return NVML_SUCCESS;
}

// Fills `infos` by fill(entry, process), with NVML's handshake about its length.
template <typename Info, typename Fill>
nvmlReturn_t list(nvmlDevice_t device, unsigned int* count, Info* infos, Fill fill) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (count == nullptr || (*count > 0 && infos == nullptr)) return NVML_ERROR_INVALID_ARGUMENT;
  std::vector<control::LeaseProcess> processes;
  if (nvmlReturn_t error = processes_of(device, processes); error != NVML_SUCCESS) return error;
  const unsigned room = *count;
  *count = unsigned(processes.size());
  if (room < processes.size()) return NVML_ERROR_INSUFFICIENT_SIZE;
  for (size_t i = 0; i < processes.size(); i++) fill(infos[i], processes[i]);
  return NVML_SUCCESS;
}

}  // namespace

nvmlReturn_t processes_of(nvmlDevice_t device, std::vector<control::LeaseProcess>& processes) {
  DevicePointer reading;
  if (nvmlReturn_t error = read_device(device, LeaseView::Want::kRecent, reading); error != NVML_SUCCESS) return error;
  processes = reading->books.processes;
  return NVML_SUCCESS;
}

nvmlReturn_t handle_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t* memory) {
  if (view() != nullptr && memory == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  Figures figures;
  if (nvmlReturn_t error = figures_of(device, figures); error != NVML_SUCCESS) return error;
  *memory = {figures.total, figures.free, figures.used};
  return NVML_SUCCESS;
}

// Nothing of a partition is reserved: what the driver keeps for itself is outside.
nvmlReturn_t handle_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t* memory) {
  if (view() != nullptr && memory == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (view() != nullptr && memory->version != nvmlMemory_v2)
    return NVML_ERROR_FUNCTION_NOT_FOUND;  // as driver 580 does
  Figures figures;
  if (nvmlReturn_t error = figures_of(device, figures); error != NVML_SUCCESS) return error;
  *memory = {nvmlMemory_v2, figures.total, 0, figures.free, figures.used};
  return NVML_SUCCESS;
}

// The window is the card's; what is mapped in it, as far as the lease is concerned, is what is allocated.
nvmlReturn_t handle_nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t* bar1Memory) {
  if (view() != nullptr && bar1Memory == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  DevicePointer reading;
  if (nvmlReturn_t error = read_device(device, LeaseView::Want::kRecent, reading); error != NVML_SUCCESS) return error;
  const auto total = reading->answers->number<unsigned long long>("nvmlDeviceGetBAR1MemoryInfo");
  if (!total) return NVML_ERROR_NOT_SUPPORTED;
  const unsigned long long used = std::min<unsigned long long>(reading->books.used_bytes, *total);
  *bar1Memory = {*total, *total - used, used};
  return NVML_SUCCESS;
}

nvmlReturn_t handle_nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int* infoCount,
                                                         nvmlProcessInfo_v1_t* infos) {
  return list(device, infoCount, infos, [](auto& info, auto& process) { info = {process.pid, process.used_bytes}; });
}
nvmlReturn_t handle_nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int* infoCount,
                                                            nvmlProcessInfo_t* infos) {
  return list(device, infoCount, infos, [](auto& info, auto& process) {
    info = {process.pid, process.used_bytes, kNoInstance, kNoInstance};
  });
}

nvmlReturn_t handle_nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int* infoCount,
                                                          nvmlProcessInfo_v1_t*) {
  return none(device, infoCount);
}
nvmlReturn_t handle_nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int* infoCount,
                                                             nvmlProcessInfo_t*) {
  return none(device, infoCount);
}
nvmlReturn_t handle_nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned int* infoCount,
                                                            nvmlProcessInfo_v1_t*) {
  return none(device, infoCount);
}
nvmlReturn_t handle_nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int* infoCount,
                                                               nvmlProcessInfo_t*) {
  return none(device, infoCount);
}
nvmlReturn_t handle_nvmlDeviceGetEncoderSessions(nvmlDevice_t device, unsigned int* sessionCount,
                                                 nvmlEncoderSessionInfo_t*) {
  return none(device, sessionCount);
}
nvmlReturn_t handle_nvmlDeviceGetFBCSessions(nvmlDevice_t device, unsigned int* sessionCount, nvmlFBCSessionInfo_t*) {
  return none(device, sessionCount);
}
nvmlReturn_t handle_nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int* count, unsigned int*) {
  return none(device, count);
}
nvmlReturn_t handle_nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int, nvmlAccountingStats_t* stats) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  return index_of(device) && stats != nullptr ? NVML_ERROR_NOT_FOUND : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t handle_nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_t* plist) {
  if (view() == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (plist == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (plist->version != nvmlProcessDetailList_v1) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
  if (plist->mode > NVML_PROCESS_MODE_MPS) return NVML_ERROR_INVALID_ARGUMENT;
  if (plist->mode != NVML_PROCESS_MODE_COMPUTE) return none(device, &plist->numProcArrayEntries);
  return list(device, &plist->numProcArrayEntries, plist->procArray, [](auto& info, auto& process) {
    info = {process.pid, process.used_bytes, kNoInstance, kNoInstance, 0};
  });
}

// The vendor's counts are of host processes on the server, and of everybody's.
nvmlReturn_t handle_nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t*,
                                                    unsigned int* processSamplesCount, unsigned long long) {
  if (nvmlReturn_t error = none(device, processSamplesCount); error != NVML_SUCCESS) return error;
  return NVML_ERROR_NOT_FOUND;
}
nvmlReturn_t handle_nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_t* info) {
  if (view() != nullptr && info == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (nvmlReturn_t error = none(device, &info->processSamplesCount); error != NVML_SUCCESS) return error;
  return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t handle_nvmlSystemGetProcessName(unsigned int pid, char* name, unsigned int length) {
  LeaseView* lease = view();
  if (lease == nullptr) return NVML_ERROR_UNINITIALIZED;
  if (name == nullptr || length == 0) return NVML_ERROR_INVALID_ARGUMENT;
  for (size_t i = 0; i < lease->devices(); i++) {
    std::vector<control::LeaseProcess> processes;
    if (nvmlReturn_t error = processes_of(handle_of(i), processes); error != NVML_SUCCESS) return error;
    for (auto& process : processes) {
      if (process.pid != pid) continue;
      const size_t bytes = std::min<size_t>(process.name.size(), length - 1);
      std::memcpy(name, process.name.data(), bytes);
      name[bytes] = '\0';
      return NVML_SUCCESS;
    }
  }
  return NVML_ERROR_NOT_FOUND;
}

}  // namespace bf::nvml
