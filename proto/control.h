// Control messages as plain structs, and their codec. proto/control.proto is the specification: every struct and field
// here has the name it has there.
//
// encode_X never fails: text longer than its bound is cut, bytes that are not UTF-8 become '?'. decode_X treats its
// input as hostile: kInvalid for anything malformed, longer than limits::kControlBodyBytes, or past a bound below.
// Unknown fields are skipped, so both sides can grow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace bf::control {

inline constexpr uint32_t kProtocolVersion = 3;
inline constexpr size_t kSecretBytes = 32;

// Bounds of the fields. Generous for honest peers; small enough that 4096 unknown connections cannot fill memory.
inline constexpr size_t kIdBytes = 64;         // lease and session ids, transports, UUIDs, bus ids
inline constexpr size_t kNameBytes = 256;      // hosts, programs, GPU names, versions
inline constexpr size_t kMessageBytes = 4096;  // sentences for people
inline constexpr size_t kGpusPerServer = 64;
inline constexpr size_t kTransports = 16;
inline constexpr size_t kChecks = 64;
// A reading, all of it, is one frame: together these stay below limits::kControlBodyBytes.
inline constexpr size_t kFactsBytes = 34 << 10;        // NvmlAnswers about one GPU
inline constexpr size_t kSampleBytes = 14 << 10;       // those of them that change
inline constexpr size_t kSystemBytes = 4 << 10;        // NvmlAnswers of functions without a device
inline constexpr size_t kAnswers = 4096;
inline constexpr size_t kAnswerBytes = 4096;           // value of one: supported clocks are the longest
inline constexpr size_t kProcessesPerReading = 128;    // further ones are not named
inline constexpr size_t kProcessNameBytes = 64;
inline constexpr size_t kWords = 32;  // of a command

// --- client <-> bfserver ---------------------------------------------------------------------------------------------

struct Gpu {
  uint32_t index = 0;
  std::string name;
  std::string uuid;
  uint64_t memory_bytes = 0;
  uint64_t free_bytes = 0;
  uint32_t leases = 0;
  uint32_t compute_major = 0;
  uint32_t compute_minor = 0;
  uint64_t context_bytes = 0;
  std::string pci_bus_id;
  bool healthy = false;
  std::string health_note;
  bool sampled = false;
  uint32_t temperature_c = 0;
  uint32_t power_mw = 0;
  uint32_t power_limit_mw = 0;
  uint32_t gpu_percent = 0;
  uint32_t memory_percent = 0;
  uint64_t used_bytes = 0;
};

struct ListRequest {
  bool sampled = false;
};
struct ListReply {
  std::string server_name;
  std::string version;
  uint32_t driver_version = 0;
  std::vector<Gpu> gpus;
  bool draining = false;
  uint32_t sessions = 0;
  bool software = false;
  std::vector<std::string> transports;
  std::string driver;
  std::string server_id;
  std::string pool;
};

struct LeaseRequest {
  uint32_t gpus = 0;
  uint64_t memory_bytes = 0;
  double fraction = 0;
  std::string client_name;
  uint32_t client_pid = 0;
  std::string program;
  bool spread = false;
  std::vector<std::string> gpu_uuids{};
  uint64_t ttl_ms = 0;
  bool detached = false;
};
struct ReserveReply {
  uint32_t status = 0;
  std::string message;
  std::string reservation_id;
  uint32_t ttl_ms = 0;
};
struct CommitRequest {
  std::string reservation_id;
};
struct HoldRequest {
  std::string lease_id;
};
struct Partition {
  uint32_t gpu_index = 0;
  std::string uuid;
  uint64_t memory_bytes = 0;
  std::string name;
};
struct LeaseReply {
  uint32_t status = 0;
  std::string message;
  std::string lease_id;
  std::string secret;
  std::vector<Partition> partitions;
  bool encrypt = false;
};
struct SessionLost {
  std::string program;
  uint32_t pid = 0;
  std::string why;
  uint64_t calls = 0;
};

struct AttachRequest {
  uint32_t protocol = 0;
  std::string lease_id;
  uint32_t pid = 0;
  std::string program;
  std::string transport;
  uint32_t api_version = 0;
  std::string nonce;
  bool encrypt = false;
  bool choose_devices = false;
  std::string visible_devices;
  bool pci_order = false;
};
struct Challenge {
  std::string nonce;
};
struct Proof {
  std::string proof;
};
struct AttachReply {
  uint32_t status = 0;
  std::string message;
  std::string session_id;
  uint32_t channels = 0;
  bool device_twice = false;
  uint32_t rdma_port = 0;
  std::string rdma_address;
  std::string rdma_note;
};
struct JoinRequest {
  std::string session_id;
  uint32_t index = 0;
  std::string proof;
};
struct JoinReply {
  uint32_t status = 0;
  std::string message;
};

struct HealthRequest {};
enum class Grade : uint32_t { kPass = 0, kMarginal = 1, kFail = 2 };
struct HealthCheck {
  std::string name;
  uint32_t grade = 0;  // Grade
  std::string note;
};
struct HealthReply {
  std::vector<HealthCheck> checks;
};

struct ReadingRequest {
  std::string lease_id;
  std::string proof;
  uint32_t device = 0;
  bool sampled = false;
  uint64_t facts_seen = 0;
  uint64_t sample_seen = 0;
};
struct LeaseProcess {
  uint32_t pid = 0;
  std::string name;
  uint64_t used_bytes = 0;
};
struct ReadingReply {
  uint32_t status = 0;
  std::string message;
  uint32_t devices = 0;
  uint32_t gpu_index = 0;
  std::string uuid;
  std::string name;
  std::string pci_bus_id;
  uint64_t memory_bytes = 0;
  uint64_t used_bytes = 0;
  std::vector<LeaseProcess> processes;
  uint64_t facts_version = 0;
  uint64_t sample_version = 0;
  std::string facts;
  std::string sample;
  std::string system;
  uint64_t sample_unix_us = 0;
};
struct NvmlAnswer {
  uint32_t function = 0;
  uint32_t key1 = 0;
  uint32_t key2 = 0;
  uint32_t key3 = 0;
  uint32_t key4 = 0;
  uint32_t result = 0;
  std::string value;
};
struct NvmlAnswers {
  std::vector<NvmlAnswer> answers;
};

struct BandwidthRequest {
  uint64_t send_bytes = 0;
};
struct ErrorReply {
  uint32_t status = 0;
  std::string message;
};
struct AuthRequest {
  std::string token_id;
  std::string secret;
  uint64_t unix_time = 0;
};
struct AuthReply {
  uint32_t status = 0;
  std::string message;
  std::string client;
  bool admin = false;
};
struct ManageRequest {
  std::vector<std::string> words;
};
struct ManageReply {
  uint32_t status = 0;
  std::string message;
};

// --- worker -> client inside a session -------------------------------------------------------------------------------

struct DataNotice {
  uint64_t ticket = 0;
  uint64_t offset = 0;
  uint64_t watermark = 0;
};
struct AsyncErrorNotice {
  uint32_t result = 0;
  uint32_t opcode = 0;
  uint32_t lane = 0;
};
struct PrintNotice {
  uint32_t fd = 0;
};
struct CallbackNotice {
  uint64_t id = 0;
  uint32_t status = 0;
  uint64_t watermark = 0;
  uint64_t data_frames = 0;
  std::string wanted;  // addresses, 8 little-endian bytes each: staging that the graph reads behind the function
};
struct HostData {
  uint64_t staging = 0;
  uint64_t offset = 0;
};

// --- bfserver <-> bfworker (proto/supervise.h carries them) ----------------------------------------------------------

struct WorkerDevice {
  uint32_t gpu_index = 0;
  uint64_t limit_bytes = 0;
  uint64_t context_bytes = 0;
  std::string uuid;
  uint32_t partition = 0;
};
struct Assign {
  std::string session_id;
  std::string session_key;
  std::string lease_id;
  std::vector<WorkerDevice> devices;
  uint32_t ledger_slot = 0;
  std::string transport;
  uint32_t channels = 0;
  uint32_t client_pid = 0;
  std::string program;
  bool encrypt = false;
  std::string rdma_address;
  std::string image_salt;
};
struct Channel {
  uint32_t index = 0;
};
struct Ready {};
struct WorkerReport {
  uint64_t calls = 0;
  uint64_t bytes_in = 0;
  uint64_t bytes_out = 0;
  uint64_t last_call_unix_ms = 0;
  std::string reason;
  uint32_t outstanding = 0;
  bool lost = false;
};
// free_bytes of a probed Gpu: what leases may share on that card, contexts included (0: not measured, the whole card).
struct ProbeReply {
  uint32_t status = 0;
  std::string message;
  uint32_t driver_version = 0;
  std::vector<Gpu> gpus;
  bool rdma = false;
};

struct MonitorRequest {};
struct MonitorReport {
  bool system = false;
  std::string uuid;
  std::string facts;
  std::string sample;
  bool last = false;
  uint64_t sample_unix_us = 0;
  uint32_t index = 0;
};

// --- codec -----------------------------------------------------------------------------------------------------------

using Bytes = std::span<const std::byte>;

inline Bytes as_bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

std::string encode_ListRequest(const ListRequest& message);
std::string encode_ListReply(const ListReply& message);
std::string encode_LeaseRequest(const LeaseRequest& message);
std::string encode_LeaseReply(const LeaseReply& message);
std::string encode_SessionLost(const SessionLost& message);
std::string encode_AttachRequest(const AttachRequest& message);
std::string encode_AttachReply(const AttachReply& message);
std::string encode_JoinRequest(const JoinRequest& message);
std::string encode_JoinReply(const JoinReply& message);
std::string encode_HealthRequest(const HealthRequest& message);
std::string encode_HealthReply(const HealthReply& message);
std::string encode_BandwidthRequest(const BandwidthRequest& message);
std::string encode_ErrorReply(const ErrorReply& message);
std::string encode_ReserveReply(const ReserveReply& message);
std::string encode_CommitRequest(const CommitRequest& message);
std::string encode_HoldRequest(const HoldRequest& message);
std::string encode_Challenge(const Challenge& message);
std::string encode_Proof(const Proof& message);
std::string encode_AuthRequest(const AuthRequest& message);
std::string encode_AuthReply(const AuthReply& message);
std::string encode_ManageRequest(const ManageRequest& message);
std::string encode_ManageReply(const ManageReply& message);
std::string encode_DataNotice(const DataNotice& message);
std::string encode_AsyncErrorNotice(const AsyncErrorNotice& message);
std::string encode_PrintNotice(const PrintNotice& message);
std::string encode_CallbackNotice(const CallbackNotice& message);
std::string encode_HostData(const HostData& message);
std::string encode_Assign(const Assign& message);
std::string encode_Channel(const Channel& message);
std::string encode_Ready(const Ready& message);
std::string encode_WorkerReport(const WorkerReport& message);
std::string encode_ProbeReply(const ProbeReply& message);
std::string encode_ReadingRequest(const ReadingRequest& message);
std::string encode_ReadingReply(const ReadingReply& message);
std::string encode_NvmlAnswers(const NvmlAnswers& message);
std::string encode_MonitorRequest(const MonitorRequest& message);
std::string encode_MonitorReport(const MonitorReport& message);

Result<ListRequest> decode_ListRequest(Bytes body);
Result<ListReply> decode_ListReply(Bytes body);
Result<LeaseRequest> decode_LeaseRequest(Bytes body);
Result<LeaseReply> decode_LeaseReply(Bytes body);
Result<SessionLost> decode_SessionLost(Bytes body);
Result<AttachRequest> decode_AttachRequest(Bytes body);
Result<AttachReply> decode_AttachReply(Bytes body);
Result<JoinRequest> decode_JoinRequest(Bytes body);
Result<JoinReply> decode_JoinReply(Bytes body);
Result<HealthRequest> decode_HealthRequest(Bytes body);
Result<HealthReply> decode_HealthReply(Bytes body);
Result<BandwidthRequest> decode_BandwidthRequest(Bytes body);
Result<ErrorReply> decode_ErrorReply(Bytes body);
Result<ReserveReply> decode_ReserveReply(Bytes body);
Result<CommitRequest> decode_CommitRequest(Bytes body);
Result<HoldRequest> decode_HoldRequest(Bytes body);
Result<Challenge> decode_Challenge(Bytes body);
Result<Proof> decode_Proof(Bytes body);
Result<AuthRequest> decode_AuthRequest(Bytes body);
Result<AuthReply> decode_AuthReply(Bytes body);
Result<ManageRequest> decode_ManageRequest(Bytes body);
Result<ManageReply> decode_ManageReply(Bytes body);
Result<DataNotice> decode_DataNotice(Bytes body);
Result<AsyncErrorNotice> decode_AsyncErrorNotice(Bytes body);
Result<PrintNotice> decode_PrintNotice(Bytes body);
Result<CallbackNotice> decode_CallbackNotice(Bytes body);
Result<HostData> decode_HostData(Bytes body);
Result<Assign> decode_Assign(Bytes body);
Result<Channel> decode_Channel(Bytes body);
Result<Ready> decode_Ready(Bytes body);
Result<WorkerReport> decode_WorkerReport(Bytes body);
Result<ProbeReply> decode_ProbeReply(Bytes body);
Result<ReadingRequest> decode_ReadingRequest(Bytes body);
Result<ReadingReply> decode_ReadingReply(Bytes body);
Result<NvmlAnswers> decode_NvmlAnswers(Bytes body);
Result<MonitorRequest> decode_MonitorRequest(Bytes body);
Result<MonitorReport> decode_MonitorReport(Bytes body);

// A status that came over the wire: an unknown code becomes kInternal.
Status to_status(uint32_t code, std::string message);

}  // namespace bf::control
