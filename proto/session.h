// What a worker tells its client about devices and code, and how JIT options travel: the values of the `bytes` fields
// `snapshot`, `facts`, `jit` and `jit_out` of the calls in proto/api/driver.toml. Plain structs with a bounded protobuf
// codec; numbers in the codec are never reused. Encoders cannot fail; decoders check every bound and give kInvalid.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "base/status.h"

namespace bf {

// (CUdevice_attribute | CUfunction_attribute | CUlimit ..., value); only those that the driver answered.
using AttributeList = std::vector<std::pair<int32_t, int64_t>>;

// Null if the list does not hold `attribute`.
const int64_t* find_attribute(const AttributeList& list, int32_t attribute);

struct DeviceSnapshot {
  std::string name;
  std::array<uint8_t, 16> uuid{};
  std::array<uint8_t, 8> luid{};
  uint32_t luid_node_mask = 0;
  bool has_luid = false;            // false: cuDeviceGetLuid answers NOT_SUPPORTED
  uint32_t pci_domain = 0;
  uint32_t pci_bus = 0;
  uint32_t pci_device = 0;
  uint64_t total_bytes = 0;         // of the partition, not of the card
  AttributeList attributes;         // CUdevice_attribute 1 .. CU_DEVICE_ATTRIBUTE_MAX - 1
  uint32_t compute_major = 0;
  uint32_t compute_minor = 0;
  int32_t least_priority = 0;       // cuCtxGetStreamPriorityRange
  int32_t greatest_priority = 0;
  AttributeList limits;             // CUlimit -> value in a fresh primary context
  uint32_t primary_flags = 0;       // cuDevicePrimaryCtxGetState of an untouched primary context
  uint32_t context_api_version = 0; // cuCtxGetApiVersion of the primary context
  uint32_t affinity_types = 0;      // bit per CUexecAffinityType that cuDeviceGetExecAffinitySupport reports
};

// cuDeviceCanAccessPeer and cuDeviceGetP2PAttribute between two devices of the session.
struct PeerSnapshot {
  uint32_t from = 0;
  uint32_t to = 0;
  bool access = false;
  AttributeList attributes;         // CUdevice_P2PAttribute
};

struct SessionSnapshot {
  uint32_t driver_version = 0;      // cuDriverGetVersion, e.g. 13000
  uint32_t loading_mode = 0;        // cuModuleGetLoadingMode
  bool software = false;            // the software GPU stands in for hardware
  uint32_t spin_us = 0;             // how long a client may usefully poll for a reply before it sleeps
  std::vector<DeviceSnapshot> devices;  // in the order the program sees them
  std::vector<PeerSnapshot> peers;
  std::string image_salt;           // an image's name is the SHA-256 of this and its bytes
};

std::string encode(const SessionSnapshot& snapshot);
Result<SessionSnapshot> decode_session_snapshot(std::string_view bytes);

struct ParameterInfo {
  uint32_t offset = 0;
  uint32_t size = 0;
};

struct FunctionFacts {
  std::string name;
  bool kernel = false;              // a CUkernel; false: a CUfunction
  std::vector<ParameterInfo> parameters;
  bool parameters_known = true;     // false: the driver would not say (very old images)
  AttributeList attributes;         // CUfunction_attribute 0 .. CU_FUNC_ATTRIBUTE_MAX - 1
  uint64_t owner = 0;               // handle value of the CUmodule or CUlibrary it came from, as the client knows it; 0: unknown
};

std::string encode(const FunctionFacts& facts);
Result<FunctionFacts> decode_function_facts(std::string_view bytes);

// Enumerations answer many at once; handle values run beside in `handles` (8 little-endian bytes each).
std::string encode(const std::vector<FunctionFacts>& list);
Result<std::vector<FunctionFacts>> decode_function_facts_list(std::string_view bytes);

// Bulk transfers from worker to client: bytes of a device-to-host ticket. A large ticket travels as several transfers, so
// the transfer id names the ticket and where its bytes begin, in units of limits::kBulkBlockBytes.
inline constexpr uint32_t kTicketBits = 40;
constexpr uint64_t ticket_transfer(uint64_t ticket, uint64_t offset) {
  return ticket | (offset / limits::kBulkBlockBytes) << kTicketBits;
}
constexpr uint64_t ticket_of_transfer(uint64_t transfer) { return transfer & ((uint64_t{1} << kTicketBits) - 1); }
constexpr uint64_t offset_of_transfer(uint64_t transfer) { return (transfer >> kTicketBits) * limits::kBulkBlockBytes; }

// A part of a graph that needs the client when the graph is launched: a copy through staging (an address that
// bfStagingAlloc gave), or a host function. Lists of them travel as they lie in memory.
struct GraphPart {
  enum Flags : uint32_t {
    kReadsHost = 1,       // the copy reads host memory: staging is filled before the launch
    kWritesHost = 2,      // it writes host memory: staging is emptied after the launch ...
    kDelivered = 4,       // ... or before a host function of the graph that runs behind the copy
    kMaybeSkipped = 8,    // in the body of a conditional node: staging may come back as it was
  };
  uint64_t staging = 0;
  uint64_t function = 0;  // id of a host function; 0: a copy
  uint32_t flags = 0;
  uint32_t reserved = 0;
};
static_assert(sizeof(GraphPart) == 24);

// One CUjit_option (or CUlibraryOption) and its value as the program gave it: a number. Log buffers and other
// addresses never travel; `value` is 0 for them. Floats are their bits.
struct JitOption {
  int32_t option = 0;
  uint64_t value = 0;
};

struct JitOptions {
  std::vector<JitOption> options;   // without CU_JIT_*_LOG_BUFFER and their sizes
  uint32_t info_log_bytes = 0;      // CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES where a buffer was given; 0: none
  uint32_t error_log_bytes = 0;
  bool has_info_log = false;        // both the buffer and its size were given
  bool has_error_log = false;
  std::vector<JitOption> library_options;  // cuLibraryLoadData only
  // CU_JIT_GLOBAL_SYMBOL_NAMES: the names; addresses are values the program gave (device addresses).
  std::vector<std::string> global_names;
  std::vector<uint64_t> global_addresses;
};

std::string encode(const JitOptions& options);
Result<JitOptions> decode_jit_options(std::string_view bytes);

// What the driver wrote back.
struct JitResult {
  std::vector<JitOption> updated;   // options whose value the driver changed (wall time, threads per block, log sizes)
  std::string info_log;             // as many bytes as the driver filled
  std::string error_log;
};

std::string encode(const JitResult& result);
Result<JitResult> decode_jit_result(std::string_view bytes);

}  // namespace bf
