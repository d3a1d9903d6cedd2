// The rows of the NVML table that are relayed: what may be asked of the vendor's library, and how a call's arguments
// and an answer's bytes correspond. One description, read by two interpreters: the monitor calls the library for every
// combination of keys (server/worker/monitor.cc), the shim finds the answer to its program's arguments
// (client/nvml/relay.cc).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace bf::nvml {

// Names a function on the wire (FNV-1a): needs no registry, and the generator checks that no two rows share one.
constexpr uint32_t name_id(std::string_view name) {
  uint32_t value = 0x811c9dc5;
  for (char c : name) value = (value ^ uint8_t(c)) * 0x01000193;
  return value;
}

enum class Kind : uint8_t {
  kDevice,     // the GPU that is asked about
  kPeer,       // key: another GPU of the server, by its ordinal there
  kKey,        // key: a number
  kOut,        // points to `bytes` that are written
  kBuffer,     // the same, but the caller may have less room: its length follows
  kText,       // points to room for text; its length follows
  kLength,     // of the parameter before
  kVersioned,  // key: points to a struct that begins with its version word; further keys may be in it
  kCount,      // points to the length of the array, in elements: room before, number of elements after
  kArray,      // points to elements of `bytes` each
};

inline constexpr size_t kKeys = 4;         // most keys of one row
inline constexpr size_t kArguments = 6;    // most parameters of one row
inline constexpr size_t kTextBytes = 256;  // longest text that is relayed

struct KeyField {
  uint32_t offset = 0;
  std::span<const uint32_t> values;  // empty: no such field
};

struct Parameter {
  Kind kind;
  uint16_t bytes;                    // kOut, kBuffer: of the value; kArray: of an element
  std::span<const uint32_t> values;  // kKey, kVersioned: what the monitor asks for
  uint32_t values_of;                // kKey: or the function whose array of answers they are
  std::array<KeyField, 2> key_fields;
  std::span<const uint32_t> fresh;  // kKey of a row that is asked again: only these values; empty: all
  bool optional;                    // kOut: may be NULL
};

// Calls the function at `function` with its parameters in order, each in one word.
using Call = int (*)(void* function, const uint64_t* arguments);

struct Row {
  const char* name;
  uint32_t id;        // name_id(name)
  bool device;        // asked about a GPU; else about the system
  uint32_t period_s;  // seconds between samples; 0: a fact
  std::span<const Parameter> parameters;
  Call call;
};

std::span<const Row> rows();

// A value of nvmlDeviceGetFieldValues: asked for the scopes 0..scopes-1.
struct Field {
  uint32_t id;
  uint32_t scopes;
  uint32_t period_s;
};
std::span<const Field> fields();

// Bytes of the struct that a version word stands for.
inline uint32_t version_bytes(uint32_t word) { return word & 0xffffff; }

}  // namespace bf::nvml
