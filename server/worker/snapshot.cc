// The answer to a session's first call: everything a program may ask of its devices without asking us again.
#include <cstring>

#include "base/log.h"
#include "proto/session.h"
#include "server/worker/session.h"

namespace bf::server {
namespace {

void add_limits(const DriverApi& driver, CUcontext context, DeviceSnapshot& snapshot) {
  CUcontext before = nullptr;
  driver.cuCtxGetCurrent(&before);
  if (driver.cuCtxSetCurrent(context) != CUDA_SUCCESS) return;
  for (int limit = 0; limit < CU_LIMIT_MAX; ++limit) {
    size_t value = 0;
    if (driver.cuCtxGetLimit(&value, CUlimit(limit)) == CUDA_SUCCESS)
      snapshot.limits.emplace_back(limit, int64_t(value));
  }
  driver.cuCtxGetStreamPriorityRange(&snapshot.least_priority, &snapshot.greatest_priority);
  driver.cuCtxGetApiVersion(context, &snapshot.context_api_version);
  driver.cuCtxSetCurrent(before);
}

DeviceSnapshot describe(const Session& session, int index) {
  const DriverApi& driver = session.driver;
  const CUdevice device = index;
  DeviceSnapshot snapshot;
  char name[256] = "";
  driver.cuDeviceGetName(name, sizeof(name) - 1, device);
  snapshot.name = name;
  CUuuid uuid{};
  driver.cuDeviceGetUuid_v2(&uuid, device);
  std::memcpy(snapshot.uuid.data(), uuid.bytes, snapshot.uuid.size());
  char luid[8] = "";
  if (driver.cuDeviceGetLuid && driver.cuDeviceGetLuid(luid, &snapshot.luid_node_mask, device) == CUDA_SUCCESS) {
    snapshot.has_luid = true;
    std::memcpy(snapshot.luid.data(), luid, snapshot.luid.size());
  }
  snapshot.total_bytes = session.charges.total(size_t(index));
  for (int attribute = 1; attribute < CU_DEVICE_ATTRIBUTE_MAX; ++attribute) {
    int value = 0;
    if (driver.cuDeviceGetAttribute(&value, CUdevice_attribute(attribute), device) == CUDA_SUCCESS)
      snapshot.attributes.emplace_back(attribute, value);
  }
  const auto number = [&](CUdevice_attribute attribute) {
    const int64_t* value = find_attribute(snapshot.attributes, attribute);
    return value ? uint32_t(*value) : 0;
  };
  snapshot.pci_domain = number(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID);
  snapshot.pci_bus = number(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID);
  snapshot.pci_device = number(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID);
  snapshot.compute_major = number(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  snapshot.compute_minor = number(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  for (int type = 0; driver.cuDeviceGetExecAffinitySupport && type < CU_EXEC_AFFINITY_TYPE_MAX; ++type) {
    int supported = 0;
    driver.cuDeviceGetExecAffinitySupport(&supported, CUexecAffinityType(type), device);
    if (supported) snapshot.affinity_types |= 1u << type;
  }
  int active = 0;
  driver.cuDevicePrimaryCtxGetState(device, &snapshot.primary_flags, &active);
  if (CUcontext context = session.prepared.primary[size_t(index)]) {
    add_limits(driver, context, snapshot);
  }
  return snapshot;
}

void add_peers(const Session& session, SessionSnapshot& snapshot) {
  const int count = int(session.config.devices.size());
  for (int from = 0; from < count; ++from) {
    for (int to = 0; to < count; ++to) {
      if (from == to) continue;
      PeerSnapshot peer{uint32_t(from), uint32_t(to), false, {}};
      int value = 0;
      peer.access = session.driver.cuDeviceCanAccessPeer(&value, from, to) == CUDA_SUCCESS && value;
      for (int attribute = CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK;
           attribute <= CU_DEVICE_P2P_ATTRIBUTE_CUDA_ARRAY_ACCESS_SUPPORTED; ++attribute) {
        if (session.driver.cuDeviceGetP2PAttribute(&value, CUdevice_P2PAttribute(attribute), from, to) == CUDA_SUCCESS)
          peer.attributes.emplace_back(attribute, value);
      }
      snapshot.peers.push_back(std::move(peer));
    }
  }
}

}  // namespace

CUresult handle_bfSessionStart(Call& call, std::string_view client_version, std::span<const std::byte>& snapshot) {
  Session& session = session_of(call);
  BF_DEBUG("session started by a client of version {}", client_version.substr(0, 64));
  SessionSnapshot facts;
  int version = 0;
  call.driver.cuDriverGetVersion(&version);
  facts.driver_version = uint32_t(version);
  CUmoduleLoadingMode mode = CU_MODULE_EAGER_LOADING;
  if (call.driver.cuModuleGetLoadingMode) call.driver.cuModuleGetLoadingMode(&mode);
  facts.loading_mode = uint32_t(mode);
  facts.software = session.config.software;
  facts.image_salt = session.config.image_salt;
  facts.spin_us = session.config.spin_us;
  for (size_t i = 0; i < session.config.devices.size(); ++i) facts.devices.push_back(describe(session, int(i)));
  add_peers(session, facts);
  snapshot = keep(call, encode(facts));
  return CUDA_SUCCESS;
}

}  // namespace bf::server
