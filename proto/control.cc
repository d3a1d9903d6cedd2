// Every message is described once, by a visit() that names its fields, numbers and bounds; Encoder and Decoder are the
// two visitors. A decoder visits the message once per field on the wire, and the visit picks the field whose number and
// wire type match; anything else is skipped, as protobuf asks.
#include "proto/control.h"

#include <concepts>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>
#include <type_traits>

#include "base/limits.h"

namespace bf::control {

template <class M, class T>
concept Is = std::same_as<std::remove_const_t<M>, T>;

// Length of the UTF-8 sequence at the start of `text`, 0 if it is malformed (overlong, surrogate, cut short ...).
static size_t utf8_sequence(std::string_view text) {
  auto byte = [&](size_t i) { return i < text.size() ? uint8_t(text[i]) : 0; };
  auto tail = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
  uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return tail(1) ? 2 : 0;
  if (lead >= 0xe0 && lead <= 0xef) {
    if (!tail(1) || !tail(2) || (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) > 0x9f)) return 0;
    return 3;
  }
  if (lead >= 0xf0 && lead <= 0xf4) {
    if (!tail(1) || !tail(2) || !tail(3) || (lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) > 0x8f))
      return 0;
    return 4;
  }
  return 0;
}

static bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    size_t step = utf8_sequence(text);
    if (step == 0) return false;
    text.remove_prefix(step);
  }
  return true;
}

// `text` within `max_bytes` and valid UTF-8, for people to read.
static std::string fit_text(std::string_view text, size_t max_bytes) {
  std::string fitted;
  while (!text.empty()) {
    size_t step = utf8_sequence(text);
    if (fitted.size() + std::max<size_t>(step, 1) > max_bytes) break;
    if (step == 0)
      fitted += '?';
    else
      fitted += text.substr(0, step);
    text.remove_prefix(std::max<size_t>(step, 1));
  }
  return fitted;
}

namespace {

class Encoder {
 public:
  explicit Encoder(std::string& out) : writer_(out) {}

  void number(uint32_t tag, uint32_t value) {
    if (value != 0) writer_.add_uint32(tag, value);
  }
  void number(uint32_t tag, uint64_t value) {
    if (value != 0) writer_.add_uint64(tag, value);
  }
  void number(uint32_t tag, double value) {
    if (value != 0) writer_.add_double(tag, value);
  }
  void number(uint32_t tag, bool value) {
    if (value) writer_.add_bool(tag, value);
  }
  void text(uint32_t tag, const std::string& value, size_t max_bytes) {
    if (!value.empty()) writer_.add_string(tag, fit_text(value, max_bytes));
  }
  void bytes(uint32_t tag, const std::string& value, size_t max_bytes) {
    if (!value.empty()) writer_.add_bytes(tag, value.data(), std::min(value.size(), max_bytes));
  }
  void texts(uint32_t tag, const std::vector<std::string>& values, size_t max_bytes, size_t max_count) {
    for (size_t i = 0; i < std::min(values.size(), max_count); i++)
      writer_.add_string(tag, fit_text(values[i], max_bytes));
  }
  template <class M>
  void messages(uint32_t tag, const std::vector<M>& values, size_t max_count) {
    for (size_t i = 0; i < std::min(values.size(), max_count); i++) {
      std::string inner;
      Encoder encoder(inner);
      visit(encoder, values[i]);
      writer_.add_message(tag, inner);
    }
  }

 private:
  protozero::pbf_writer writer_;
};

// Thrown, and caught in decode(), when a field passes its bound; protozero throws its own for malformed bytes.
struct OutOfBounds {};

class Decoder {
 public:
  explicit Decoder(protozero::data_view data) : reader_(data) {}

  template <class M>
  void run(M& message) {
    while (reader_.next()) {
      taken_ = false;
      visit(*this, message);
      if (!taken_) reader_.skip();
    }
  }

  void number(uint32_t tag, uint32_t& value) {
    if (take(tag, protozero::pbf_wire_type::varint)) value = uint32_t(reader_.get_uint64());
  }
  void number(uint32_t tag, uint64_t& value) {
    if (take(tag, protozero::pbf_wire_type::varint)) value = reader_.get_uint64();
  }
  void number(uint32_t tag, double& value) {
    if (take(tag, protozero::pbf_wire_type::fixed64)) value = reader_.get_double();
  }
  void number(uint32_t tag, bool& value) {
    if (take(tag, protozero::pbf_wire_type::varint)) value = reader_.get_uint64() != 0;
  }
  void text(uint32_t tag, std::string& value, size_t max_bytes) {
    if (!take(tag, protozero::pbf_wire_type::length_delimited)) return;
    value = view(max_bytes);
    if (!is_utf8(value)) throw OutOfBounds{};
  }
  void bytes(uint32_t tag, std::string& value, size_t max_bytes) {
    if (take(tag, protozero::pbf_wire_type::length_delimited)) value = view(max_bytes);
  }
  void texts(uint32_t tag, std::vector<std::string>& values, size_t max_bytes, size_t max_count) {
    if (!take(tag, protozero::pbf_wire_type::length_delimited)) return;
    if (values.size() >= max_count) throw OutOfBounds{};
    values.emplace_back(view(max_bytes));
    if (!is_utf8(values.back())) throw OutOfBounds{};
  }
  template <class M>
  void messages(uint32_t tag, std::vector<M>& values, size_t max_count) {
    if (!take(tag, protozero::pbf_wire_type::length_delimited)) return;
    if (values.size() >= max_count) throw OutOfBounds{};
    Decoder inner(reader_.get_view());
    inner.run(values.emplace_back());
  }

 private:
  bool take(uint32_t tag, protozero::pbf_wire_type type) {
    if (taken_ || reader_.tag() != tag || reader_.wire_type() != type) return false;
    taken_ = true;
    return true;
  }
  std::string_view view(size_t max_bytes) {
    protozero::data_view data = reader_.get_view();
    if (data.size() > max_bytes) throw OutOfBounds{};
    return {data.data(), data.size()};
  }

  protozero::pbf_reader reader_;
  bool taken_ = false;
};

template <class M>
std::string encode(const M& message) {
  std::string body;
  Encoder encoder(body);
  visit(encoder, message);
  return body;
}

template <class M>
Result<M> decode(Bytes body, const char* name) {
  if (body.size() > limits::kControlBodyBytes)
    return Status{StatusCode::kInvalid, std::string("a control message (") + name + ") is too long"};
  M message;
  try {
    Decoder decoder({reinterpret_cast<const char*>(body.data()), body.size()});
    decoder.run(message);
  } catch (const OutOfBounds&) {
    return Status{StatusCode::kInvalid, std::string("a control message (") + name + ") has a field out of bounds"};
  } catch (const protozero::exception&) {
    return Status{StatusCode::kInvalid, std::string("a control message (") + name + ") is malformed"};
  }
  return message;
}

}  // namespace

// --- the messages; numbers from control.proto ------------------------------------------------------------------------

template <class V, Is<Gpu> M>
static void visit(V& v, M& m) {
  v.number(1, m.index);
  v.text(2, m.name, kNameBytes);
  v.text(3, m.uuid, kIdBytes);
  v.number(4, m.memory_bytes);
  v.number(5, m.free_bytes);
  v.number(6, m.leases);
  v.number(7, m.compute_major);
  v.number(8, m.compute_minor);
  v.number(9, m.context_bytes);
  v.text(10, m.pci_bus_id, kIdBytes);
  v.number(11, m.healthy);
  v.text(12, m.health_note, kNameBytes);
  v.number(13, m.sampled);
  v.number(14, m.temperature_c);
  v.number(15, m.power_mw);
  v.number(16, m.power_limit_mw);
  v.number(17, m.gpu_percent);
  v.number(18, m.memory_percent);
  v.number(19, m.used_bytes);
}

template <class V, Is<ListRequest> M>
static void visit(V& v, M& m) {
  v.number(1, m.sampled);
}

template <class V, Is<ListReply> M>
static void visit(V& v, M& m) {
  v.text(1, m.server_name, kNameBytes);
  v.text(2, m.version, kNameBytes);
  v.number(3, m.driver_version);
  v.messages(4, m.gpus, kGpusPerServer);
  v.number(5, m.draining);
  v.number(6, m.sessions);
  v.number(7, m.software);
  v.texts(8, m.transports, kIdBytes, kTransports);
  v.text(9, m.driver, kNameBytes);
  v.text(10, m.server_id, kIdBytes);
  v.text(11, m.pool, kIdBytes);
}

template <class V, Is<LeaseRequest> M>
static void visit(V& v, M& m) {
  v.number(1, m.gpus);
  v.number(2, m.memory_bytes);
  v.number(3, m.fraction);
  v.text(4, m.client_name, kNameBytes);
  v.number(5, m.client_pid);
  v.text(6, m.program, kNameBytes);
  v.number(7, m.spread);
  v.texts(8, m.gpu_uuids, kIdBytes, kGpusPerServer);
  v.number(9, m.ttl_ms);
  v.number(10, m.detached);
}

template <class V, Is<ReserveReply> M>
static void visit(V& v, M& m) {
  v.number(1, m.status);
  v.text(2, m.message, kMessageBytes);
  v.text(3, m.reservation_id, kIdBytes);
  v.number(4, m.ttl_ms);
}

template <class V, Is<CommitRequest> M>
static void visit(V& v, M& m) {
  v.text(1, m.reservation_id, kIdBytes);
}

template <class V, Is<HoldRequest> M>
static void visit(V& v, M& m) {
  v.text(1, m.lease_id, kIdBytes);
}

template <class V, Is<Partition> M>
static void visit(V& v, M& m) {
  v.number(1, m.gpu_index);
  v.text(2, m.uuid, kIdBytes);
  v.number(3, m.memory_bytes);
  v.text(4, m.name, kNameBytes);
}

template <class V, Is<LeaseReply> M>
static void visit(V& v, M& m) {
  v.number(1, m.status);
  v.text(2, m.message, kMessageBytes);
  v.text(3, m.lease_id, kIdBytes);
  v.bytes(4, m.secret, kSecretBytes);
  v.messages(5, m.partitions, limits::kDevices);
  v.number(6, m.encrypt);
}

template <class V, Is<SessionLost> M>
static void visit(V& v, M& m) {
  v.text(1, m.program, kNameBytes);
  v.number(2, m.pid);
  v.text(3, m.why, kMessageBytes);
  v.number(4, m.calls);
}

template <class V, Is<AttachRequest> M>
static void visit(V& v, M& m) {
  v.number(1, m.protocol);
  v.text(2, m.lease_id, kIdBytes);
  v.number(4, m.pid);
  v.text(5, m.program, kNameBytes);
  v.text(6, m.transport, kIdBytes);
  v.number(7, m.api_version);
  v.bytes(8, m.nonce, kSecretBytes);
  v.number(9, m.encrypt);
  v.number(10, m.choose_devices);
  v.text(11, m.visible_devices, kMessageBytes);
  v.number(12, m.pci_order);
}

template <class V, Is<Challenge> M>
static void visit(V& v, M& m) {
  v.bytes(1, m.nonce, kSecretBytes);
}

template <class V, Is<Proof> M>
static void visit(V& v, M& m) {
  v.bytes(1, m.proof, kSecretBytes);
}

template <class V, Is<AttachReply> M>
static void visit(V& v, M& m) {
  v.number(1, m.status);
  v.text(2, m.message, kMessageBytes);
  v.text(3, m.session_id, kIdBytes);
  v.number(5, m.channels);
  v.number(6, m.device_twice);
  v.number(16, m.rdma_port);
  v.text(17, m.rdma_address, kIdBytes);
  v.text(18, m.rdma_note, kMessageBytes);
}

template <class V, Is<JoinRequest> M>
static void visit(V& v, M& m) {
  v.text(1, m.session_id, kIdBytes);
  v.number(3, m.index);
  v.bytes(4, m.proof, kSecretBytes);
}

template <class V, class M>
requires Is<M, JoinReply> || Is<M, ErrorReply> || Is<M, ManageReply>
static void visit(V& v, M& m) {
  v.number(1, m.status);
  v.text(2, m.message, kMessageBytes);
}

template <class V, Is<AuthRequest> M>
static void visit(V& v, M& m) {
  v.text(1, m.token_id, kIdBytes);
  v.bytes(2, m.secret, kSecretBytes);
  v.number(3, m.unix_time);
}

template <class V, Is<AuthReply> M>
static void visit(V& v, M& m) {
  v.number(1, m.status);
  v.text(2, m.message, kMessageBytes);
  v.text(3, m.client, kNameBytes);
  v.number(4, m.admin);
}

template <class V, Is<ManageRequest> M>
static void visit(V& v, M& m) {
  v.texts(1, m.words, kNameBytes, kWords);
}

template <class V, Is<HealthRequest> M>
static void visit(V&, M&) {}

template <class V, Is<HealthCheck> M>
static void visit(V& v, M& m) {
  v.text(1, m.name, kNameBytes);
  v.number(2, m.grade);
  v.text(3, m.note, kNameBytes * 2);
}

template <class V, Is<HealthReply> M>
static void visit(V& v, M& m) {
  v.messages(1, m.checks, kChecks);
}

template <class V, Is<ReadingRequest> M>
static void visit(V& v, M& m) {
  v.text(1, m.lease_id, kIdBytes);
  v.bytes(2, m.proof, kSecretBytes);
  v.number(3, m.device);
  v.number(4, m.sampled);
  v.number(5, m.facts_seen);
  v.number(6, m.sample_seen);
}

template <class V, Is<LeaseProcess> M>
static void visit(V& v, M& m) {
  v.number(1, m.pid);
  v.text(2, m.name, kProcessNameBytes);
  v.number(3, m.used_bytes);
}

template <class V, Is<ReadingReply> M>
static void visit(V& v, M& m) {
  v.number(1, m.status);
  v.text(2, m.message, kMessageBytes);
  v.number(3, m.devices);
  v.number(4, m.gpu_index);
  v.text(5, m.uuid, kIdBytes);
  v.text(6, m.name, kNameBytes);
  v.text(7, m.pci_bus_id, kIdBytes);
  v.number(8, m.memory_bytes);
  v.number(9, m.used_bytes);
  v.messages(10, m.processes, kProcessesPerReading);
  v.number(11, m.facts_version);
  v.number(12, m.sample_version);
  v.bytes(13, m.facts, kFactsBytes);
  v.bytes(14, m.sample, kSampleBytes);
  v.bytes(15, m.system, kSystemBytes);
  v.number(16, m.sample_unix_us);
}

template <class V, Is<NvmlAnswer> M>
static void visit(V& v, M& m) {
  v.number(1, m.function);
  v.number(2, m.key1);
  v.number(3, m.key2);
  v.number(4, m.key3);
  v.number(5, m.key4);
  v.number(6, m.result);
  v.bytes(7, m.value, kAnswerBytes);
}

template <class V, Is<NvmlAnswers> M>
static void visit(V& v, M& m) {
  v.messages(1, m.answers, kAnswers);
}

template <class V, Is<BandwidthRequest> M>
static void visit(V& v, M& m) {
  v.number(1, m.send_bytes);
}

template <class V, Is<DataNotice> M>
static void visit(V& v, M& m) {
  v.number(1, m.ticket);
  v.number(2, m.offset);
  v.number(3, m.watermark);
}

template <class V, Is<AsyncErrorNotice> M>
static void visit(V& v, M& m) {
  v.number(1, m.result);
  v.number(2, m.opcode);
  v.number(3, m.lane);
}

template <class V, Is<PrintNotice> M>
static void visit(V& v, M& m) {
  v.number(1, m.fd);
}

template <class V, Is<CallbackNotice> M>
static void visit(V& v, M& m) {
  v.number(1, m.id);
  v.number(2, m.status);
  v.number(3, m.watermark);
  v.number(4, m.data_frames);
  v.bytes(5, m.wanted, limits::kControlBodyBytes);
}

template <class V, Is<HostData> M>
static void visit(V& v, M& m) {
  v.number(1, m.staging);
  v.number(2, m.offset);
}

template <class V, Is<WorkerDevice> M>
static void visit(V& v, M& m) {
  v.number(1, m.gpu_index);
  v.number(2, m.limit_bytes);
  v.number(3, m.context_bytes);
  v.text(4, m.uuid, kIdBytes);
  v.number(5, m.partition);
}

template <class V, Is<Assign> M>
static void visit(V& v, M& m) {
  v.text(1, m.session_id, kIdBytes);
  v.bytes(2, m.session_key, kSecretBytes);
  v.text(3, m.lease_id, kIdBytes);
  v.messages(4, m.devices, limits::kDevices);
  v.number(5, m.ledger_slot);
  v.text(6, m.transport, kIdBytes);
  v.number(7, m.channels);
  v.number(8, m.client_pid);
  v.text(9, m.program, kNameBytes);
  v.number(10, m.encrypt);
  v.text(11, m.rdma_address, kIdBytes);
  v.bytes(12, m.image_salt, kSecretBytes);
}

template <class V, Is<Channel> M>
static void visit(V& v, M& m) {
  v.number(1, m.index);
}

template <class V, Is<Ready> M>
static void visit(V&, M&) {}

template <class V, Is<WorkerReport> M>
static void visit(V& v, M& m) {
  v.number(1, m.calls);
  v.number(2, m.bytes_in);
  v.number(3, m.bytes_out);
  v.number(4, m.last_call_unix_ms);
  v.text(5, m.reason, kMessageBytes);
  v.number(6, m.outstanding);
  v.number(7, m.lost);
}

template <class V, Is<ProbeReply> M>
static void visit(V& v, M& m) {
  v.number(1, m.status);
  v.text(2, m.message, kMessageBytes);
  v.number(3, m.driver_version);
  v.messages(4, m.gpus, kGpusPerServer);
  v.number(5, m.rdma);
}

template <class V, Is<MonitorRequest> M>
static void visit(V&, M&) {}

template <class V, Is<MonitorReport> M>
static void visit(V& v, M& m) {
  v.number(1, m.system);
  v.text(2, m.uuid, kIdBytes);
  v.bytes(3, m.facts, kFactsBytes);
  v.bytes(4, m.sample, kSampleBytes);
  v.number(5, m.last);
  v.number(6, m.sample_unix_us);
  v.number(7, m.index);
}

#define BF_CONTROL_CODEC(X)                                            \
  std::string encode_##X(const X& message) { return encode(message); } \
  Result<X> decode_##X(Bytes body) { return decode<X>(body, #X); }
BF_CONTROL_CODEC(ListRequest)
BF_CONTROL_CODEC(ListReply)
BF_CONTROL_CODEC(LeaseRequest)
BF_CONTROL_CODEC(LeaseReply)
BF_CONTROL_CODEC(SessionLost)
BF_CONTROL_CODEC(AttachRequest)
BF_CONTROL_CODEC(AttachReply)
BF_CONTROL_CODEC(JoinRequest)
BF_CONTROL_CODEC(JoinReply)
BF_CONTROL_CODEC(HealthRequest)
BF_CONTROL_CODEC(HealthReply)
BF_CONTROL_CODEC(BandwidthRequest)
BF_CONTROL_CODEC(ErrorReply)
BF_CONTROL_CODEC(ReserveReply)
BF_CONTROL_CODEC(CommitRequest)
BF_CONTROL_CODEC(HoldRequest)
BF_CONTROL_CODEC(Challenge)
BF_CONTROL_CODEC(Proof)
BF_CONTROL_CODEC(AuthRequest)
BF_CONTROL_CODEC(AuthReply)
BF_CONTROL_CODEC(ManageRequest)
BF_CONTROL_CODEC(ManageReply)
BF_CONTROL_CODEC(DataNotice)
BF_CONTROL_CODEC(AsyncErrorNotice)
BF_CONTROL_CODEC(PrintNotice)
BF_CONTROL_CODEC(CallbackNotice)
BF_CONTROL_CODEC(HostData)
BF_CONTROL_CODEC(Assign)
BF_CONTROL_CODEC(Channel)
BF_CONTROL_CODEC(Ready)
BF_CONTROL_CODEC(WorkerReport)
BF_CONTROL_CODEC(ProbeReply)
BF_CONTROL_CODEC(ReadingRequest)
BF_CONTROL_CODEC(ReadingReply)
BF_CONTROL_CODEC(NvmlAnswers)
BF_CONTROL_CODEC(MonitorRequest)
BF_CONTROL_CODEC(MonitorReport)
#undef BF_CONTROL_CODEC

Status to_status(uint32_t code, std::string message) {
  StatusCode known = code <= uint32_t(StatusCode::kInternal) ? StatusCode(code) : StatusCode::kInternal;
  if (known == StatusCode::kOk) return {};
  return {known, message.empty() ? "the server gave no reason" : std::move(message)};
}

}  // namespace bf::control
