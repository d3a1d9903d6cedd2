// The lowered form of a module: what the interpreter runs.
//
// A virtual register is 32 lanes side by side (structure of arrays), so that one instruction is one loop over a vector;
// a predicate is a 32-bit mask. An operand is a *location*: two bits that choose a base address (frame, constants,
// special registers) and 30 bits of offset. Immediates and symbol addresses are constants, stored 32 times in the
// module's pool, so that instructions never ask what kind of operand they have.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "softgpu/ptx/ptx.h"
#include "softgpu/ptx/types.h"

namespace bf::ptx {

inline constexpr int kLanes = 32;
inline constexpr uint32_t kNoGuard = ~0u;
inline constexpr uint32_t kGuardNegated = 0x80000000u;

// Windows of the generic address space; global and constant memory are host addresses, below 2^48.
inline constexpr uint64_t kWindowShift = 48;
inline constexpr uint64_t kSharedWindow = 1, kLocalWindow = 2, kParamWindow = 3, kFunctionWindow = 4;

using Location = uint32_t;
enum class Base : uint32_t { kFrame = 0, kConstants = 1, kSpecials = 2 };
inline constexpr Location location(Base base, uint32_t offset) { return (uint32_t(base) << 30) | offset; }
inline constexpr uint32_t kMaxOffset = 1u << 28;

struct Warp;
struct Inst;
using Handler = void (*)(Warp&, const Inst&);

struct Inst {
  Handler run = nullptr;
  uint32_t guard = kNoGuard;  // offset of the predicate in the frame
  Location d = 0, a = 0, b = 0, c = 0, e = 0;
  uint64_t imm = 0;
  uint32_t extra = 0;  // index into Function::extra, or a branch target
  uint32_t flags = 0;
  uint32_t line = 0;
};

// A parameter or return value of a device function: where it lies in that function's local memory.
struct ParamSlot {
  uint32_t offset = 0, bytes = 0;
};

struct Function {
  std::string name;
  uint32_t index = 0;
  bool kernel = false;
  bool address_taken = false;
  bool calls_indirectly = false;
  bool reserved_shared = false;  // it, or what it calls, names %reserved_smem_offset_*
  std::vector<Inst> code;
  std::vector<uint32_t> extra;
  uint32_t frame_bytes = 0;  // registers
  uint32_t local_bytes = 0;  // .local variables and parameters, per thread
  std::vector<ParamSlot> params, returns;
  std::vector<uint32_t> callees;
  std::vector<uint32_t> shared;  // shared variables it names
  uint32_t stack_bytes = 0;      // deepest chain of local_bytes below it; kernels only
  bool recursive = false;        // stack_bytes is not bounded by the call graph
  uint32_t registers32 = 0;      // 32-bit registers it names, for the estimate
};

struct SharedVariable {
  std::string name;
  uint64_t bytes = 0;
  uint32_t alignment = 1;
  bool dynamic = false;  // extern .shared x[]
  uint32_t offset = 0;
};

// An address to be written into a variable's initial bytes or, for pool entries, into all lanes of a constant.
struct Relocation {
  uint32_t variable = 0;  // whose bytes; unused for pool entries
  uint64_t offset = 0;
  uint32_t bytes = 8;
  bool to_function = false;
  uint32_t target = 0;  // variable or function
  uint64_t addend = 0;
  uint64_t mask = 0;  // 0: whole value, else take the byte under the mask
};

struct VariableData {
  std::vector<uint8_t> initial;  // shorter than the variable: the rest is zero
};

struct Program {
  int ptx_version = 0;
  int target = 0;
  uint32_t const_bytes = 0;
  bool undefined = false;  // an extern symbol has no definition
  std::vector<Variable> variables;
  std::vector<VariableData> data;
  std::vector<Relocation> data_relocations;
  std::vector<SharedVariable> shared;
  std::vector<Function> functions;
  std::vector<KernelInfo> kernels;
  std::vector<uint32_t> kernel_functions;  // kernels[i] is functions[kernel_functions[i]]
  std::vector<uint8_t> pool;
  std::vector<Relocation> pool_relocations;
  std::unordered_map<std::string_view, uint32_t> kernel_names;
};

// Per-warp special registers, at Base::kSpecials.
struct Specials {
  alignas(64) uint32_t tid[3][kLanes];
  uint32_t ntid[3][kLanes], ctaid[3][kLanes], nctaid[3][kLanes];
  uint32_t laneid[kLanes], warpid[kLanes], nwarpid[kLanes], smid[kLanes], nsmid[kLanes];
  uint32_t lanemask_eq[kLanes], lanemask_le[kLanes], lanemask_lt[kLanes], lanemask_ge[kLanes], lanemask_gt[kLanes];
  uint32_t dynamic_shared[kLanes], total_shared[kLanes], zero32[kLanes], one32[kLanes];
  uint32_t reserved_begin[kLanes], reserved_end[kLanes], reserved_bytes[kLanes];  // shared memory for the system's use
  uint32_t workspace_high[kLanes], workspace_low[kLanes];  // %envreg1, %envreg2: address of the grid's barrier word
  uint64_t gridid[kLanes], dynamic_base[kLanes];
};

}  // namespace bf::ptx
