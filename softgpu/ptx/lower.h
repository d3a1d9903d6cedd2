// From parsed instructions to lowered ones. Each family of instructions has its rules beside its handlers
// (int.cc, float.cc, ...): a rule reads the modifiers and operands through `Lower` and emits handlers. Every modifier
// must be taken by the rule, every operand must have the width the handler assumes; whatever is left over is refused by
// name.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "softgpu/ptx/ast.h"
#include "softgpu/ptx/program.h"

namespace bf::ptx {

struct Linker;

class Lower {
 public:
  Lower(Linker& linker, Program& program, Function& out, const ast::Function& in, int unit);
  Status run();

  // ---- for rules: the current instruction
  const ast::Instruction& in() const { return *in_; }
  std::string_view opcode() const { return in_->opcode; }
  size_t operand_count() const { return in_->operands.size(); }
  const ast::Operand& operand(size_t i) const;
  // Takes the modifier if it is there.
  bool take(std::string_view modifier);
  // Takes any of `words`; index of the one found, or -1.
  int take_any(std::initializer_list<std::string_view> words);
  // Takes the next modifier that is a type; refuses the instruction if there is none.
  Type take_type();
  Type peek_type() const;                    // kNone: none left
  bool refuse(const std::string& why = {});  // always false
  bool expect_operands(size_t least, size_t most);

  // ---- operands: locations of the width of `type`
  Location src(const ast::Operand& operand, Type type);
  Location src(size_t i, Type type) { return src(operand(i), type); }
  Location dst(const ast::Operand& operand, Type type);
  Location dst(size_t i, Type type) { return dst(operand(i), type); }
  Location src_predicate(const ast::Operand& operand);  // emits a not for !p
  Location dst_predicate(std::string_view name);
  Location dst_predicate(size_t i) { return dst_predicate(operand(i).name); }
  // Type of the register that an operand names; kNone if it names none.
  Type register_type(const ast::Operand& operand);
  Location temporary(uint32_t bytes_per_lane);
  Location constant(uint64_t bits, uint32_t bytes);
  Location constant128(uint64_t low, uint64_t high);

  Inst& emit(Handler handler, Location d = 0, Location a = 0, Location b = 0, Location c = 0);
  uint32_t extra(std::span<const uint32_t> values);

  // ---- addresses
  struct Address {
    enum Kind : uint8_t { kRegister, kKernelParam, kFrameLocal } kind = kRegister;
    Location base = 0;    // kRegister: 64-bit location
    uint64_t offset = 0;  // kKernelParam, kFrameLocal: the place itself
    uint64_t room = 0;    // bytes from offset to the end of the variable, for the two latter
  };
  bool address(const ast::Operand& operand, Address& out);
  Function& function() { return out_; }
  bool in_kernel() const { return ast_.kernel; }

  // ---- control flow
  bool branch_target(std::string_view label, uint32_t& statement);  // resolved into an instruction index at the end
  void patch_branch(size_t inst, uint32_t label) { branches_.push_back({inst, label, false}); }
  void patch_extra(size_t extra, uint32_t label) { branches_.push_back({extra, label, true}); }
  bool find_targets(std::string_view name, std::vector<std::string_view>& out);
  bool call();  // rule of `call`

 private:
  struct Symbol {
    enum Kind : uint8_t {
      kNone,
      kRange,
      kRegister,
      kLocal,
      kParam,
      kShared,
      kLabel,
      kTargets,
      kPrototype
    } kind = kNone;
    Type type = Type::kNone;
    uint32_t value = 0;  // offset, index ...
    uint64_t bytes = 0;
    const std::vector<std::string_view>* targets = nullptr;
  };
  struct Scope {
    std::unordered_map<std::string_view, Symbol> symbols;
  };
  struct Branch {
    size_t place;
    uint32_t label;
    bool in_extra;
  };

  bool declare(const ast::Declaration& declaration);
  bool declare_param(const ast::Declaration& declaration, bool formal, uint32_t& cursor);
  bool define(std::string_view name, const Symbol& symbol);
  Symbol* find(std::string_view name);
  bool find_register(std::string_view name, Symbol& out);
  void collect_labels();
  bool statement(const ast::Statement& s);
  bool instruction(const ast::Instruction& in);
  bool special(std::string_view name, Location& l, Type& type);
  bool symbol_address(std::string_view name, uint64_t addend, Location& out);
  uint32_t allocate_local(uint64_t bytes, uint32_t alignment);
  bool guard_of(const ast::Instruction& in, uint32_t& guard);
  bool call_arguments(const ast::Operand& list, std::vector<ParamSlot>& out);

  Linker& linker_;
  Program& program_;
  Function& out_;
  const ast::Function& ast_;
  int unit_;
  std::vector<Scope> open_;                                                   // stack of scopes while walking
  std::vector<std::unordered_map<std::string_view, uint32_t>> label_scopes_;  // labels per scope number
  std::vector<uint32_t> scope_numbers_;                                       // stack
  uint32_t next_scope_ = 0;
  std::vector<uint32_t> label_code_;  // label -> instruction index
  std::vector<uint32_t> label_of_statement_;
  std::vector<Branch> branches_;
  std::unordered_map<std::string_view, uint32_t> kernel_params_;
  const ast::Instruction* in_ = nullptr;
  uint32_t used_modifiers_ = 0;
  uint32_t guard_ = kNoGuard;
  int line_ = 0;
  std::string error_;
  std::vector<std::pair<uint32_t, uint32_t>> scratch_;
  friend struct Linker;
};

using Rule = bool (*)(Lower&);
struct NamedRule {
  std::string_view opcode;
  Rule rule;
};
std::span<const NamedRule> int_rules();
std::span<const NamedRule> logic_rules();
std::span<const NamedRule> float_rules();
std::span<const NamedRule> half_rules();
std::span<const NamedRule> compare_rules();
std::span<const NamedRule> convert_rules();
std::span<const NamedRule> move_rules();
std::span<const NamedRule> memory_rules();
std::span<const NamedRule> atomic_rules();
std::span<const NamedRule> warp_rules();
std::span<const NamedRule> control_rules();
std::span<const NamedRule> texture_rules();
std::span<const NamedRule> matrix_rules();
std::span<const NamedRule> mbarrier_rules();
std::span<const NamedRule> video_rules();

// Global names of all units: what lowering needs to know about other functions and variables.
struct Linker {
  struct Name {
    enum Kind : uint8_t { kVariable, kShared, kFunction, kBuiltin, kUndefinedVariable, kUndefinedFunction } kind;
    uint32_t index = 0;
  };
  std::unordered_map<std::string_view, Name> globals;                                // shared by all units
  std::vector<std::unordered_map<std::string_view, Name>> statics;                   // per unit
  std::map<std::pair<uint64_t, uint32_t>, Location> constants;                       // (bits, bytes) -> pool
  std::map<std::pair<uint64_t, uint64_t>, Location> addresses;                       // (kind+index, addend) -> pool
  std::vector<std::pair<Location, std::pair<uint32_t, uint64_t>>> shared_constants;  // pool entries of shared addresses
  std::vector<const ast::Function*> sources;                                         // of program.functions
  const Name* find(int unit, std::string_view name) const;
};

// Functions the engine supplies itself.
enum class Builtin : uint32_t { kVprintf, kAssertfail, kMalloc, kFree };
bool rule_bar_warp(Lower& lw);     // warp.sync, after `bar`
bool rule_copy_arrive(Lower& lw);  // mbarrier.arrive, after `cp.async`
bool int_arithmetic(Lower& lw);    // integer forms of add, sub, mul, ...
bool float_arithmetic(Lower& lw);  // .f32 and .f64 forms
bool half_arithmetic(Lower& lw);   // .f16, .bf16 and their pairs
Handler builtin_handler(Builtin builtin);

}  // namespace bf::ptx
