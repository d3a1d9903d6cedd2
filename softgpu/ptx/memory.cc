// Loads, stores and addresses. Every access is checked against the allocation it falls into; answers of the driver are
// kept per worker, so that the check is usually two comparisons. Shared memory is the block's, local memory a slice per
// lane; parameters of kernels are one copy per launch, those of device functions lie in local memory.
#include <emmintrin.h>

#include <cstddef>

#include "softgpu/ptx/handlers.h"

namespace bf::ptx {

void fault(Warp& w, const Inst& in, LaunchCode code, int lane, const std::string& what, uint64_t address) {
  LaunchOutcome outcome;
  outcome.code = code;
  outcome.address = address;
  outcome.where.block = w.block->position;
  outcome.where.thread = {w.specials.tid[0][lane], w.specials.tid[1][lane], w.specials.tid[2][lane]};
  const Dim3 &b = outcome.where.block, &t = outcome.where.thread;
  outcome.message = "kernel " + w.launch->kernel->name + ", PTX line " + std::to_string(in.line) + ", block (" +
                    std::to_string(b.x) + "," + std::to_string(b.y) + "," + std::to_string(b.z) + "), thread (" +
                    std::to_string(t.x) + "," + std::to_string(t.y) + "," + std::to_string(t.z) + "): " + what;
  w.launch->finish(std::move(outcome));
  w.event = Event::kFault;
}

const MemoryRange* find_range(Worker& worker, uint64_t address) {
  for (int i = 0; i < Worker::kRanges; ++i) {
    const MemoryRange& r = worker.ranges[i];
    if (address - r.begin < r.end - r.begin) {
      worker.last = i;
      return &r;
    }
  }
  Launch& launch = *worker.launch;
  uint64_t workspace = reinterpret_cast<uint64_t>(launch.workspace);
  MemoryRange found{workspace, workspace + sizeof launch.workspace, true};
  if (!launch.grid.cooperative || address - workspace >= sizeof launch.workspace)
    found = launch.environment->find_memory(address);
  if (!(address >= found.begin && address < found.end)) return nullptr;
  worker.last = worker.victim;
  worker.victim = (worker.victim + 1) % Worker::kRanges;
  worker.ranges[worker.last] = found;
  return &worker.ranges[worker.last];
}

static std::string describe(const char* what, uint64_t address, uint32_t bytes) {
  char text[128];
  snprintf(text, sizeof text, "%s of %u bytes at 0x%llx", what, bytes, static_cast<unsigned long long>(address));
  return text;
}

uint8_t* resolve(Warp& w, const Inst& in, Window window, uint64_t address, uint32_t bytes, uint32_t alignment,
                 bool write, int lane) {
  const char* what = write ? "store" : "load";
  if (address & (alignment - 1)) {
    fault(w, in, LaunchCode::kMisalignedAddress, lane, "misaligned " + describe(what, address, bytes), address);
    return nullptr;
  }
  uint64_t part = address >> kWindowShift;
  uint64_t offset = address & ((uint64_t{1} << kWindowShift) - 1);
  if (window == Window::kShared || (window == Window::kGeneric && part == kSharedWindow)) {
    if (window == Window::kShared && part > kSharedWindow) offset = ~uint64_t{0};
    if (offset <= w.block->shared_bytes && w.block->shared_bytes - offset >= bytes)
      return w.block->shared.get() + offset;
    fault(w, in, LaunchCode::kIllegalAddress, lane,
          describe(what, offset, bytes) + " is outside the block's shared memory", address);
    return nullptr;
  }
  if (window == Window::kLocal || (window == Window::kGeneric && part == kLocalWindow)) {
    if (offset <= w.local_bytes && w.local_bytes - offset >= bytes)
      return w.local + size_t(lane) * w.local_bytes + offset;
    fault(w, in, LaunchCode::kIllegalAddress, lane,
          describe(what, offset, bytes) + " is outside the thread's local memory", address);
    return nullptr;
  }
  if (part == kParamWindow && window == Window::kGeneric) {
    auto& params = w.launch->params;
    if (!write && offset <= params.size() && params.size() - offset >= bytes) return params.data() + offset;
  }
  if (part == 0) {
    const MemoryRange* r = find_range(*w.worker, address);
    if (r && r->end - address >= bytes && (r->writable || !write)) return reinterpret_cast<uint8_t*>(address);
    if (r && write && !r->writable) {
      fault(w, in, LaunchCode::kIllegalAddress, lane, describe(what, address, bytes) + ": the memory is read-only",
            address);
      return nullptr;
    }
  }
  fault(w, in, LaunchCode::kIllegalAddress, lane, describe(what, address, bytes) + ": no allocation there", address);
  return nullptr;
}

bool read_string(Warp& w, const Inst& in, uint64_t address, int lane, size_t limit, std::string& out) {
  out.clear();
  for (; out.size() < limit; ++address) {
    const uint8_t* c = resolve(w, in, Window::kGeneric, address, 1, 1, false, lane);
    if (!c) return false;
    if (*c == 0) break;
    out.push_back(char(*c));
  }
  return true;
}

namespace {

// Calls f(lane, host pointer) for the executing lanes; stops after a fault.
template <Window W, bool Write, typename F>
inline __attribute__((always_inline)) void access(Warp& w, const Inst& in, uint32_t bytes, F f) {
  const uint64_t* address = at<uint64_t>(w, in.a);
  const uint64_t offset = in.imm;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    uint64_t a = address[i] + offset;
    uint8_t* p;
    if (W == Window::kGlobal || W == Window::kGeneric) {
      const MemoryRange& r = w.worker->ranges[w.worker->last];
      if (a >= r.begin && a < r.end && r.end - a >= bytes && !(a & (bytes - 1)) && (!Write || r.writable)) {
        p = reinterpret_cast<uint8_t*>(a);
      } else {
        p = resolve(w, in, W, a, bytes, bytes, Write, i);
        if (!p) return;
      }
    } else if (W == Window::kShared) {
      if (a <= w.block->shared_bytes && w.block->shared_bytes - a >= bytes && !(a & (bytes - 1))) {
        p = w.block->shared.get() + a;
      } else {
        p = resolve(w, in, W, a, bytes, bytes, Write, i);
        if (!p) return;
      }
    } else {
      p = resolve(w, in, W, a, bytes, bytes, Write, i);
      if (!p) return;
    }
    f(i, p);
  }
}

// M: the type in memory; R: the register's lane. flags: number of elements.
template <typename M, typename R, Window W>
void load(Warp& w, const Inst& in) {
  R* d = at<R>(w, in.d);
  access<W, false>(w, in, sizeof(M), [=](int i, const uint8_t* p) { d[i] = R(*reinterpret_cast<const M*>(p)); });
}
// All elements in one access, as on a GPU: programs have a flag beside the value that it speaks of (CUB's look-back does).
// Aligned 16 bytes are one access on every x86 with AVX. (What is aligned on the GPU may not be in local memory here.)
inline void copy_at_once(void* to, const void* from, size_t bytes) {
  if (bytes == sizeof(__m128i)) return _mm_storeu_si128(static_cast<__m128i*>(to), _mm_loadu_si128(static_cast<const __m128i*>(from)));
  if (bytes == sizeof(uint64_t)) {
    *static_cast<volatile uint64_t*>(to) = *static_cast<const volatile uint64_t*>(from);
    return;
  }
  memcpy(to, from, bytes);
}
template <typename M, typename R, Window W>
void load_vector(Warp& w, const Inst& in) {
  const uint32_t* registers = &w.frame->function->extra[in.extra];
  uint32_t n = in.flags;
  access<W, false>(w, in, uint32_t(sizeof(M)) * n, [&](int i, const uint8_t* p) {
    alignas(16) M elements[8];
    copy_at_once(elements, p, sizeof(M) * n);
    for (uint32_t k = 0; k < n; ++k) at<R>(w, registers[k])[i] = R(elements[k]);
  });
}
template <typename M, typename R, Window W>
void store(Warp& w, const Inst& in) {
  const R* s = at<R>(w, in.b);
  access<W, true>(w, in, sizeof(M), [=](int i, uint8_t* p) { *reinterpret_cast<M*>(p) = M(s[i]); });
}
template <typename M, typename R, Window W>
void store_vector(Warp& w, const Inst& in) {
  const uint32_t* registers = &w.frame->function->extra[in.extra];
  uint32_t n = in.flags;
  access<W, true>(w, in, uint32_t(sizeof(M)) * n, [&](int i, uint8_t* p) {
    alignas(16) M elements[8];
    for (uint32_t k = 0; k < n; ++k) elements[k] = M(at<R>(w, registers[k])[i]);
    copy_at_once(p, elements, sizeof(M) * n);
  });
}

// Parameters of kernels: the same for all lanes, checked when the module was loaded.
template <typename M, typename R>
void load_kernel_param(Warp& w, const Inst& in) {
  M value;
  memcpy(&value, w.launch->params.data() + in.imm, sizeof value);
  each<R>(w, in.d, [=](int) { return R(value); });
}
// Local variables and parameters of device functions by name: checked when the module was loaded.
template <typename M, typename R>
void load_frame(Warp& w, const Inst& in) {
  R* d = at<R>(w, in.d);
  const uint8_t* base = w.local + w.frame->local_base + in.imm;
  lanes(w.mask, [&](int i) {
    M value;
    memcpy(&value, base + size_t(i) * w.local_bytes, sizeof value);
    d[i] = R(value);
  });
}
template <typename M, typename R>
void store_frame(Warp& w, const Inst& in) {
  const R* s = at<R>(w, in.b);
  uint8_t* base = w.local + w.frame->local_base + in.imm;
  lanes(w.mask, [&](int i) {
    M value = M(s[i]);
    memcpy(base + size_t(i) * w.local_bytes, &value, sizeof value);
  });
}

struct AccessHandlers {
  Handler load[4], load_vector[4], store[4], store_vector[4];  // by Window
  Handler kernel_param, load_frame, store_frame;
};

template <typename M, typename R>
AccessHandlers handlers_of() {
  using enum Window;
  return {
      {load<M, R, kGeneric>, load<M, R, kGlobal>, load<M, R, kShared>, load<M, R, kLocal>},
      {load_vector<M, R, kGeneric>, load_vector<M, R, kGlobal>, load_vector<M, R, kShared>, load_vector<M, R, kLocal>},
      {store<M, R, kGeneric>, store<M, R, kGlobal>, store<M, R, kShared>, store<M, R, kLocal>},
      {store_vector<M, R, kGeneric>, store_vector<M, R, kGlobal>, store_vector<M, R, kShared>,
       store_vector<M, R, kLocal>},
      load_kernel_param<M, R>,
      load_frame<M, R>,
      store_frame<M, R>};
}

// Handlers for a memory type and a register width at least as large; false if there are none.
bool find_handlers(Type type, uint32_t width, AccessHandlers& out) {
  bool sign = type_kind(type) == 's';
  auto pick = [&]<typename M>(M) {
    if (width == 2) {
      if constexpr (sizeof(M) <= 2)
        return out = handlers_of<M, std::conditional_t<std::is_signed_v<M>, int16_t, uint16_t>>(), true;
    } else if (width == 4) {
      if constexpr (sizeof(M) <= 4)
        return out = handlers_of<M, std::conditional_t<std::is_signed_v<M>, int32_t, uint32_t>>(), true;
    } else if (width == 8) {
      if constexpr (sizeof(M) <= 8)
        return out = handlers_of<M, std::conditional_t<std::is_signed_v<M>, int64_t, uint64_t>>(), true;
    } else if (width == 16) {
      if constexpr (sizeof(M) == 16) return out = handlers_of<M, u128>(), true;
    }
    return false;
  };
  switch (type_bytes(type)) {
    case 1:
      return sign ? pick(int8_t{}) : pick(uint8_t{});
    case 2:
      return sign ? pick(int16_t{}) : pick(uint16_t{});
    case 4:
      return sign ? pick(int32_t{}) : pick(uint32_t{});
    case 8:
      return pick(uint64_t{});
    case 16:
      return pick(u128{});
    default:
      return false;
  }
}

void poll_hint(Warp& w, const Inst&) { poll(w); }

struct AccessModifiers {
  bool param = false, strong = false;
  Window window = Window::kGeneric;
  uint32_t elements = 1;
};

// State space, memory order, scope, cache hints and vector size of ld and st.
void take_access(Lower& lw, AccessModifiers& m) {
  switch (lw.take_any({"global", "const", "shared", "shared::cta", "shared::cluster", "local", "param", "param::entry",
                       "param::func"})) {
    case 0:
    case 1:
      m.window = Window::kGlobal;
      break;
    case 2:
    case 3:
    case 4:
      m.window = Window::kShared;
      break;
    case 5:
      m.window = Window::kLocal;
      break;
    case 6:
    case 7:
    case 8:
      m.param = true;
      break;
    default:
      break;
  }
  lw.take("weak");
  m.strong |= lw.take_any({"volatile", "relaxed", "acquire", "release", "mmio"}) >= 0;
  lw.take("mmio");
  m.strong |= lw.take_any({"cta", "cluster", "gpu", "sys"}) >= 0;
  lw.take_any({"ca", "cg", "cs", "lu", "cv", "wb", "wt"});
  lw.take("nc");
  lw.take("unified");
  for (auto modifier : lw.in().modifiers)
    if (modifier.substr(0, 4) == "L1::" || modifier.substr(0, 4) == "L2::") lw.take(modifier);
  int vector = lw.take_any({"v2", "v4", "v8"});
  if (vector >= 0) m.elements = 2u << vector;
}

// Width of the register behind a data operand; the type's own for immediates and `_`.
uint32_t register_width(Lower& lw, const ast::Operand& operand, Type type, Type& reg) {
  reg = lw.register_type(operand);
  if (reg == Type::kNone || reg == Type::kPred) reg = type;
  uint32_t bytes = type_bytes(reg);
  return bytes == 1 ? 2 : bytes;
}

bool rule_load_store(Lower& lw, bool is_store) {
  AccessModifiers m;
  take_access(lw, m);
  Type type = lw.take_type();
  if (!lw.expect_operands(2, 3)) return false;
  const ast::Operand& data = lw.operand(is_store ? 1 : 0);
  const ast::Operand& where = lw.operand(is_store ? 0 : 1);
  std::vector<const ast::Operand*> elements{&data};
  if (m.elements > 1) {
    if (data.kind != ast::OperandKind::kVector || data.items.size() != m.elements)
      return lw.refuse("wrong vector operand");
    elements.clear();
    for (const auto& item : data.items) elements.push_back(&item);
  }
  if (type_bytes(type) * m.elements > 32) return lw.refuse("an access of more than 32 bytes");
  Lower::Address address;
  if (!lw.address(where, address)) return false;
  uint32_t width = 0;
  std::vector<uint32_t> registers;
  for (const ast::Operand* element : elements) {
    Type reg;
    uint32_t this_width = register_width(lw, *element, type, reg);
    if (width == 0) width = this_width;
    if (width != this_width) {
      if (element->kind == ast::OperandKind::kName && element->name != "_")
        return lw.refuse("registers of different widths");
      reg = width == 2 ? Type::kB16 : width == 4 ? Type::kB32 : width == 8 ? Type::kB64 : Type::kB128;
    }
    registers.push_back(is_store ? lw.src(*element, reg) : lw.dst(*element, reg));
  }
  AccessHandlers h;
  if (!find_handlers(type, width, h)) return lw.refuse("the register is narrower than the type");
  if (address.kind != Lower::Address::kRegister) {
    uint32_t bytes = type_bytes(type);
    if (address.room < uint64_t(bytes) * m.elements) return lw.refuse("access outside the variable");
    bool kernel_param = address.kind == Lower::Address::kKernelParam;
    if (is_store && kernel_param) return lw.refuse("kernel parameters cannot be written");
    for (uint32_t k = 0; k < m.elements; ++k) {
      Inst& inst = is_store ? lw.emit(h.store_frame, 0, 0, registers[k])
                            : lw.emit(kernel_param ? h.kernel_param : h.load_frame, registers[k]);
      inst.imm = address.offset + k * bytes;
    }
    return true;
  }
  size_t window = size_t(m.window);
  Inst* inst;
  if (m.elements == 1) {
    inst = is_store ? &lw.emit(h.store[window], 0, address.base, registers[0])
                    : &lw.emit(h.load[window], registers[0], address.base);
  } else {
    uint32_t extra = lw.extra(registers);
    inst = &lw.emit(is_store ? h.store_vector[window] : h.load_vector[window], 0, address.base);
    inst->extra = extra;
  }
  inst->imm = address.offset;
  inst->flags = m.elements;
  if (m.strong && !is_store) lw.emit(poll_hint);
  return true;
}

// ------------------------------------------------------------------------------------------------------- addresses

template <uint64_t Part>
void is_in_window(Warp& w, const Inst& in) {
  const uint64_t* a = at<uint64_t>(w, in.a);
  uint32_t result = 0;
  for (int i = 0; i < kLanes; ++i) result |= uint32_t(a[i] >> kWindowShift == Part) << i;
  set_predicate(w, in.d, result);
}

bool rule_isspacep(Lower& lw) {
  int space = lw.take_any({"global", "shared", "shared::cta", "shared::cluster", "local", "param", "param::entry"});
  if (space < 0 || !lw.expect_operands(2, 2)) return false;
  Handler h = space == 0   ? is_in_window<0>
              : space <= 3 ? is_in_window<kSharedWindow>
              : space == 4 ? is_in_window<kLocalWindow>
                           : is_in_window<kParamWindow>;
  Location a = lw.src(1, Type::kU64);
  lw.emit(h, lw.dst_predicate(0), a);
  return true;
}

void copy64(Warp& w, const Inst& in) {
  const uint64_t* a = at<uint64_t>(w, in.a);
  each<uint64_t>(w, in.d, [=](int i) { return a[i]; });
}

bool rule_cvta(Lower& lw) {
  bool to = lw.take("to");
  int space =
      lw.take_any({"global", "const", "param", "param::entry", "shared", "shared::cta", "shared::cluster", "local"});
  if (!lw.take("u64") || space < 0 || !lw.expect_operands(2, 2)) return lw.refuse();
  Location d = lw.dst(0, Type::kU64), a = lw.src(1, Type::kU64);
  if (space <= 3) {
    lw.emit(copy64, d, a);
    return true;
  }
  uint64_t window = (space == 7 ? kLocalWindow : kSharedWindow) << kWindowShift;
  Location delta = lw.constant(to ? 0 - window : window, 8);
  lw.emit(binary<uint64_t, uint64_t, [](uint64_t x, uint64_t y) { return x + y; }>, d, a, delta);
  return true;
}

// mapa and getctarank: clusters are single blocks.
bool rule_mapa(Lower& lw) {
  lw.take("shared::cluster");
  Type t = lw.take_type();
  if (!lw.expect_operands(3, 3) || (t != Type::kU64 && t != Type::kU32)) return false;
  if (t == Type::kU64)
    lw.emit(copy64, lw.dst(0, t), lw.src(1, t));
  else
    lw.emit(unary<uint32_t, uint32_t, [](uint32_t v) { return v; }>, lw.dst(0, t), lw.src(1, t));
  return true;
}

bool rule_hint(Lower& lw) {  // prefetch, discard, applypriority: no effect on values
  AccessModifiers m;
  take_access(lw, m);
  lw.take_any({"tensormap", "L1", "L2"});
  for (auto modifier : lw.in().modifiers) lw.take(modifier);
  return true;
}

void full_fence(Warp&, const Inst&) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

bool rule_fence(Lower& lw) {
  lw.take("proxy");
  lw.take_any({"sc", "acq_rel", "acquire", "release", "alias", "async", "async.global"});
  lw.take_any({"cta", "cluster", "gpu", "sys", "gl"});
  lw.take_any({"global", "shared::cta", "shared::cluster", "mbarrier_init"});
  lw.take_any({"release", "cluster"});
  lw.take("cluster");
  lw.emit(full_fence);
  return true;
}

// ------------------------------------------------------------------------------------------------------- cp.async

// Copies at once: a copy may complete at any time before it is waited for. flags: bytes; b: bytes taken from the
// source.
void copy_async(Warp& w, const Inst& in) {
  const uint64_t *to = at<uint64_t>(w, in.d), *from = at<uint64_t>(w, in.a);
  const uint32_t* size = in.b ? at<uint32_t>(w, in.b) : nullptr;
  const uint32_t bytes = in.flags;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    uint32_t take = size ? std::min(size[i], bytes) : bytes;
    uint8_t* out = resolve(w, in, Window::kShared, to[i] + in.extra, bytes, bytes, true, i);
    if (!out) return;
    if (take) {
      const uint8_t* source = resolve(w, in, Window::kGlobal, from[i] + in.imm, take, 1, false, i);
      if (!source) return;
      if ((from[i] + in.imm) & (bytes - 1))
        return fault(w, in, LaunchCode::kMisalignedAddress, i, "misaligned cp.async source", from[i] + in.imm);
      memcpy(out, source, take);
    }
    memset(out + take, 0, bytes - take);
  }
}

void ignore_source(Warp& w, const Inst& in) {  // size = ignore-src ? 0 : all
  uint32_t all = uint32_t(in.imm), predicate = *at<uint32_t>(w, in.a);
  each<uint32_t>(w, in.d, [=](int i) { return predicate >> i & 1 ? 0u : all; });
}

bool rule_cp(Lower& lw) {
  if (!lw.take("async")) return false;
  for (auto m : lw.in().modifiers)
    if (m == "mbarrier") return rule_copy_arrive(lw);
  for (auto m : lw.in().modifiers)
    if (m == "bulk") return false;
  if (lw.take_any({"commit_group", "wait_group", "wait_all"}) >= 0) return true;
  if (lw.take_any({"ca", "cg"}) < 0 || lw.take_any({"shared", "shared::cta"}) < 0 || !lw.take("global")) return false;
  bool hint = false;
  for (auto m : lw.in().modifiers)
    if (m.substr(0, 4) == "L2::") hint |= m == "L2::cache_hint", lw.take(m);
  if (!lw.expect_operands(3, hint ? 5 : 4)) return false;
  Lower::Address to, from;
  if (!lw.address(lw.operand(0), to) || !lw.address(lw.operand(1), from)) return false;
  const ast::Operand& size = lw.operand(2);
  if (size.kind != ast::OperandKind::kInt || (size.bits != 4 && size.bits != 8 && size.bits != 16)) return false;
  Location taken = 0;
  if (lw.operand_count() > (hint ? 4u : 3u)) {
    if (lw.register_type(lw.operand(3)) == Type::kPred || lw.operand(3).negated) {
      taken = lw.temporary(4);
      lw.emit(ignore_source, taken, lw.src_predicate(lw.operand(3))).imm = size.bits;
    } else {
      taken = lw.src(3, Type::kU32);
    }
  }
  Inst& inst = lw.emit(copy_async, to.base, from.base, taken);
  inst.imm = from.offset;
  inst.extra = uint32_t(to.offset);
  inst.flags = uint32_t(size.bits);
  return to.kind == Lower::Address::kRegister && from.kind == Lower::Address::kRegister;
}

bool rule_load(Lower& lw) { return rule_load_store(lw, false); }
bool rule_store(Lower& lw) { return rule_load_store(lw, true); }

constexpr NamedRule kRules[] = {
    {"ld", rule_load},      {"ldu", rule_load},           {"st", rule_store},      {"isspacep", rule_isspacep},
    {"cvta", rule_cvta},    {"mapa", rule_mapa},          {"prefetch", rule_hint}, {"prefetchu", rule_hint},
    {"discard", rule_hint}, {"applypriority", rule_hint}, {"membar", rule_fence},  {"fence", rule_fence},
    {"cp", rule_cp},
};

}  // namespace

std::span<const NamedRule> memory_rules() { return kRules; }

}  // namespace bf::ptx
