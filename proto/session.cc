// One small pattern: every struct has a `write` on a pbf_writer and a `read` on a pbf_reader. protozero throws on
// malformed bytes; `decode` below turns that, and every bound passed, into a Status.
#include "proto/session.h"

#include <cstring>
#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

#include "base/limits.h"

namespace bf {
namespace {

using protozero::pbf_reader;
using protozero::pbf_writer;

struct OutOfBounds : protozero::exception {
  const char* what() const noexcept override { return "a list or string is longer than the protocol allows"; }
};

constexpr size_t kMaxAttributes = 1024;   // CUDA 13 has 150 device attributes
constexpr size_t kMaxParameters = 8192;   // 4 KiB (32 KiB on newer GPUs) of parameters, at least one byte each
constexpr size_t kMaxJitOptions = 4096;   // 32 kinds exist; names of global symbols need more

void bound(size_t have, size_t most) {
  if (have >= most) throw OutOfBounds{};
}

std::string read_string(pbf_reader& reader) {
  const auto view = reader.get_view();
  bound(view.size(), limits::kStringBytes + 1);
  return {view.data(), view.size()};
}

template <size_t N>
void read_fixed(pbf_reader& reader, std::array<uint8_t, N>& out) {
  const auto view = reader.get_view();
  if (view.size() != N) throw OutOfBounds{};
  std::memcpy(out.data(), view.data(), N);
}

// Pairs flattened: id, value, id, value ...
void write_attributes(pbf_writer& writer, uint32_t field, const AttributeList& list) {
  if (list.empty()) return;
  std::vector<int64_t> flat;
  flat.reserve(list.size() * 2);
  for (const auto& [id, value] : list) {
    flat.push_back(id);
    flat.push_back(value);
  }
  writer.add_packed_sint64(field, flat.begin(), flat.end());
}

void read_attributes(pbf_reader& reader, AttributeList& list) {
  auto range = reader.get_packed_sint64();
  for (auto it = range.begin(); it != range.end();) {
    bound(list.size(), kMaxAttributes);
    const int64_t id = *it++;
    if (it == range.end()) throw OutOfBounds{};
    list.emplace_back(int32_t(id), *it++);
  }
}

void write(pbf_writer& writer, const DeviceSnapshot& d) {
  writer.add_string(1, d.name);
  writer.add_bytes(2, reinterpret_cast<const char*>(d.uuid.data()), d.uuid.size());
  writer.add_bytes(3, reinterpret_cast<const char*>(d.luid.data()), d.luid.size());
  writer.add_uint32(4, d.luid_node_mask);
  writer.add_bool(5, d.has_luid);
  writer.add_uint32(6, d.pci_domain);
  writer.add_uint32(7, d.pci_bus);
  writer.add_uint32(8, d.pci_device);
  writer.add_uint64(9, d.total_bytes);
  write_attributes(writer, 10, d.attributes);
  writer.add_uint32(11, d.compute_major);
  writer.add_uint32(12, d.compute_minor);
  writer.add_sint32(13, d.least_priority);
  writer.add_sint32(14, d.greatest_priority);
  write_attributes(writer, 15, d.limits);
  writer.add_uint32(16, d.primary_flags);
  writer.add_uint32(17, d.context_api_version);
  writer.add_uint32(18, d.affinity_types);
}

void read(pbf_reader reader, DeviceSnapshot& d) {
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: d.name = read_string(reader); break;
      case 2: read_fixed(reader, d.uuid); break;
      case 3: read_fixed(reader, d.luid); break;
      case 4: d.luid_node_mask = reader.get_uint32(); break;
      case 5: d.has_luid = reader.get_bool(); break;
      case 6: d.pci_domain = reader.get_uint32(); break;
      case 7: d.pci_bus = reader.get_uint32(); break;
      case 8: d.pci_device = reader.get_uint32(); break;
      case 9: d.total_bytes = reader.get_uint64(); break;
      case 10: read_attributes(reader, d.attributes); break;
      case 11: d.compute_major = reader.get_uint32(); break;
      case 12: d.compute_minor = reader.get_uint32(); break;
      case 13: d.least_priority = reader.get_sint32(); break;
      case 14: d.greatest_priority = reader.get_sint32(); break;
      case 15: read_attributes(reader, d.limits); break;
      case 16: d.primary_flags = reader.get_uint32(); break;
      case 17: d.context_api_version = reader.get_uint32(); break;
      case 18: d.affinity_types = reader.get_uint32(); break;
      default: reader.skip();
    }
  }
}

void write(pbf_writer& writer, const PeerSnapshot& p) {
  writer.add_uint32(1, p.from);
  writer.add_uint32(2, p.to);
  writer.add_bool(3, p.access);
  write_attributes(writer, 4, p.attributes);
}

void read(pbf_reader reader, PeerSnapshot& p) {
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: p.from = reader.get_uint32(); break;
      case 2: p.to = reader.get_uint32(); break;
      case 3: p.access = reader.get_bool(); break;
      case 4: read_attributes(reader, p.attributes); break;
      default: reader.skip();
    }
  }
}

void write(pbf_writer& writer, const SessionSnapshot& s) {
  writer.add_uint32(1, s.driver_version);
  writer.add_uint32(2, s.loading_mode);
  writer.add_bool(3, s.software);
  writer.add_uint32(4, s.spin_us);
  for (const auto& device : s.devices) {
    pbf_writer inner(writer, 5);
    write(inner, device);
  }
  for (const auto& peer : s.peers) {
    pbf_writer inner(writer, 6);
    write(inner, peer);
  }
  writer.add_bytes(7, s.image_salt);
}

void read(pbf_reader reader, SessionSnapshot& s) {
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: s.driver_version = reader.get_uint32(); break;
      case 2: s.loading_mode = reader.get_uint32(); break;
      case 3: s.software = reader.get_bool(); break;
      case 4: s.spin_us = reader.get_uint32(); break;
      case 5:
        bound(s.devices.size(), limits::kDevices);
        read(reader.get_message(), s.devices.emplace_back());
        break;
      case 6:
        bound(s.peers.size(), limits::kDevices * limits::kDevices);
        read(reader.get_message(), s.peers.emplace_back());
        break;
      case 7: s.image_salt = read_string(reader); break;
      default: reader.skip();
    }
  }
}

// Parameters flattened: offset, size, offset, size ...
void write(pbf_writer& writer, const FunctionFacts& f) {
  writer.add_string(1, f.name);
  writer.add_bool(2, f.kernel);
  std::vector<uint32_t> flat;
  flat.reserve(f.parameters.size() * 2);
  for (const auto& parameter : f.parameters) {
    flat.push_back(parameter.offset);
    flat.push_back(parameter.size);
  }
  if (!flat.empty()) writer.add_packed_uint32(3, flat.begin(), flat.end());
  writer.add_bool(4, f.parameters_known);
  write_attributes(writer, 5, f.attributes);
  writer.add_uint64(6, f.owner);
}

void read(pbf_reader reader, FunctionFacts& f) {
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: f.name = read_string(reader); break;
      case 2: f.kernel = reader.get_bool(); break;
      case 3: {
        auto range = reader.get_packed_uint32();
        for (auto it = range.begin(); it != range.end();) {
          bound(f.parameters.size(), kMaxParameters);
          const uint32_t offset = *it++;
          if (it == range.end()) throw OutOfBounds{};
          f.parameters.push_back({offset, *it++});
        }
        break;
      }
      case 4: f.parameters_known = reader.get_bool(); break;
      case 5: read_attributes(reader, f.attributes); break;
      case 6: f.owner = reader.get_uint64(); break;
      default: reader.skip();
    }
  }
}

void write(pbf_writer& writer, const std::vector<FunctionFacts>& list) {
  for (const auto& facts : list) {
    pbf_writer inner(writer, 1);
    write(inner, facts);
  }
}

void read(pbf_reader reader, std::vector<FunctionFacts>& list) {
  while (reader.next(1)) {
    bound(list.size(), limits::kArrayElements);
    read(reader.get_message(), list.emplace_back());
  }
}

void write_options(pbf_writer& writer, uint32_t field, const std::vector<JitOption>& options) {
  for (const auto& option : options) {
    pbf_writer inner(writer, field);
    inner.add_int32(1, option.option);
    inner.add_uint64(2, option.value);
  }
}

void read_option(pbf_reader& reader, std::vector<JitOption>& options) {
  bound(options.size(), kMaxJitOptions);
  auto& option = options.emplace_back();
  pbf_reader inner = reader.get_message();
  while (inner.next()) {
    switch (inner.tag()) {
      case 1: option.option = inner.get_int32(); break;
      case 2: option.value = inner.get_uint64(); break;
      default: inner.skip();
    }
  }
}

void write(pbf_writer& writer, const JitOptions& j) {
  write_options(writer, 1, j.options);
  writer.add_uint32(2, j.info_log_bytes);
  writer.add_uint32(3, j.error_log_bytes);
  writer.add_bool(4, j.has_info_log);
  writer.add_bool(5, j.has_error_log);
  write_options(writer, 6, j.library_options);
  for (const auto& name : j.global_names) writer.add_string(7, name);
  if (!j.global_addresses.empty())
    writer.add_packed_uint64(8, j.global_addresses.begin(), j.global_addresses.end());
}

void read(pbf_reader reader, JitOptions& j) {
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: read_option(reader, j.options); break;
      case 2: j.info_log_bytes = reader.get_uint32(); break;
      case 3: j.error_log_bytes = reader.get_uint32(); break;
      case 4: j.has_info_log = reader.get_bool(); break;
      case 5: j.has_error_log = reader.get_bool(); break;
      case 6: read_option(reader, j.library_options); break;
      case 7:
        bound(j.global_names.size(), kMaxJitOptions);
        j.global_names.push_back(read_string(reader));
        break;
      case 8:
        for (const uint64_t address : reader.get_packed_uint64()) {
          bound(j.global_addresses.size(), kMaxJitOptions);
          j.global_addresses.push_back(address);
        }
        break;
      default: reader.skip();
    }
  }
  if (j.info_log_bytes > limits::kStringBytes || j.error_log_bytes > limits::kStringBytes ||
      j.global_names.size() != j.global_addresses.size())
    throw OutOfBounds{};
}

void write(pbf_writer& writer, const JitResult& j) {
  write_options(writer, 1, j.updated);
  writer.add_bytes(2, j.info_log);
  writer.add_bytes(3, j.error_log);
}

void read(pbf_reader reader, JitResult& j) {
  while (reader.next()) {
    switch (reader.tag()) {
      case 1: read_option(reader, j.updated); break;
      case 2: j.info_log = read_string(reader); break;
      case 3: j.error_log = read_string(reader); break;
      default: reader.skip();
    }
  }
}

template <typename T>
std::string encode_message(const T& value) {
  std::string bytes;
  pbf_writer writer(bytes);
  write(writer, value);
  return bytes;
}

template <typename T>
Result<T> decode_message(std::string_view bytes, const char* what) {
  T value;
  try {
    read(pbf_reader(bytes.data(), bytes.size()), value);
  } catch (const protozero::exception& error) {
    return Status(StatusCode::kInvalid, std::string("malformed ") + what + ": " + error.what());
  }
  return value;
}

}  // namespace

const int64_t* find_attribute(const AttributeList& list, int32_t attribute) {
  for (const auto& entry : list)
    if (entry.first == attribute) return &entry.second;
  return nullptr;
}

std::string encode(const SessionSnapshot& snapshot) { return encode_message(snapshot); }
std::string encode(const FunctionFacts& facts) { return encode_message(facts); }
std::string encode(const std::vector<FunctionFacts>& list) { return encode_message(list); }
std::string encode(const JitOptions& options) { return encode_message(options); }
std::string encode(const JitResult& result) { return encode_message(result); }

Result<SessionSnapshot> decode_session_snapshot(std::string_view bytes) {
  return decode_message<SessionSnapshot>(bytes, "session snapshot");
}
Result<FunctionFacts> decode_function_facts(std::string_view bytes) {
  return decode_message<FunctionFacts>(bytes, "function facts");
}
Result<std::vector<FunctionFacts>> decode_function_facts_list(std::string_view bytes) {
  return decode_message<std::vector<FunctionFacts>>(bytes, "list of function facts");
}
Result<JitOptions> decode_jit_options(std::string_view bytes) {
  return decode_message<JitOptions>(bytes, "JIT options");
}
Result<JitResult> decode_jit_result(std::string_view bytes) { return decode_message<JitResult>(bytes, "JIT result"); }

}  // namespace bf
