// What the parser makes of one PTX translation unit. Names are views into the unit's text, which outlives the tree.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "softgpu/ptx/types.h"

namespace bf::ptx::ast {

enum class Space : uint8_t { kNone, kReg, kParam, kGlobal, kConst, kShared, kLocal };
enum class Linkage : uint8_t { kStatic, kVisible, kWeak, kExtern, kCommon };

enum class OperandKind : uint8_t { kNone, kName, kInt, kFloat32, kFloat64, kVector, kAddress, kList };

struct Operand {
  OperandKind kind = OperandKind::kNone;
  bool negated = false;        // !p
  std::string_view name;       // register, symbol, label, special register; base of an address
  std::string_view second;     // q of p|q
  uint64_t bits = 0;           // integer; bits of a float; offset added to `name`
  std::vector<Operand> items;  // of a vector or list; second part of a texture address
};

struct Instruction {
  std::string_view opcode;                  // "ld"
  std::vector<std::string_view> modifiers;  // "global", "v2", "u32"
  std::string_view guard;                   // predicate register or empty
  bool guard_negated = false;
  std::vector<Operand> operands;
};

// One element of an initialiser: a number or an address.
struct Initial {
  uint64_t bits = 0;
  std::string_view symbol;  // empty: number
  bool generic = false;     // generic(symbol)
  uint64_t mask = 0;        // 0xFF(symbol): take the masked byte; 0: the whole address
};

struct Declaration {
  Space space = Space::kNone;
  Linkage linkage = Linkage::kStatic;
  Type type = Type::kNone;
  uint32_t vector = 1;     // .v2 .v4
  uint32_t alignment = 0;  // 0: natural
  std::string_view name;
  uint64_t elements = 1;
  bool unsized = false;  // name[]
  bool managed = false;
  uint32_t count = 0;  // .reg %r<count>: 0 for a plain name
  std::vector<Initial> initial;
  int line = 0;

  uint64_t bytes() const { return elements * vector * type_bytes(type); }
  uint32_t align() const { return alignment ? alignment : (type_bytes(type) ? type_bytes(type) * vector : 1); }
};

enum class StatementKind : uint8_t { kInstruction, kLabel, kDeclaration, kOpen, kClose, kTargets, kPrototype };

struct Statement {
  StatementKind kind = StatementKind::kInstruction;
  int line = 0;
  uint32_t index = 0;                     // into instructions or declarations
  std::string_view name;                  // of a label, .branchtargets or .callprototype
  std::vector<std::string_view> targets;  // of .branchtargets
};

struct Function {
  std::string_view name;
  bool kernel = false;
  bool defined = false;
  Linkage linkage = Linkage::kStatic;
  int line = 0;
  std::vector<Declaration> returns, params;
  uint32_t maxntid[3] = {0, 0, 0}, reqntid[3] = {0, 0, 0}, cluster[3] = {0, 0, 0};
  uint32_t min_blocks = 0;
  std::vector<Statement> body;
  std::vector<Instruction> instructions;
  std::vector<Declaration> declarations;
};

struct Unit {
  int ptx_version = 0;
  int target = 0;
  int address_bits = 64;
  std::vector<Declaration> variables;
  std::vector<Function> functions;
};

// `name` goes into messages. Bounded in time and memory by the text's size.
Result<Unit> parse(std::string_view text, const std::string& name);

}  // namespace bf::ptx::ast
