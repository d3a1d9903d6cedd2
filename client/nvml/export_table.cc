// The table that nvidia-smi asks for before anything else (nvmlInternalGetExportTable), and without which it says that
// it and NVML are of different versions.
//
// Measured with nvidia-smi 580.159.04 and a library that logs what passes through it: one table, whose first word is
// its size in bytes (270 words); which entries are called by the table, -L, -q, -x, --query-gpu and dmon, with which
// arguments and what they write. Only those are here. Every other entry says NOT_SUPPORTED, which nvidia-smi prints as
// N/A.
#include <array>
#include <cstdio>
#include <cstring>

#include "client/nvml/processes.h"
#include "client/nvml/shim.h"
#include "nvml/handlers.h"

namespace bf::nvml {
namespace {

constexpr unsigned char kTableId[16] = {0xc4, 0xfe, 0x3e, 0x6c, 0xc9, 0x8f, 0x6c, 0x4e,
                                        0xa3, 0x27, 0xee, 0x69, 0x6e, 0x12, 0xf7, 0xc4};
constexpr size_t kWords = 270;

// What the process lists of the table are made of; elements are 4128 bytes apart.
struct NamedProcess {
  unsigned pid;
  unsigned long long used_bytes;
  unsigned gpu_instance, compute_instance;
  unsigned long long protected_bytes;
  char name[4096];
};

static_assert(sizeof(NamedProcess) == 4128);

nvmlReturn_t refused() { return NVML_ERROR_NOT_SUPPORTED; }

// 26: (format, ...): what nvidia-smi printed, for the library's own log.
nvmlReturn_t log(const char*, ...) { return NVML_SUCCESS; }

// 81: (index, text of 16): the bus id with a short domain.
nvmlReturn_t bus_id(unsigned index, char* text) {
  return guarded([&]() -> nvmlReturn_t {
    LeaseView* lease = view();
    if (lease == nullptr || index >= lease->devices() || text == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
    DevicePointer reading;
    if (nvmlReturn_t error = read_device(handle_of(index), LeaseView::Want::kFacts, reading); error != NVML_SUCCESS)
      return error;
    unsigned domain = 0, bus = 0, device = 0;
    sscanf(reading->books.pci_bus_id.c_str(), "%x:%x:%x", &domain, &bus, &device);
    snprintf(text, 16, "%04X:%02X:%02X.0", domain & 0xffff, bus & 0xff, device & 0xff);
    return NVML_SUCCESS;
  });
}

// 213: (device, count, list of NamedProcess): compute processes.
nvmlReturn_t compute_processes(nvmlDevice_t device, unsigned* count, NamedProcess* infos) {
  return guarded([&]() -> nvmlReturn_t {
    std::vector<control::LeaseProcess> processes;
    if (nvmlReturn_t error = processes_of(device, processes); error != NVML_SUCCESS) return error;
    const unsigned room = *count;
    *count = unsigned(processes.size());
    if (room < processes.size()) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (size_t i = 0; i < processes.size(); i++) {
      infos[i] = {processes[i].pid, processes[i].used_bytes, ~0u, ~0u, 0, {}};
      std::memcpy(infos[i].name, processes[i].name.data(),
                  std::min(processes[i].name.size(), sizeof infos[i].name - 1));
    }
    return NVML_SUCCESS;
  });
}

// 214, 215: the same of graphics and of MPS processes.
nvmlReturn_t no_processes(nvmlDevice_t device, unsigned* count, void*) {
  if (!index_of(device)) return NVML_ERROR_INVALID_ARGUMENT;
  *count = 0;
  return NVML_SUCCESS;
}

// 72, asked by dmon: (device, number): 1 on an H200.
nvmlReturn_t dmon_question(nvmlDevice_t device, unsigned* answer) {
  if (!index_of(device)) return NVML_ERROR_INVALID_ARGUMENT;
  *answer = 1;
  return NVML_SUCCESS;
}

// 249: (device, mode): "Sparse Operation Mode", which no data-centre card is in.
nvmlReturn_t sparse_mode(nvmlDevice_t device, unsigned* mode) {
  if (!index_of(device)) return NVML_ERROR_INVALID_ARGUMENT;
  *mode = 0;
  return NVML_SUCCESS;
}

template <typename F>
const void* address(F* function) {
  return reinterpret_cast<const void*>(function);
}

const std::array<const void*, kWords>& table() {
  static const auto* const made = [] {
    auto* words = new std::array<const void*, kWords>;
    words->fill(address(refused));
    (*words)[0] = reinterpret_cast<const void*>(sizeof *words);
    (*words)[26] = address(log);
    (*words)[72] = address(dmon_question);
    (*words)[81] = address(bus_id);
    (*words)[213] = address(compute_processes);
    (*words)[214] = address(no_processes);
    (*words)[215] = address(no_processes);
    (*words)[249] = address(sparse_mode);
    return words;
  }();
  return *made;
}

}  // namespace

nvmlReturn_t handle_nvmlInternalGetExportTable(const void** exported, const void* id) {
  if (exported == nullptr || id == nullptr) return NVML_ERROR_INVALID_ARGUMENT;
  if (std::memcmp(id, kTableId, sizeof kTableId) != 0) return NVML_ERROR_NOT_FOUND;
  *exported = table().data();
  return NVML_SUCCESS;
}

}  // namespace bf::nvml
