// Module::load: units are parsed, their global names joined, functions lowered; then the call graph gives every kernel
// its shared-memory layout and stack. Shared variables that device functions name have one address in all kernels (the
// common region, at offset 0); those that only one kernel names follow it, or start at 0 where the kernel does not need
// the common region. All graph walks are iterative and linear: the graph comes from a file.
#include <cpuid.h>

#include <algorithm>
#include <cstring>

#include "softgpu/ptx/image.h"
#include "softgpu/ptx/lower.h"

namespace bf::ptx {
namespace {

constexpr uint64_t kMaxSharedBytes = 227 << 10;

Status invalid(std::string message) { return {StatusCode::kInvalid, std::move(message)}; }

uint64_t align_up(uint64_t value, uint64_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }

class Builder {
 public:
  Builder(Program& program, const LoadOptions& options) : program_(program), options_(options) {}

  Status build(std::vector<ast::Unit>& units) {
    linker_.statics.resize(units.size());
    for (size_t u = 0; u < units.size(); ++u) BF_RETURN_IF_ERROR(declare_unit(units[u], int(u)));
    for (size_t u = 0; u < units.size(); ++u) declare_externs(units[u], int(u));
    for (size_t u = 0; u < units.size(); ++u) BF_RETURN_IF_ERROR(fill_variables(units[u], int(u)));
    for (size_t f = 0; f < program_.functions.size(); ++f) {
      // Reserving keeps the references that lowering holds: functions are all declared by now.
      Lower lower(linker_, program_, program_.functions[f], *linker_.sources[f], units_of_[f]);
      BF_RETURN_IF_ERROR(lower.run());
    }
    if (program_.undefined && !options_.allow_undefined)
      return invalid("undefined symbol '" + first_undefined_ + "': no linked unit defines it");
    return finish_kernels(units);
  }

 private:
  using Name = Linker::Name;

  // Enters a global name; nullptr if it is already there.
  Name* enter(int unit, std::string_view name, bool local, Name value) {
    auto& map = local ? linker_.statics[size_t(unit)] : linker_.globals;
    auto [it, added] = map.try_emplace(name, value);
    return added ? &it->second : nullptr;
  }

  Status declare_unit(const ast::Unit& unit, int u) {
    program_.ptx_version = std::max(program_.ptx_version, unit.ptx_version);
    program_.target = std::max(program_.target, unit.target);
    for (const auto& d : unit.variables) {
      if (d.linkage == ast::Linkage::kExtern && !(d.space == ast::Space::kShared)) continue;
      bool local = d.linkage == ast::Linkage::kStatic || d.space == ast::Space::kShared;
      if (d.space == ast::Space::kShared) {
        Name name{Name::kShared, uint32_t(program_.shared.size())};
        if (d.bytes() > (1u << 20)) return invalid("shared variable '" + std::string(d.name) + "' is too large");
        if (enter(u, d.name, true, name))
          program_.shared.push_back({std::string(d.name), d.bytes(), d.align(), d.unsized, 0});
        continue;
      }
      if (d.type == Type::kPred || (d.unsized && d.elements == 0))
        return invalid("variable '" + std::string(d.name) + "' at line " + std::to_string(d.line) + " has no size");
      bool mergeable = d.linkage == ast::Linkage::kWeak || d.linkage == ast::Linkage::kCommon;
      Name name{Name::kVariable, uint32_t(program_.variables.size())};
      if (!enter(u, d.name, local, name)) {
        if (mergeable) continue;
        return invalid("variable '" + std::string(d.name) + "' is defined twice");
      }
      Variable v;
      v.name = d.name;
      v.space = d.space == ast::Space::kConst ? VariableSpace::kConst : VariableSpace::kGlobal;
      v.bytes = d.bytes();
      v.alignment = std::max(d.align(), 1u);
      v.visible = !local;
      v.managed = d.managed;
      if (v.space == VariableSpace::kConst) {
        uint64_t end = align_up(program_.const_bytes, v.alignment) + v.bytes;
        if (end > (640 << 10)) return invalid("more than 640 KiB of constant memory");
        program_.const_bytes = uint32_t(end);
      }
      program_.variables.push_back(std::move(v));
    }
    for (const auto& f : unit.functions) {
      if (!f.defined) continue;
      bool local = f.linkage == ast::Linkage::kStatic && !f.kernel;
      Name name{Name::kFunction, uint32_t(program_.functions.size())};
      if (!enter(u, f.name, local, name)) {
        if (f.linkage == ast::Linkage::kWeak) continue;
        return invalid("function '" + std::string(f.name) + "' is defined twice");
      }
      Function out;
      out.name = f.name;
      out.index = name.index;
      out.kernel = f.kernel;
      program_.functions.push_back(std::move(out));
      linker_.sources.push_back(&f);
      units_of_.push_back(u);
    }
    return ok_status();
  }

  // Names that are only declared: built-in functions, or symbols that are missing.
  void declare_externs(const ast::Unit& unit, int u) {
    for (const auto& f : unit.functions) {
      if (f.defined || linker_.find(u, f.name)) continue;
      static constexpr std::pair<std::string_view, Builtin> kBuiltins[] = {{"vprintf", Builtin::kVprintf},
                                                                           {"__assertfail", Builtin::kAssertfail},
                                                                           {"malloc", Builtin::kMalloc},
                                                                           {"free", Builtin::kFree}};
      Name name{Name::kUndefinedFunction, 0};
      for (auto [text, builtin] : kBuiltins)
        if (text == f.name) name = {Name::kBuiltin, uint32_t(builtin)};
      if (name.kind == Name::kUndefinedFunction && first_undefined_.empty()) first_undefined_ = f.name;
      enter(u, f.name, false, name);
    }
    for (const auto& d : unit.variables)
      if (d.linkage == ast::Linkage::kExtern && !linker_.find(u, d.name)) {
        if (first_undefined_.empty()) first_undefined_ = d.name;
        enter(u, d.name, false, {Name::kUndefinedVariable, 0});
      }
  }

  Status fill_variables(const ast::Unit& unit, int u) {
    program_.data.resize(program_.variables.size());
    for (const auto& d : unit.variables) {
      if (d.initial.empty()) continue;
      const Name* name = linker_.find(u, d.name);
      if (!name || name->kind != Name::kVariable || !program_.data[name->index].initial.empty()) continue;
      auto& bytes = program_.data[name->index].initial;
      uint32_t width = std::max(type_bytes(d.type), 1u);
      if (width > 8) return invalid("variable '" + std::string(d.name) + "': 128-bit initialisers are not supported");
      bytes.resize(d.initial.size() * width);
      for (size_t i = 0; i < d.initial.size(); ++i) {
        const ast::Initial& value = d.initial[i];
        memcpy(&bytes[i * width], &value.bits, width);
        if (value.symbol.empty()) continue;
        const Name* target = linker_.find(u, value.symbol);
        if (!target || target->kind == Name::kShared || target->kind == Name::kBuiltin)
          return invalid("initialiser of '" + std::string(d.name) + "': no variable or function '" +
                         std::string(value.symbol) + "'");
        if (target->kind == Name::kUndefinedVariable || target->kind == Name::kUndefinedFunction) {
          program_.undefined = true;
          continue;
        }
        bool function = target->kind == Name::kFunction;
        if (function) program_.functions[target->index].address_taken = true;
        program_.data_relocations.push_back(
            {name->index, i * width, width, function, target->index, value.bits, value.mask});
      }
    }
    return ok_status();
  }

  // Marks every function from which one in `marked` can be reached.
  void close_over_callers(std::vector<uint8_t>& marked) const {
    std::vector<uint32_t> work;
    for (uint32_t f = 0; f < marked.size(); ++f)
      if (marked[f]) work.push_back(f);
    while (!work.empty()) {
      uint32_t f = work.back();
      work.pop_back();
      for (uint32_t caller : callers_[f])
        if (!marked[caller]) marked[caller] = 1, work.push_back(caller);
    }
  }

  // The call graph, with one more node for "any function whose address is taken".
  void make_graph() {
    size_t n = program_.functions.size();
    callees_.assign(n + 1, {});
    callers_.assign(n + 1, {});
    for (const Function& f : program_.functions) {
      callees_[f.index] = f.callees;
      if (f.calls_indirectly) callees_[f.index].push_back(uint32_t(n));
      if (f.address_taken && !f.kernel) callees_[n].push_back(f.index);
    }
    for (uint32_t f = 0; f <= n; ++f)
      for (uint32_t callee : callees_[f]) callers_[callee].push_back(f);
  }

  // Deepest stack below each function, callees first; what this never reaches is recursive.
  void measure_stacks(std::vector<uint64_t>& below, std::vector<uint8_t>& recursive) const {
    size_t n = callees_.size();
    std::vector<size_t> open(n);
    std::vector<uint32_t> work;
    below.assign(n, 0);
    recursive.assign(n, 1);
    for (uint32_t f = 0; f < n; ++f)
      if ((open[f] = callees_[f].size()) == 0) work.push_back(f);
    while (!work.empty()) {
      uint32_t f = work.back();
      work.pop_back();
      recursive[f] = 0;
      uint64_t own = f < program_.functions.size() ? frame_cost(program_.functions[f].local_bytes) : 0;
      for (uint32_t caller : callers_[f]) {
        below[caller] = std::max(below[caller], below[f] + own);
        if (--open[caller] == 0) work.push_back(caller);
      }
    }
  }

  Status finish_kernels(const std::vector<ast::Unit>& units) {
    make_graph();
    std::vector<uint64_t> below;
    std::vector<uint8_t> recursive;
    measure_stacks(below, recursive);
    std::vector<uint8_t> needs_common(callees_.size(), 0);
    layout_common(needs_common);
    close_over_callers(needs_common);
    std::vector<uint8_t> needs_reserved(callees_.size(), 0);
    for (const Function& f : program_.functions) needs_reserved[f.index] = f.reserved_shared;
    close_over_callers(needs_reserved);
    for (Function& f : program_.functions) {
      if (!f.kernel) continue;
      f.stack_bytes = uint32_t(std::min<uint64_t>(below[f.index], 1u << 20));
      f.recursive = recursive[f.index];
      f.reserved_shared = needs_reserved[f.index];
      uint64_t end = needs_common[f.index] ? common_bytes_ : 0;
      for (uint32_t index : f.shared) {
        SharedVariable& v = program_.shared[index];
        if (v.dynamic || is_common_[index]) continue;
        end = align_up(end, v.alignment);
        v.offset = uint32_t(end);
        end += v.bytes;
      }
      if (end > kMaxSharedBytes)
        return invalid("kernel " + f.name + " uses " + std::to_string(end) +
                       " bytes of shared memory, more than 227 KiB");
      add_kernel(f, *linker_.sources[f.index], uint32_t(end), units[size_t(units_of_[f.index])]);
    }
    for (auto& [place, target] : linker_.shared_constants) {
      uint64_t address = program_.shared[target.first].offset + target.second;
      for (uint32_t i = 0; i < kLanes; ++i) memcpy(&program_.pool[(place & 0x3fffffff) + i * 8], &address, 8);
    }
    for (const KernelInfo& k : program_.kernels) program_.kernel_names.emplace(k.name, k.index);
    return ok_status();
  }

  // Shared variables named by device functions or by several functions.
  void layout_common(std::vector<uint8_t>& needs_common) {
    std::vector<uint32_t> users(program_.shared.size(), 0);
    for (const Function& f : program_.functions)
      for (uint32_t index : f.shared) users[index] += f.kernel ? 1 : 2;
    is_common_.assign(program_.shared.size(), 0);
    for (size_t i = 0; i < users.size(); ++i) {
      SharedVariable& v = program_.shared[i];
      if (users[i] < 2 || v.dynamic) continue;
      is_common_[i] = 1;
      common_bytes_ = align_up(common_bytes_, v.alignment);
      v.offset = uint32_t(std::min<uint64_t>(common_bytes_, 1u << 30));
      common_bytes_ += v.bytes;
    }
    for (const Function& f : program_.functions)
      for (uint32_t index : f.shared) needs_common[f.index] |= is_common_[index];
  }

  void add_kernel(const Function& f, const ast::Function& source, uint32_t shared, const ast::Unit& unit) {
    KernelInfo k;
    k.name = f.name;
    k.index = uint32_t(program_.kernels.size());
    uint64_t offset = 0;
    for (const auto& p : source.params) {
      offset = align_up(offset, p.align());
      k.params.push_back({uint32_t(offset), uint32_t(p.bytes()), p.align()});
      offset += p.bytes();
    }
    k.param_bytes = uint32_t(offset);
    k.static_shared_bytes = shared;
    k.local_bytes = f.local_bytes;
    k.registers = std::clamp(16 + f.registers32 / 4, 16u, 64u);
    auto product = [](const uint32_t(&v)[3]) {
      uint64_t p = uint64_t(v[0]) * v[1];
      return p > 1024 ? uint64_t(1024) : std::min<uint64_t>(p * v[2], 1024);
    };
    if (source.reqntid[0]) {
      k.max_threads = uint32_t(product(source.reqntid));
      k.required_block = {source.reqntid[0], source.reqntid[1], source.reqntid[2]};
    } else if (source.maxntid[0]) {
      k.max_threads = uint32_t(product(source.maxntid));
    }
    if (source.cluster[0]) k.required_cluster = {source.cluster[0], source.cluster[1], source.cluster[2]};
    k.min_blocks = source.min_blocks;
    k.const_bytes = program_.const_bytes;
    k.ptx_version = unit.ptx_version;
    k.target = unit.target;
    program_.kernel_functions.push_back(f.index);
    program_.kernels.push_back(std::move(k));
  }

  Program& program_;
  const LoadOptions& options_;
  Linker linker_;
  std::vector<int> units_of_;
  std::string first_undefined_;
  std::vector<std::vector<uint32_t>> callees_, callers_;
  std::vector<uint8_t> is_common_;
  uint64_t common_bytes_ = 0;
};

void write_relocation(const Relocation& r, uint64_t address, uint8_t* where) {
  uint64_t value = address + r.addend;
  if (r.mask) value = (value & r.mask) >> __builtin_ctzll(r.mask);
  memcpy(where, &value, r.bytes);
}

uint64_t function_address(uint32_t index) { return (kFunctionWindow << kWindowShift) + uint64_t(index) * 16; }

}  // namespace

Module::Module(std::unique_ptr<Program> program) : program_(std::move(program)) {}
Module::~Module() = default;

Result<std::shared_ptr<Module>> Module::load(std::string_view ptx, const LoadOptions& options) {
  Source source{ptx, {}};
  return load(std::span<const Source>(&source, 1), options);
}

Result<std::shared_ptr<Module>> Module::load(std::span<const Source> sources, const LoadOptions& options) {
  unsigned a, b, features, d;
  const bool half = __get_cpuid(1, &a, &b, &features, &d) && (features & bit_F16C);
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !half)
    return Status(StatusCode::kImpossible, "the software GPU needs a processor with AVX2, FMA and F16C");
  std::vector<ast::Unit> units;
  for (const Source& source : sources) {
    auto unit = ast::parse(source.ptx, std::string(source.name));
    if (!unit.ok()) return unit.status();
    units.push_back(std::move(*unit));
  }
  if (units.empty()) return invalid("nothing to link");
  auto program = std::make_unique<Program>();
  Builder builder(*program, options);
  if (Status status = builder.build(units); !status.ok()) return status;
  return std::shared_ptr<Module>(new Module(std::move(program)));
}

std::span<const KernelInfo> Module::kernels() const { return program_->kernels; }
std::span<const Variable> Module::variables() const { return program_->variables; }
int Module::ptx_version() const { return program_->ptx_version; }
int Module::target() const { return program_->target; }
uint32_t Module::const_bytes() const { return program_->const_bytes; }

const KernelInfo* Module::find_kernel(std::string_view name) const {
  auto it = program_->kernel_names.find(name);
  return it == program_->kernel_names.end() ? nullptr : &program_->kernels[it->second];
}

Image::Image() = default;
Image::~Image() = default;

Result<std::shared_ptr<Image>> Module::instantiate(std::span<const uint64_t> addresses) const {
  const Program& p = *program_;
  if (p.undefined) return Status(StatusCode::kInvalid, "the module has undefined symbols; link it first");
  if (addresses.size() != p.variables.size()) return Status(StatusCode::kInvalid, "one address per variable is needed");
  for (size_t i = 0; i < p.variables.size(); ++i)
    if (p.variables[i].bytes && (addresses[i] == 0 || addresses[i] % p.variables[i].alignment))
      return Status(StatusCode::kInvalid,
                    "storage of variable '" + p.variables[i].name + "' is missing or not aligned");
  for (size_t i = 0; i < p.variables.size(); ++i) {
    auto* out = reinterpret_cast<uint8_t*>(addresses[i]);
    size_t known = std::min<size_t>(p.data[i].initial.size(), p.variables[i].bytes);
    if (known) memcpy(out, p.data[i].initial.data(), known);
    if (p.variables[i].bytes > known) memset(out + known, 0, p.variables[i].bytes - known);
  }
  auto target = [&](const Relocation& r) { return r.to_function ? function_address(r.target) : addresses[r.target]; };
  for (const Relocation& r : p.data_relocations)
    write_relocation(r, target(r), reinterpret_cast<uint8_t*>(addresses[r.variable]) + r.offset);
  std::shared_ptr<Image> image(new Image);
  image->module_ = shared_from_this();
  image->state_ = std::make_unique<Image::State>();
  image->state_->pool.reset(
      static_cast<uint8_t*>(aligned_alloc(64, align_up(std::max<size_t>(p.pool.size(), 64), 64))));
  uint8_t* pool = image->state_->pool.get();
  if (!p.pool.empty()) memcpy(pool, p.pool.data(), p.pool.size());
  for (const Relocation& r : p.pool_relocations)
    for (uint32_t lane = 0; lane < kLanes; ++lane) write_relocation(r, target(r), pool + r.offset + lane * r.bytes);
  return image;
}

}  // namespace bf::ptx
