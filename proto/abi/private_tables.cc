// A table is its size in bytes (with this word) and then function pointers; callers look at the size to know which
// slots exist. Slots nobody was ever seen to call are NOT_SUPPORTED and log who called them, which is how a new library
// version is diagnosed. Sizes and NULL slots are driver 580.159.04's. Tables that this driver lacks, or that are better
// refused (the NVRTC cache: NVRTC then simply compiles), are not here.
#include "proto/abi/private_tables.h"

#include <dlfcn.h>

#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "base/log.h"
#include "proto/abi/context_storage.h"
#include "proto/abi/fatbin.h"
#include "proto/abi/integrity.h"

namespace bf::abi {
namespace {

constinit const DriverHooks* g_hooks = nullptr;

bool dead() { return !driver_hooks().alive(); }

// --- Slots without a meaning of their own
// ------------------------------------------------------------------------------

void note_unknown(const char* table, int slot, void* caller) noexcept {
  if (!log_enabled(LogLevel::kDebug)) return;
  Dl_info info{};
  dladdr(caller, &info);
  BF_DEBUG("private table {} slot {} called from {}: not supported", table, slot,
           info.dli_fname ? info.dli_fname : "?");
}

template <const char* const& Table, int Number>
CUresult unknown_slot() noexcept {
  if (dead()) return CUDA_ERROR_DEINITIALIZED;
  static constinit std::atomic<bool> noted{false};
  if (!noted.exchange(true)) note_unknown(Table, Number, __builtin_return_address(0));
  return CUDA_ERROR_NOT_SUPPORTED;
}

using Slot = void (*)();

// Slots 1..Words-1 that nobody implements; the makers below put the others over them.
template <size_t Words>
struct Table {
  uint64_t bytes;
  Slot slots[Words - 1];
};

struct Known {
  int slot;
  Slot function;  // nullptr: NULL in the driver too
};

template <typename F>
constexpr Known known(int slot, F* function) {
  return {slot, reinterpret_cast<Slot>(function)};
}
constexpr Known null_slot(int slot) { return {slot, nullptr}; }

template <const char* const& Name, size_t Words>
struct Maker {
  template <int... I>
  static Table<Words> fill(std::integer_sequence<int, I...>) {
    return {Words * 8, {reinterpret_cast<Slot>(&unknown_slot<Name, I + 1>)...}};
  }
  template <typename... K>
  static Table<Words> make(K... replacements) {
    Table<Words> table = fill(std::make_integer_sequence<int, Words - 1>());
    ((table.slots[replacements.slot - 1] = replacements.function), ...);
    return table;
  }
};

// --- CUDART_INTERFACE
// --------------------------------------------------------------------------------------------------

CUresult load_wrapped(CUmodule* module, const FatbinWrapper* wrapper) noexcept {
  if (dead()) return CUDA_ERROR_DEINITIALIZED;
  if (!module || !wrapper || wrapper->magic != kFatbinWrapperMagic) return CUDA_ERROR_INVALID_VALUE;
  return driver_hooks().load_module(module, wrapper->data);
}

CUresult cudart_load(CUmodule* module, const FatbinWrapper* wrapper, void*, void*, uint32_t) noexcept {
  return load_wrapped(module, wrapper);
}

CUresult cudart_load_header(const FatbinHeader* header, CUmodule* module, void*, void*, uint32_t) noexcept {
  if (dead()) return CUDA_ERROR_DEINITIALIZED;
  if (!module || !header || header->magic != kFatbinMagic) return CUDA_ERROR_INVALID_VALUE;
  return driver_hooks().load_module(module, header);
}

CUresult cudart_primary_context(CUcontext* context, CUdevice device) noexcept {
  if (dead()) return CUDA_ERROR_DEINITIALIZED;
  if (!context) return CUDA_ERROR_INVALID_VALUE;
  return driver_hooks().primary_context(context, device);
}

void cudart_module_gone(CUmodule) noexcept {}
CUresult cudart_load_compiler() noexcept { return dead() ? CUDA_ERROR_DEINITIALIZED : CUDA_SUCCESS; }

// --- TOOLS_RUNTIME_CALLBACK_HOOKS: one 32-bit enable flag per runtime function, all off
// -------------------------------------

uint32_t g_callback_flags[1024];
uint32_t g_domain_flags[16];

void callback_flags(void** flags, size_t* count) noexcept {
  if (flags) *flags = g_callback_flags;
  if (count) *count = 1024;
}
void domain_flags(void** flags, size_t* count) noexcept {
  if (flags) *flags = g_domain_flags;
  if (count) *count = 14;
}
CUresult deliver_nothing() noexcept { return dead() ? CUDA_ERROR_DEINITIALIZED : CUDA_SUCCESS; }

// --- TOOLS_TLS, CONTEXT_CHECKS, LOG_SINK
// -------------------------------------------------------------------------------

CUresult tls_current_context(CUcontext* context) noexcept {
  if (dead()) return CUDA_ERROR_DEINITIALIZED;
  if (!context) return CUDA_ERROR_INVALID_VALUE;
  *context = driver_hooks().current_context();
  return CUDA_SUCCESS;
}

// *underlying is written for a wrapped (green) context only: cuBLAS 13 relies on it.
CUresult check_context(CUcontext context, uint32_t* is_wrapped, CUcontext* underlying) noexcept {
  if (dead()) return CUDA_ERROR_DEINITIALIZED;
  if (!context || context == reinterpret_cast<CUcontext>(-1)) context = driver_hooks().current_context();
  if (!context) return CUDA_ERROR_INVALID_CONTEXT;
  if (!is_wrapped) return CUDA_ERROR_INVALID_VALUE;
  const CUcontext inner = driver_hooks().underlying_context(context);
  *is_wrapped = inner ? 1 : 0;
  if (inner && underlying) *underlying = inner;
  return CUDA_SUCCESS;
}

uint32_t check_nothing() noexcept { return dead() ? CUDA_ERROR_DEINITIALIZED : 0; }

CUresult log_sink(const char*, int, const char*, void*) noexcept {
  return dead() ? CUDA_ERROR_DEINITIALIZED : CUDA_SUCCESS;
}

// --- T2131: ids of contexts and streams, keys of the caches in cuBLAS
// ------------------------------------------------------

CUresult context_id(CUcontext context, uint64_t* id) noexcept {
  if (dead()) return CUDA_ERROR_DEINITIALIZED;
  if (!id) return CUDA_ERROR_INVALID_VALUE;
  if (!context) {
    *id = 0;
    return CUDA_SUCCESS;
  }
  return driver_hooks().context_id(context, id);
}

// The "object" of a stream is its handle; NULL needs one that is not NULL.
char g_null_stream;

CUresult stream_object(CUcontext, CUstream stream, void** object) noexcept {
  if (dead()) return CUDA_ERROR_DEINITIALIZED;
  if (!object) return CUDA_ERROR_INVALID_VALUE;
  uint64_t id;
  if (CUresult why = driver_hooks().stream_id(stream, &id)) return why;
  *object = stream ? static_cast<void*>(stream) : &g_null_stream;
  return CUDA_SUCCESS;
}

CUresult stream_object_id(CUcontext, void* object, uint64_t* id) noexcept {
  if (dead()) return CUDA_ERROR_DEINITIALIZED;
  if (!object || !id) return CUDA_ERROR_INVALID_VALUE;
  return driver_hooks().stream_id(object == &g_null_stream ? nullptr : static_cast<CUstream>(object), id);
}

// --- T6E16: functions of a module
// ----------------------------------------------------------------------------------------

using FunctionCallback = void (*)(void* user, CUfunction function, const char* name);

uint64_t each_function(CUcontext, CUmodule module, FunctionCallback callback, void* user) noexcept {
  const DriverHooks& hooks = driver_hooks();
  unsigned int count = 0;
  if (dead() || !callback || hooks.function_count(&count, module) != CUDA_SUCCESS || count == 0) return 0;
  std::vector<CUfunction> functions(count);
  if (hooks.enumerate_functions(functions.data(), count, module) != CUDA_SUCCESS) return 0;
  for (CUfunction function : functions) {
    const char* name = nullptr;
    if (hooks.function_name(&name, function) != CUDA_SUCCESS) name = "";
    callback(user, function, name);
  }
  return count;
}

// --- The tables
// --------------------------------------------------------------------------------------------------------

constexpr const char* kCudart = "CUDART_INTERFACE";
constexpr const char* kCallbacks = "TOOLS_RUNTIME_CALLBACK_HOOKS";
constexpr const char* kTls = "TOOLS_TLS";
constexpr const char* kChecks = "CONTEXT_CHECKS";
constexpr const char* kIntegrity = "INTEGRITY_CHECK";
constexpr const char* kLogSink = "LOG_SINK";
constexpr const char* kT2131 = "T2131";
constexpr const char* kT6E16 = "T6E16";
constexpr const char* kT1734 = "T1734";
constexpr const char* kHybrid = "HYBRID_CUDART";
constexpr const char* kBypass = "CTX_CREATE_BYPASS";
constexpr const char* kExtended = "DEVICE_EXTENDED_RT";
constexpr const char* kDlss = "DLSS";
constexpr const char* kFlow = "OPTICAL_FLOW";
constexpr const char* kCuptiA = "CUPTI_A";
constexpr const char* kCuptiB = "CUPTI_B";
constexpr const char* kCuptiC = "CUPTI_C";
constexpr const char* kCuptiD = "CUPTI_D";
constexpr const char* kNvmlOs = "NVML_OS";

// Function-local statics would be guarded and built on first use, which is fine: the address never changes. They are
// never destroyed (no destructor).
struct Tables {
  Table<13> cudart = Maker<kCudart, 13>::make(
      known(1, load_wrapped), known(2, cudart_primary_context), known(6, cudart_load), known(7, cudart_module_gone),
      known(8, cudart_load_header), null_slot(10), known(12, cudart_load_compiler));
  Table<7> callbacks =
      Maker<kCallbacks, 7>::make(known(1, deliver_nothing), known(2, callback_flags), known(3, deliver_nothing),
                                 known(4, deliver_nothing), known(5, deliver_nothing), known(6, domain_flags));
  Table<3> tls = Maker<kTls, 3>::make(known(2, tls_current_context));
  Slot storage[4] = {reinterpret_cast<Slot>(storage_put), reinterpret_cast<Slot>(storage_remove),
                     reinterpret_cast<Slot>(storage_get), nullptr};
  Table<15> checks = Maker<kChecks, 15>::make(known(2, check_context), known(3, check_nothing));
  Table<3> integrity = Maker<kIntegrity, 3>::make(known(1, integrity_check));
  Table<3> log = Maker<kLogSink, 3>::make(known(1, log_sink));
  Table<93> t2131 = Maker<kT2131, 93>::make(known(4, context_id), known(39, stream_object_id), known(51, stream_object),
                                            null_slot(91));
  Table<99> t6e16 = Maker<kT6E16, 99>::make(known(7, each_function), null_slot(93));
  Table<17> t1734 = Maker<kT1734, 17>::make();
  Table<3> hybrid = Maker<kHybrid, 3>::make();
  Table<2> bypass = Maker<kBypass, 2>::make();
  Table<31> extended = Maker<kExtended, 31>::make(null_slot(30));
  Table<58> dlss = Maker<kDlss, 58>::make();
  Table<28> flow = Maker<kFlow, 28>::make();
  Table<10> cupti_a = Maker<kCuptiA, 10>::make();
  Table<60> cupti_b = Maker<kCuptiB, 60>::make();
  Table<32> cupti_c = Maker<kCuptiC, 32>::make();
  Table<11> cupti_d = Maker<kCuptiD, 11>::make();
  Table<34> nvml_os = Maker<kNvmlOs, 34>::make();
};

const Tables& tables() {
  static const Tables instance;
  return instance;
}

struct ExportTable {
  uint8_t id[16];
  const void* (*table)(const Tables&);
};

#define BF_TABLE(member) [](const Tables& t) -> const void* { return &t.member; }
constexpr ExportTable kExportTables[] = {
    {{0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12, 0xfd, 0x9d, 0xf9},
     BF_TABLE(cudart)},
    {{0xa0, 0x94, 0x79, 0x8c, 0x2e, 0x74, 0x2e, 0x74, 0x93, 0xf2, 0x08, 0x00, 0x20, 0x0c, 0x0a, 0x66},
     BF_TABLE(callbacks)},
    {{0x42, 0xd8, 0x5a, 0x81, 0x23, 0xf6, 0xcb, 0x47, 0x82, 0x98, 0xf6, 0xe7, 0x8a, 0x3a, 0xec, 0xdc}, BF_TABLE(tls)},
    {{0xc6, 0x93, 0x33, 0x6e, 0x11, 0x21, 0xdf, 0x11, 0xa8, 0xc3, 0x68, 0xf3, 0x55, 0xd8, 0x95, 0x93},
     BF_TABLE(storage)},
    {{0x26, 0x3e, 0x88, 0x60, 0x7c, 0xd2, 0x61, 0x43, 0x92, 0xf6, 0xbb, 0xd5, 0x00, 0x6d, 0xfa, 0x7e},
     BF_TABLE(checks)},
    {{0xd4, 0x08, 0x20, 0x55, 0xbd, 0xe6, 0x70, 0x4b, 0x8d, 0x34, 0xba, 0x12, 0x3c, 0x66, 0xe1, 0xf2},
     BF_TABLE(integrity)},
    {{0xf8, 0xcf, 0xf9, 0x51, 0x21, 0x46, 0x8b, 0x4e, 0xb9, 0xe2, 0xfb, 0x46, 0x9e, 0x7c, 0x0d, 0xd9}, BF_TABLE(log)},
    {{0x21, 0x31, 0x8c, 0x60, 0x97, 0x14, 0x32, 0x48, 0x8c, 0xa6, 0x41, 0xff, 0x73, 0x24, 0xc8, 0xf2}, BF_TABLE(t2131)},
    {{0x6e, 0x16, 0x3f, 0xbe, 0xb9, 0x58, 0x44, 0x4d, 0x83, 0x5c, 0xe1, 0x82, 0xaf, 0xf1, 0x99, 0x1e}, BF_TABLE(t6e16)},
    {{0x17, 0x34, 0xdc, 0x26, 0x80, 0x0d, 0x47, 0x45, 0x87, 0x26, 0xc0, 0xf1, 0xe7, 0xdd, 0x8b, 0xca}, BF_TABLE(t1734)},
    {{0xdd, 0x9e, 0x98, 0xa4, 0xf4, 0x10, 0x48, 0x44, 0x99, 0xb0, 0xe2, 0xae, 0xb7, 0xb4, 0x32, 0xb5},
     BF_TABLE(hybrid)},
    {{0x0c, 0xa5, 0x0b, 0x8c, 0x10, 0x04, 0x92, 0x9a, 0x89, 0xa7, 0xd0, 0xdf, 0x10, 0xe7, 0x72, 0x86},
     BF_TABLE(bypass)},
    {{0xb1, 0x05, 0x41, 0xe1, 0xf7, 0xc7, 0xc7, 0x4a, 0x9f, 0x64, 0xf2, 0x23, 0xbe, 0x99, 0xf1, 0xe2},
     BF_TABLE(extended)},
    {{0x7f, 0x92, 0x12, 0xd6, 0x26, 0x1d, 0xdd, 0x4d, 0x8a, 0xf6, 0x38, 0xdd, 0x1a, 0xeb, 0x10, 0xae}, BF_TABLE(dlss)},
    {{0x9a, 0xf0, 0x70, 0x7b, 0x8e, 0x2d, 0xd8, 0x4c, 0x8e, 0x4e, 0xb9, 0x94, 0xc8, 0x2d, 0xdc, 0x35}, BF_TABLE(flow)},
    {{0x35, 0x77, 0x0f, 0x1b, 0x09, 0x2e, 0x03, 0x48, 0xa4, 0x8e, 0x05, 0x6f, 0xc4, 0x23, 0x96, 0x8d},
     BF_TABLE(cupti_a)},
    {{0xbf, 0xdb, 0x43, 0x2d, 0xbf, 0x3c, 0x5a, 0x4a, 0x94, 0x5e, 0xb3, 0x40, 0x29, 0xe8, 0x1e, 0x75},
     BF_TABLE(cupti_b)},
    {{0xa6, 0xb1, 0xff, 0x99, 0xec, 0xc4, 0xc9, 0x4f, 0x92, 0xf9, 0x19, 0x28, 0x66, 0x3d, 0x55, 0x85},
     BF_TABLE(cupti_c)},
    {{0xf8, 0x8c, 0xc9, 0x3e, 0x53, 0xfd, 0x9e, 0x46, 0xba, 0x59, 0x1e, 0x2b, 0x87, 0x3e, 0x0f, 0x91},
     BF_TABLE(cupti_d)},
    {{0x69, 0xa2, 0x8e, 0x9f, 0x24, 0x49, 0x8b, 0x47, 0xb0, 0x30, 0xc5, 0xda, 0x33, 0x0e, 0xa4, 0xe9},
     BF_TABLE(nvml_os)},
};
#undef BF_TABLE

}  // namespace

void set_driver_hooks(const DriverHooks* hooks) noexcept { g_hooks = hooks; }
const DriverHooks& driver_hooks() noexcept { return *g_hooks; }

CUresult export_table(const void** table, const CUuuid* id) noexcept {
  if (!table || !id) return CUDA_ERROR_INVALID_VALUE;
  for (const ExportTable& entry : kExportTables) {
    if (std::memcmp(entry.id, id->bytes, sizeof(entry.id)) == 0) {
      *table = entry.table(tables());
      return CUDA_SUCCESS;
    }
  }
  *table = nullptr;
  return CUDA_ERROR_INVALID_VALUE;
}

const void* cudart_interface_table() noexcept { return &tables().cudart; }
const void* integrity_table() noexcept { return &tables().integrity; }

}  // namespace bf::abi
