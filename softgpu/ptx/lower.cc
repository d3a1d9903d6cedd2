#include "softgpu/ptx/lower.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>

#include "softgpu/ptx/machine.h"

namespace bf::ptx {
namespace {

constexpr uint64_t kMaxLocalBytes = 512 << 10;  // per thread, as on real devices
constexpr size_t kMaxPoolBytes = size_t{1} << 29;

uint32_t storage_bytes(Type type) {
  uint32_t bytes = type_bytes(type);
  return bytes == 1 ? 2 : bytes;
}

void widen_address(Warp& w, const Inst& in) {
  const uint32_t* a = at<uint32_t>(w, in.a);
  each<uint64_t>(w, in.d, [=](int i) { return uint64_t(a[i]); });
}

void add_offset(Warp& w, const Inst& in) {
  const uint64_t* a = at<uint64_t>(w, in.a);
  uint64_t offset = in.imm;
  each<uint64_t>(w, in.d, [=](int i) { return a[i] + offset; });
}

// Address of a local variable: relative to the thread's local window (imm) and to this activation's frame.
void local_address(Warp& w, const Inst& in) {
  uint64_t address = in.imm + w.frame->local_base;
  each<uint64_t>(w, in.d, [=](int) { return address; });
}

void not_predicate(Warp& w, const Inst& in) { set_predicate(w, in.d, ~*at<uint32_t>(w, in.a)); }

template <typename T>
void read_clock(Warp& w, const Inst& in) {
  uint64_t now = __builtin_ia32_rdtsc();
  T value = T(in.flags ? now >> 32 : now);
  each<T>(w, in.d, [=](int) { return value; });
}

template <typename T>
void read_timer(Warp& w, const Inst& in) {
  uint64_t ns =
      uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
                   .count());
  T value = T(in.flags ? ns >> 32 : ns);
  each<T>(w, in.d, [=](int) { return value; });
}

const std::unordered_map<std::string_view, Rule>& rules() {
  static const auto* const map = [] {
    auto* m = new std::unordered_map<std::string_view, Rule>;
    for (auto family : {int_rules(), logic_rules(), float_rules(), half_rules(), compare_rules(), convert_rules(),
                        move_rules(), memory_rules(), atomic_rules(), warp_rules(), control_rules(), texture_rules(),
                        matrix_rules(), mbarrier_rules(), video_rules()})
      for (const NamedRule& rule : family) m->emplace(rule.opcode, rule.rule);
    return m;
  }();
  return *map;
}

struct NamedSpecial {
  std::string_view name;
  size_t offset;
  Type type;
};
#define BF_SPECIAL(name, member, type) \
  { name, offsetof(Specials, member), Type::type }
constexpr NamedSpecial kSpecials[] = {
    BF_SPECIAL("%tid.x", tid[0], kU32),
    BF_SPECIAL("%tid.y", tid[1], kU32),
    BF_SPECIAL("%tid.z", tid[2], kU32),
    BF_SPECIAL("%ntid.x", ntid[0], kU32),
    BF_SPECIAL("%ntid.y", ntid[1], kU32),
    BF_SPECIAL("%ntid.z", ntid[2], kU32),
    BF_SPECIAL("%ctaid.x", ctaid[0], kU32),
    BF_SPECIAL("%ctaid.y", ctaid[1], kU32),
    BF_SPECIAL("%ctaid.z", ctaid[2], kU32),
    BF_SPECIAL("%nctaid.x", nctaid[0], kU32),
    BF_SPECIAL("%nctaid.y", nctaid[1], kU32),
    BF_SPECIAL("%nctaid.z", nctaid[2], kU32),
    BF_SPECIAL("%laneid", laneid, kU32),
    BF_SPECIAL("%warpid", warpid, kU32),
    BF_SPECIAL("%nwarpid", nwarpid, kU32),
    BF_SPECIAL("%smid", smid, kU32),
    BF_SPECIAL("%nsmid", nsmid, kU32),
    BF_SPECIAL("%gridid", gridid, kU64),
    BF_SPECIAL("%lanemask_eq", lanemask_eq, kU32),
    BF_SPECIAL("%lanemask_le", lanemask_le, kU32),
    BF_SPECIAL("%lanemask_lt", lanemask_lt, kU32),
    BF_SPECIAL("%lanemask_ge", lanemask_ge, kU32),
    BF_SPECIAL("%lanemask_gt", lanemask_gt, kU32),
    BF_SPECIAL("%dynamic_smem_size", dynamic_shared, kU32),
    BF_SPECIAL("%total_smem_size", total_shared, kU32),
    BF_SPECIAL("%aggr_smem_size", total_shared, kU32),
    // Clusters are single blocks: the cluster grid is the grid.
    BF_SPECIAL("%clusterid.x", ctaid[0], kU32),
    BF_SPECIAL("%clusterid.y", ctaid[1], kU32),
    BF_SPECIAL("%clusterid.z", ctaid[2], kU32),
    BF_SPECIAL("%nclusterid.x", nctaid[0], kU32),
    BF_SPECIAL("%nclusterid.y", nctaid[1], kU32),
    BF_SPECIAL("%nclusterid.z", nctaid[2], kU32),
    BF_SPECIAL("%cluster_ctaid.x", zero32, kU32),
    BF_SPECIAL("%cluster_ctaid.y", zero32, kU32),
    BF_SPECIAL("%cluster_ctaid.z", zero32, kU32),
    BF_SPECIAL("%cluster_nctaid.x", one32, kU32),
    BF_SPECIAL("%cluster_nctaid.y", one32, kU32),
    BF_SPECIAL("%cluster_nctaid.z", one32, kU32),
    BF_SPECIAL("%cluster_ctarank", zero32, kU32),
    BF_SPECIAL("%cluster_nctarank", one32, kU32),
    BF_SPECIAL("%reserved_smem_offset_begin", reserved_begin, kU32),
    BF_SPECIAL("%reserved_smem_offset_end", reserved_end, kU32),
    BF_SPECIAL("%reserved_smem_offset_cap", reserved_bytes, kU32),
    BF_SPECIAL("%reserved_smem_offset_0", reserved_begin, kU32),
    BF_SPECIAL("%reserved_smem_offset_1", reserved_begin, kU32),
    BF_SPECIAL("%envreg1", workspace_high, kU32),
    BF_SPECIAL("%envreg2", workspace_low, kU32),
};
#undef BF_SPECIAL

}  // namespace

const Linker::Name* Linker::find(int unit, std::string_view name) const {
  if (auto it = statics[size_t(unit)].find(name); it != statics[size_t(unit)].end()) return &it->second;
  if (auto it = globals.find(name); it != globals.end()) return &it->second;
  return nullptr;
}

Lower::Lower(Linker& linker, Program& program, Function& out, const ast::Function& in, int unit)
    : linker_(linker), program_(program), out_(out), ast_(in), unit_(unit) {}

bool Lower::refuse(const std::string& why) {
  if (!error_.empty()) return false;
  if (in_) {
    error_ = "unsupported instruction '" + std::string(in_->opcode);
    for (auto modifier : in_->modifiers) error_ += "." + std::string(modifier);
    error_ += "' at line " + std::to_string(line_);
    error_ += (ast_.kernel ? " in kernel " : " in function ") + std::string(ast_.name);
    if (!why.empty()) error_ += ": " + why;
  } else {
    error_ = why + " at line " + std::to_string(line_) + (ast_.kernel ? " in kernel " : " in function ") +
             std::string(ast_.name);
  }
  return false;
}

const ast::Operand& Lower::operand(size_t i) const {
  static const ast::Operand none;
  return i < in_->operands.size() ? in_->operands[i] : none;
}

bool Lower::take(std::string_view modifier) {
  for (size_t i = 0; i < in_->modifiers.size(); ++i)
    if (!(used_modifiers_ >> i & 1) && in_->modifiers[i] == modifier) {
      used_modifiers_ |= 1u << i;
      return true;
    }
  return false;
}

int Lower::take_any(std::initializer_list<std::string_view> words) {
  int index = 0;
  for (auto word : words) {
    if (take(word)) return index;
    ++index;
  }
  return -1;
}

Type Lower::peek_type() const {
  for (size_t i = 0; i < in_->modifiers.size(); ++i)
    if (!(used_modifiers_ >> i & 1))
      if (Type type = parse_type(in_->modifiers[i]); type != Type::kNone) return type;
  return Type::kNone;
}

Type Lower::take_type() {
  Type type = peek_type();
  if (type == Type::kNone)
    refuse("no type");
  else
    take(type_name(type));
  return type;
}

bool Lower::expect_operands(size_t least, size_t most) {
  size_t n = operand_count();
  return (n >= least && n <= most) || refuse("wrong number of operands");
}

// ------------------------------------------------------------------------------------------------------------- symbols

Lower::Symbol* Lower::find(std::string_view name) {
  for (size_t i = open_.size(); i-- > 0;)
    if (auto it = open_[i].symbols.find(name); it != open_[i].symbols.end()) return &it->second;
  return nullptr;
}

bool Lower::define(std::string_view name, const Symbol& symbol) {
  if (!open_.back().symbols.emplace(name, symbol).second)
    return refuse("'" + std::string(name) + "' is declared twice");
  return true;
}

Location Lower::temporary(uint32_t bytes) {
  uint32_t size = bytes == 0 ? 64 : bytes * kLanes;
  uint32_t offset = (out_.frame_bytes + 63) & ~63u;
  if (offset + size > kMaxOffset) {
    refuse("too many registers");
    return 0;
  }
  out_.frame_bytes = offset + size;
  return location(Base::kFrame, offset);
}

bool Lower::find_register(std::string_view name, Symbol& out) {
  if (Symbol* s = find(name)) {
    if (s->kind != Symbol::kRegister) return false;
    if (s->value == ~0u) {
      s->value = temporary(s->type == Type::kPred ? 0 : storage_bytes(s->type));
      out_.registers32 += s->type == Type::kPred ? 0 : std::max(1u, type_bytes(s->type) / 4);
    }
    out = *s;
    return true;
  }
  size_t digits = name.size();
  while (digits > 0 && name[digits - 1] >= '0' && name[digits - 1] <= '9') --digits;
  for (; digits < name.size(); ++digits) {
    uint64_t number = 0;
    for (char c : name.substr(digits)) number = std::min<uint64_t>(number * 10 + uint64_t(c - '0'), 1u << 30);
    for (size_t i = open_.size(); i-- > 0;) {
      auto it = open_[i].symbols.find(name.substr(0, digits));
      if (it == open_[i].symbols.end() || it->second.kind != Symbol::kRange || number >= it->second.value) continue;
      Symbol s;
      s.kind = Symbol::kRegister;
      s.type = it->second.type;
      s.value = temporary(s.type == Type::kPred ? 0 : storage_bytes(s.type));
      out_.registers32 += s.type == Type::kPred ? 0 : std::max(1u, type_bytes(s.type) / 4);
      open_[i].symbols.emplace(name, s);
      out = s;
      return true;
    }
  }
  return false;
}

Type Lower::register_type(const ast::Operand& operand) {
  Symbol s;
  if (operand.kind == ast::OperandKind::kName && find_register(operand.name, s)) return s.type;
  for (const auto& special : kSpecials)
    if (operand.kind == ast::OperandKind::kName && special.name == operand.name) return special.type;
  return Type::kNone;
}

uint32_t Lower::allocate_local(uint64_t bytes, uint32_t alignment) {
  uint64_t offset = (uint64_t(out_.local_bytes) + alignment - 1) & ~uint64_t(alignment - 1);
  if (bytes > kMaxLocalBytes || offset + bytes > kMaxLocalBytes) {
    refuse("more than 512 KiB of local memory");
    return 0;
  }
  out_.local_bytes = uint32_t(offset + bytes);
  return uint32_t(offset);
}

bool Lower::declare(const ast::Declaration& d) {
  Symbol s;
  s.type = d.type;
  s.bytes = d.bytes();
  switch (d.space) {
    case ast::Space::kReg:
      if (type_bytes(d.type) == 0 && d.type != Type::kPred) return refuse("bad register type");
      if (d.vector != 1) {
        return refuse("vector registers are not supported");
      }
      s.kind = d.count ? Symbol::kRange : Symbol::kRegister;
      s.value = d.count ? d.count : ~0u;
      return define(d.name, s);
    case ast::Space::kLocal:
    case ast::Space::kParam:
      s.kind = d.space == ast::Space::kLocal ? Symbol::kLocal : Symbol::kParam;
      s.value = allocate_local(d.bytes(), std::max(d.align(), 1u));
      return define(d.name, s);
    case ast::Space::kShared: {
      s.kind = Symbol::kShared;
      if (d.linkage == ast::Linkage::kExtern) return true;  // as at module level
      if (d.bytes() > (1u << 20)) return refuse("too much shared memory");
      s.value = uint32_t(program_.shared.size());
      program_.shared.push_back({std::string(d.name), d.bytes(), d.align(), d.unsized, 0});
      return define(d.name, s);
    }
    default:
      return refuse("'" + std::string(d.name) +
                    "': only registers, parameters, local and shared variables may be "
                    "declared in a function");
  }
}

bool Lower::declare_param(const ast::Declaration& d, bool formal, uint32_t& cursor) {
  if (d.space != ast::Space::kParam) return refuse("register parameters are not supported");
  Symbol s;
  s.kind = Symbol::kParam;
  s.type = d.type;
  s.bytes = d.bytes();
  if (ast_.kernel) {
    uint64_t offset = (uint64_t(cursor) + d.align() - 1) & ~uint64_t(d.align() - 1);
    if (offset + s.bytes > 32764) return refuse("more than 32764 bytes of kernel parameters");
    s.value = uint32_t(offset);
    cursor = uint32_t(offset + s.bytes);
    kernel_params_.emplace(d.name, s.value);
  } else {
    s.value = allocate_local(s.bytes, std::max(d.align(), 1u));
    (formal ? out_.params : out_.returns).push_back({s.value, uint32_t(s.bytes)});
  }
  return define(d.name, s);
}

void Lower::collect_labels() {
  label_scopes_.emplace_back();
  std::vector<uint32_t> stack{0};
  label_of_statement_.assign(ast_.body.size(), 0);
  uint32_t labels = 0;
  for (size_t i = 0; i < ast_.body.size(); ++i) {
    const ast::Statement& s = ast_.body[i];
    if (s.kind == ast::StatementKind::kOpen) {
      stack.push_back(uint32_t(label_scopes_.size()));
      label_scopes_.emplace_back();
    } else if (s.kind == ast::StatementKind::kClose) {
      if (stack.size() > 1) stack.pop_back();
    } else if (s.kind == ast::StatementKind::kLabel) {
      line_ = s.line;
      if (!label_scopes_[stack.back()].emplace(s.name, labels).second)
        refuse("label '" + std::string(s.name) + "' is defined twice");
      label_of_statement_[i] = labels++;
    }
  }
  label_code_.assign(labels, 0);
}

bool Lower::branch_target(std::string_view label, uint32_t& out) {
  for (size_t i = scope_numbers_.size(); i-- > 0;)
    if (auto it = label_scopes_[scope_numbers_[i]].find(label); it != label_scopes_[scope_numbers_[i]].end()) {
      out = it->second;
      return true;
    }
  return refuse("no label '" + std::string(label) + "'");
}

bool Lower::find_targets(std::string_view name, std::vector<std::string_view>& out) {
  Symbol* s = find(name);
  if (!s || s->kind != Symbol::kTargets) return refuse("no .branchtargets '" + std::string(name) + "'");
  out = *s->targets;
  return true;
}

// ------------------------------------------------------------------------------------------------------------ operands

Location Lower::constant(uint64_t bits, uint32_t bytes) {
  if (bytes < 8) bits &= (uint64_t{1} << (bytes * 8)) - 1;
  auto [it, added] = linker_.constants.try_emplace({bits, bytes}, 0);
  if (added) {
    size_t offset = program_.pool.size();
    if (offset > kMaxPoolBytes) {
      refuse("too many constants");
      return 0;
    }
    program_.pool.resize(offset + std::max<size_t>(64, bytes * kLanes));
    for (uint32_t i = 0; i < kLanes; ++i) memcpy(&program_.pool[offset + i * bytes], &bits, bytes);
    it->second = location(Base::kConstants, uint32_t(offset));
  }
  return it->second;
}

Location Lower::constant128(uint64_t low, uint64_t high) {
  size_t offset = program_.pool.size();
  program_.pool.resize(offset + 16 * kLanes);
  for (uint32_t i = 0; i < kLanes; ++i) {
    memcpy(&program_.pool[offset + i * 16], &low, 8);
    memcpy(&program_.pool[offset + i * 16 + 8], &high, 8);
  }
  return location(Base::kConstants, uint32_t(offset));
}

bool Lower::symbol_address(std::string_view name, uint64_t addend, Location& out) {
  auto emit_local = [&](uint64_t window, uint64_t offset) {
    out = temporary(8);
    emit(local_address, out).imm = window + offset + addend;
    return true;
  };
  uint32_t shared = ~0u;
  if (Symbol* s = find(name)) {
    if (s->kind == Symbol::kLocal) return emit_local(0, s->value);
    if (s->kind == Symbol::kParam && ast_.kernel && kernel_params_.count(name)) {
      out = constant((kParamWindow << kWindowShift) + s->value + addend, 8);
      return true;
    }
    if (s->kind == Symbol::kParam) return emit_local(kLocalWindow << kWindowShift, s->value);
    if (s->kind != Symbol::kShared) return refuse("'" + std::string(name) + "' has no address");
    shared = s->value;
  }
  const Linker::Name* global = shared == ~0u ? linker_.find(unit_, name) : nullptr;
  if (shared == ~0u && !global) return refuse("unknown symbol '" + std::string(name.substr(0, 100)) + "'");
  if (global && global->kind == Linker::Name::kShared) shared = global->index;
  if (shared != ~0u) {
    if (std::find(out_.shared.begin(), out_.shared.end(), shared) == out_.shared.end()) out_.shared.push_back(shared);
    if (program_.shared[shared].dynamic) {
      out = location(Base::kSpecials, offsetof(Specials, dynamic_base));
      if (addend) {
        Location sum = temporary(8);
        emit(add_offset, sum, out).imm = addend;
        out = sum;
      }
      return true;
    }
  }
  if (global &&
      (global->kind == Linker::Name::kUndefinedVariable || global->kind == Linker::Name::kUndefinedFunction)) {
    program_.undefined = true;
    out = constant(0, 8);
    return true;
  }
  if (global && global->kind == Linker::Name::kBuiltin)
    return refuse("the address of '" + std::string(name) + "' cannot be taken");
  uint64_t kind = shared != ~0u ? 0 : global->kind == Linker::Name::kVariable ? 1 : 2;
  uint32_t index = shared != ~0u ? shared : global->index;
  auto [it, added] = linker_.addresses.try_emplace({kind << 32 | index, addend}, 0);
  if (added) {
    size_t offset = program_.pool.size();
    if (offset > kMaxPoolBytes) return refuse("too many constants");
    program_.pool.resize(offset + 8 * kLanes);
    it->second = location(Base::kConstants, uint32_t(offset));
    if (kind == 0)
      linker_.shared_constants.push_back({it->second, {shared, addend}});
    else
      program_.pool_relocations.push_back({0, offset, 8, kind == 2, index, addend, 0});
  }
  if (kind == 2) program_.functions[index].address_taken = true;
  out = it->second;
  return true;
}

bool Lower::special(std::string_view name, Location& l, Type& type) {
  for (const auto& special : kSpecials)
    if (special.name == name) {
      l = location(Base::kSpecials, uint32_t(special.offset));
      type = special.type;
      if (name.find("reserved_smem") != name.npos) out_.reserved_shared = true;
      return true;
    }
  auto read = [&](Handler handler, Type result, uint32_t high) {
    type = result;
    l = temporary(type_bytes(result));
    emit(handler, l).flags = high;
    return true;
  };
  if (name == "%clock") return read(read_clock<uint32_t>, Type::kU32, 0);
  if (name == "%clock_hi") return read(read_clock<uint32_t>, Type::kU32, 1);
  if (name == "%clock64") return read(read_clock<uint64_t>, Type::kU64, 0);
  if (name == "%globaltimer") return read(read_timer<uint64_t>, Type::kU64, 0);
  if (name == "%globaltimer_lo") return read(read_timer<uint32_t>, Type::kU32, 0);
  if (name == "%globaltimer_hi") return read(read_timer<uint32_t>, Type::kU32, 1);
  if (name == "WARP_SZ") {
    type = Type::kU32;
    l = constant(32, 4);
    return true;
  }
  if (name.substr(0, 7) == "%envreg" || name == "%is_explicit_cluster") {
    type = Type::kU32;
    l = location(Base::kSpecials, offsetof(Specials, zero32));
    return true;
  }
  return false;
}

Location Lower::src(const ast::Operand& operand, Type type) {
  using ast::OperandKind;
  if (type == Type::kPred) return src_predicate(operand);
  uint32_t bytes = storage_bytes(type);
  if (operand.negated) return refuse("'!' on an operand that is no predicate"), 0;
  switch (operand.kind) {
    case OperandKind::kInt:
      if (type == Type::kF64) return constant(std::bit_cast<uint64_t>(double(int64_t(operand.bits))), 8);
      if (type == Type::kF32) return constant(std::bit_cast<uint32_t>(float(int64_t(operand.bits))), 4);
      if (bytes == 16) return constant128(operand.bits, 0);
      return constant(operand.bits, bytes);
    case OperandKind::kFloat32:
      if (type == Type::kF64)
        return constant(std::bit_cast<uint64_t>(double(std::bit_cast<float>(uint32_t(operand.bits)))), 8);
      if (bytes != 4) return refuse("a 32-bit float immediate does not fit the type"), 0;
      return constant(operand.bits, 4);
    case OperandKind::kFloat64:
      if (type == Type::kF32) return constant(std::bit_cast<uint32_t>(float(std::bit_cast<double>(operand.bits))), 4);
      if (bytes != 8) return refuse("a 64-bit float immediate does not fit the type"), 0;
      return constant(operand.bits, 8);
    case OperandKind::kName: {
      Symbol s;
      if (find_register(operand.name, s)) {
        if (operand.bits) return refuse("offset on a register"), 0;
        if (storage_bytes(s.type) != bytes)
          return refuse("register '" + std::string(operand.name) + "' has the wrong width"), 0;
        return s.value;
      }
      Location l = 0;
      Type special_type;
      if (special(operand.name, l, special_type)) {
        if (storage_bytes(special_type) == bytes) return l;
        return refuse("special register '" + std::string(operand.name) + "' has the wrong width"), 0;
      }
      if (operand.name[0] == '%' && !find(operand.name) && !linker_.find(unit_, operand.name))
        return refuse("unknown or unsupported register '" + std::string(operand.name.substr(0, 100)) + "'"), 0;
      if (bytes != 8 && bytes != 4) return refuse("an address does not fit the type"), 0;
      if (!symbol_address(operand.name, operand.bits, l)) return 0;
      if (bytes == 4) {  // 32-bit addresses of shared memory: the low half
        Location low = temporary(4);
        emit(
            [](Warp& w, const Inst& in) {
              const uint64_t* a = at<uint64_t>(w, in.a);
              each<uint32_t>(w, in.d, [=](int i) { return uint32_t(a[i]); });
            },
            low, l);
        return low;
      }
      return l;
    }
    default:
      return refuse("unexpected kind of operand"), 0;
  }
}

Location Lower::dst(const ast::Operand& operand, Type type) {
  if (type == Type::kPred) return dst_predicate(operand.name);
  uint32_t bytes = storage_bytes(type);
  if (operand.kind != ast::OperandKind::kName) return refuse("the destination is no register"), 0;
  if (operand.name == "_") return temporary(bytes);
  Symbol s;
  if (!find_register(operand.name, s))
    return refuse("unknown register '" + std::string(operand.name.substr(0, 100)) + "'"), 0;
  if (s.type == Type::kPred || storage_bytes(s.type) != bytes)
    return refuse("register '" + std::string(operand.name) + "' has the wrong width"), 0;
  return s.value;
}

Location Lower::src_predicate(const ast::Operand& operand) {
  Location l = 0;
  if (operand.kind == ast::OperandKind::kInt) {
    l = constant(operand.bits ? ~0u : 0u, 4);
  } else {
    Symbol s;
    if (operand.kind != ast::OperandKind::kName || !find_register(operand.name, s) || s.type != Type::kPred)
      return refuse("expected a predicate"), 0;
    l = s.value;
  }
  if (!operand.negated) return l;
  Location inverse = temporary(0);
  emit(not_predicate, inverse, l);
  return inverse;
}

Location Lower::dst_predicate(std::string_view name) {
  if (name == "_") return temporary(0);
  Symbol s;
  if (!find_register(name, s) || s.type != Type::kPred) return refuse("expected a predicate as destination"), 0;
  return s.value;
}

bool Lower::address(const ast::Operand& operand, Address& out) {
  if (operand.kind != ast::OperandKind::kAddress || !operand.items.empty()) return refuse("expected an address");
  Symbol s;
  out.kind = Address::kRegister;
  out.offset = operand.bits;
  if (operand.name.empty()) {
    out.base = constant(operand.bits, 8);
    out.offset = 0;
    return true;
  }
  if (find_register(operand.name, s)) {
    if (storage_bytes(s.type) == 8 && s.type != Type::kPred) {
      out.base = s.value;
    } else if (type_bytes(s.type) == 4) {
      out.base = temporary(8);
      emit(widen_address, out.base, s.value);
    } else {
      return refuse("address register '" + std::string(operand.name) + "' has the wrong width");
    }
    return error_.empty();
  }
  if (Symbol* symbol = find(operand.name);
      symbol && (symbol->kind == Symbol::kParam || symbol->kind == Symbol::kLocal)) {
    out.kind = symbol->kind == Symbol::kParam && kernel_params_.count(operand.name) ? Address::kKernelParam
                                                                                    : Address::kFrameLocal;
    if (operand.bits > symbol->bytes) return refuse("address outside variable '" + std::string(operand.name) + "'");
    out.room = symbol->bytes - operand.bits;
    out.offset = symbol->value + operand.bits;
    return true;
  }
  out.offset = 0;
  return symbol_address(operand.name, operand.bits, out.base);
}

// -------------------------------------------------------------------------------------------------------------- output

Inst& Lower::emit(Handler handler, Location d, Location a, Location b, Location c) {
  Inst inst;
  inst.run = handler;
  inst.guard = guard_;
  inst.d = d, inst.a = a, inst.b = b, inst.c = c;
  inst.line = uint32_t(line_);
  out_.code.push_back(inst);
  return out_.code.back();
}

uint32_t Lower::extra(std::span<const uint32_t> values) {
  uint32_t index = uint32_t(out_.extra.size());
  out_.extra.insert(out_.extra.end(), values.begin(), values.end());
  return index;
}

bool Lower::guard_of(const ast::Instruction& in, uint32_t& guard) {
  guard = kNoGuard;
  if (in.guard.empty()) return true;
  Symbol s;
  if (!find_register(in.guard, s) || s.type != Type::kPred) return refuse("the guard is no predicate");
  guard = s.value | (in.guard_negated ? kGuardNegated : 0);
  return true;
}

bool Lower::instruction(const ast::Instruction& in) {
  in_ = &in;
  used_modifiers_ = 0;
  guard_ = kNoGuard;
  auto it = rules().find(in.opcode);
  if (it == rules().end()) return refuse();
  if (!guard_of(in, guard_)) return false;
  if (!it->second(*this)) return refuse();
  if (!error_.empty()) return false;
  for (size_t i = 0; i < in.modifiers.size(); ++i)
    if (!(used_modifiers_ >> i & 1)) return refuse("unsupported modifier '." + std::string(in.modifiers[i]) + "'");
  in_ = nullptr;
  guard_ = kNoGuard;
  return true;
}

bool Lower::statement(const ast::Statement& s) {
  line_ = s.line;
  switch (s.kind) {
    case ast::StatementKind::kInstruction:
      return instruction(ast_.instructions[s.index]);
    case ast::StatementKind::kDeclaration:
      return declare(ast_.declarations[s.index]);
    case ast::StatementKind::kOpen:
      open_.emplace_back();
      scope_numbers_.push_back(++next_scope_);
      return true;
    case ast::StatementKind::kClose:
      open_.pop_back();
      scope_numbers_.pop_back();
      return true;
    case ast::StatementKind::kLabel: {
      label_code_[label_of_statement_[size_t(&s - ast_.body.data())]] = uint32_t(out_.code.size());
      guard_ = kNoGuard;
      emit(mark);
      return true;
    }
    case ast::StatementKind::kTargets: {
      Symbol symbol;
      symbol.kind = Symbol::kTargets;
      symbol.targets = &s.targets;
      return define(s.name, symbol);
    }
    case ast::StatementKind::kPrototype: {
      Symbol symbol;
      symbol.kind = Symbol::kPrototype;
      return define(s.name, symbol);
    }
  }
  return true;
}

void exit_thread(Warp& w, const Inst& in);    // control.cc
void return_thread(Warp& w, const Inst& in);  // control.cc

Status Lower::run() {
  line_ = ast_.line;
  out_.frame_bytes = 64;  // location 0 means none
  open_.emplace_back();
  scope_numbers_.push_back(0);
  collect_labels();
  uint32_t cursor = 0;
  for (const auto& d : ast_.returns)
    if (error_.empty()) declare_param(d, false, cursor);
  for (const auto& d : ast_.params)
    if (error_.empty()) declare_param(d, true, cursor);
  emit(mark);
  for (const auto& s : ast_.body)
    if (!error_.empty() || !statement(s)) break;
  if (error_.empty()) {
    in_ = nullptr;
    emit(ast_.kernel ? exit_thread : return_thread);
    for (const Branch& b : branches_)
      (b.in_extra ? out_.extra[b.place] : out_.code[b.place].extra) = label_code_[b.label];
    // A block's mark charges fuel for the instructions up to the next mark.
    uint32_t since = 0;
    for (size_t i = out_.code.size(); i-- > 0;) {
      ++since;
      if (out_.code[i].run == mark) out_.code[i].imm = since, since = 0;
    }
    return ok_status();
  }
  return {StatusCode::kInvalid, error_};
}

// -------------------------------------------------------------------------------------------------------------- calls

void call_direct(Warp& w, const Inst& in);    // control.cc
void call_indirect(Warp& w, const Inst& in);  // control.cc
void trap_thread(Warp& w, const Inst& in);    // control.cc

bool Lower::call_arguments(const ast::Operand& list, std::vector<ParamSlot>& out) {
  for (const auto& item : list.items) {
    Symbol* s = item.kind == ast::OperandKind::kName ? find(item.name) : nullptr;
    if (item.kind == ast::OperandKind::kName && item.name == "_") continue;
    if (!s || s->kind != Symbol::kParam || kernel_params_.count(item.name))
      return refuse("arguments must be .param variables of this function");
    out.push_back({s->value, uint32_t(s->bytes)});
  }
  return true;
}

bool Lower::call() {
  take("uni");
  size_t at = 0;
  std::vector<ParamSlot> returns, arguments;
  if (operand(at).kind == ast::OperandKind::kList && !call_arguments(operand(at++), returns)) return false;
  const ast::Operand& target = operand(at++);
  if (target.kind != ast::OperandKind::kName) return refuse("expected the name of a function");
  if (operand(at).kind == ast::OperandKind::kList && !call_arguments(operand(at++), arguments)) return false;
  std::vector<uint32_t> words{uint32_t(returns.size())};
  for (auto slot : returns) words.insert(words.end(), {slot.offset, slot.bytes});
  words.push_back(uint32_t(arguments.size()));
  for (auto slot : arguments) words.insert(words.end(), {slot.offset, slot.bytes});

  Symbol s;
  if (find_register(target.name, s)) {
    if (type_bytes(s.type) != 8) return refuse("a function pointer has 64 bits");
    Inst& inst = emit(call_indirect, 0, s.value);
    inst.extra = extra(words);
    out_.calls_indirectly = true;
    return true;
  }
  const Linker::Name* name = linker_.find(unit_, target.name);
  if (!name) return refuse("unknown function '" + std::string(target.name) + "'");
  if (name->kind == Linker::Name::kUndefinedFunction) {
    program_.undefined = true;
    emit(trap_thread);
    return true;
  }
  if (name->kind == Linker::Name::kBuiltin) {
    static constexpr uint32_t kArguments[][5] = {{8, 8}, {8, 8, 4, 8, 8}, {8}, {8}};
    static constexpr size_t kCounts[] = {2, 5, 1, 1};
    bool good = arguments.size() == kCounts[name->index];
    for (size_t i = 0; good && i < arguments.size(); ++i) good = arguments[i].bytes == kArguments[name->index][i];
    if (good && !returns.empty()) good = returns[0].bytes == (Builtin(name->index) == Builtin::kVprintf ? 4u : 8u);
    if (!good) return refuse("wrong arguments for '" + std::string(target.name) + "'");
    emit(builtin_handler(Builtin(name->index))).extra = extra(words);
    return true;
  }
  if (name->kind != Linker::Name::kFunction) return refuse("'" + std::string(target.name) + "' is no function");
  if (program_.functions[name->index].kernel) return refuse("a kernel cannot be called");
  const ast::Function& callee = *linker_.sources[name->index];
  if (callee.params.size() != arguments.size() || callee.returns.size() < returns.size())
    return refuse("wrong number of arguments for '" + std::string(target.name) + "'");
  for (size_t i = 0; i < arguments.size(); ++i)
    if (callee.params[i].bytes() != arguments[i].bytes) return refuse("argument sizes differ from the parameters'");
  Inst& inst = emit(call_direct);
  inst.imm = name->index;
  inst.extra = extra(words);
  if (std::find(out_.callees.begin(), out_.callees.end(), name->index) == out_.callees.end())
    out_.callees.push_back(name->index);
  return true;
}

}  // namespace bf::ptx
