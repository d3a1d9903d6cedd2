// Matrix instructions of a whole warp: mma, wmma, ldmatrix, stmatrix.
//
// They are collectives over all lanes. Fragments of mma are laid out as the PTX ISA documents; with E elements of A in
// a 32-bit register, g = lane / 4 and t = lane % 4: register r of A holds row g + 8 (r & 1), columns 4E (r >> 1) + tE
// ..; register r of B holds column g, rows 4Er + tE ..; C and D hold rows g and g + 8, columns 2t and 2t + 1. The
// layout of wmma fragments is not documented; ours deals the elements out in row-major order, each once. Sums are
// formed in double and rounded once: hardware rounds more often, and differently from one generation to the next.
#include <algorithm>

#include "softgpu/ptx/handlers.h"
#include "softgpu/ptx/numeric.h"

namespace bf::ptx {
namespace {

struct Element {
  Type type = Type::kNone;
  uint32_t bits = 0;
};

double value_of(Type type, uint64_t bits) {
  switch (type) {
    case Type::kF16:
      return half_to_float(uint16_t(bits));
    case Type::kBf16:
      return bf16_to_float(uint16_t(bits));
    case Type::kTf32:
      return std::bit_cast<float>(uint32_t(bits) & ~0x1fffu);
    case Type::kF32:
      return std::bit_cast<float>(uint32_t(bits));
    case Type::kF64:
      return std::bit_cast<double>(bits);
    case Type::kU8:
      return double(uint8_t(bits));
    case Type::kS8:
      return double(int8_t(bits));
    default:
      return double(int32_t(bits));
  }
}

// Sums of integer products are exact in double: at most 32 products of 16 bits and one 32-bit number.
uint64_t bits_of(Type type, double value, bool saturate) {
  switch (type) {
    case Type::kF16:
      return round_to(kF16, value, Round::kNearest);
    case Type::kF32:
      return std::bit_cast<uint32_t>(canonical(float(value)));
    case Type::kF64:
      return std::bit_cast<uint64_t>(value);
    default:
      if (saturate) value = std::clamp(value, -2147483648.0, 2147483647.0);
      return uint32_t(int64_t(value));
  }
}

// What a matrix product needs to know, in Function::extra behind Inst::extra; registers follow: D, A, B, C.
struct Product {
  uint32_t m, n, k;
  uint32_t a, b, c, d;  // Types
  uint32_t d_count, a_count, b_count, c_count;
  uint32_t saturate;
};
constexpr uint32_t kProductWords = sizeof(Product) / 4;

// Inputs of all lanes, between the two phases.
struct Fragments {
  uint64_t a[16][kLanes], b[16][kLanes], c[16][kLanes];
};
thread_local Fragments fragments;

uint64_t register_bits(Warp& w, Location l, uint32_t bytes, int lane) {
  return bytes == 8 ? at<uint64_t>(w, l)[lane] : at<uint32_t>(w, l)[lane];
}

void read_fragments(Warp& w, const Inst& in) {
  const uint32_t* words = &w.frame->function->extra[in.extra];
  Product p;
  memcpy(&p, words, sizeof p);
  const uint32_t *a = words + kProductWords + p.d_count, *b = a + p.a_count, *c = b + p.b_count;
  uint32_t bytes = Type(p.a) == Type::kF64 ? 8 : 4;
  lanes(w.mask, [&](int i) {
    for (uint32_t r = 0; r < p.a_count; ++r) fragments.a[r][i] = register_bits(w, a[r], bytes, i);
    for (uint32_t r = 0; r < p.b_count; ++r) fragments.b[r][i] = register_bits(w, b[r], bytes, i);
    for (uint32_t r = 0; r < p.c_count; ++r) fragments.c[r][i] = register_bits(w, c[r], bytes, i);
  });
}

uint32_t per_register(Type type) {
  uint32_t bytes = type_bytes(type);
  return bytes >= 4 ? 1 : 4 / bytes;
}
uint64_t pick(uint64_t word, Type type, uint32_t element) {
  uint32_t bytes = type_bytes(type);
  return bytes >= 4 ? word : word >> (8 * bytes * element);
}

// Matrices by coordinates.
struct Dense {
  double a[32][32], b[32][32];  // a[row][k], b[k][column]
};

void gather(const Product& p, bool documented, Dense& m) {
  const uint32_t e = per_register(Type(p.a));
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    const uint32_t g = lane / 4, t = lane % 4;
    for (uint32_t r = 0; r < p.a_count; ++r)
      for (uint32_t k = 0; k < e; ++k) {
        uint32_t row = g + 8 * (r & 1), column = 4 * e * (r >> 1) + t * e + k;
        if (p.m == 8 && documented) column = 4 * e * r + t * e + k, row = g;
        if (!documented) {
          uint32_t index = lane * (p.m * p.k / kLanes) + r * e + k;
          if (r * e + k >= p.m * p.k / kLanes) continue;
          row = index / p.k, column = index % p.k;
        }
        m.a[row][column] = value_of(Type(p.a), pick(fragments.a[r][lane], Type(p.a), k));
      }
    for (uint32_t r = 0; r < p.b_count; ++r)
      for (uint32_t k = 0; k < e; ++k) {
        uint32_t row = 4 * e * r + t * e + k, column = g;
        if (!documented) {
          uint32_t index = lane * (p.k * p.n / kLanes) + r * e + k;
          if (r * e + k >= p.k * p.n / kLanes) continue;
          row = index / p.n, column = index % p.n;
        }
        m.b[row][column] = value_of(Type(p.b), pick(fragments.b[r][lane], Type(p.b), k));
      }
  }
}

template <bool Documented>
struct Multiply {
  static void read(Warp& w, const Inst& in) { read_fragments(w, in); }
  static void write(Warp& w, const Inst& in) {
    const uint32_t* words = &w.frame->function->extra[in.extra];
    Product p;
    memcpy(&p, words, sizeof p);
    static thread_local Dense m;
    gather(p, Documented, m);
    const Type c = Type(p.c), d = Type(p.d);
    const uint32_t ce = per_register(c), de = per_register(d);
    lanes(w.mask, [&](int lane) {
      for (uint32_t r = 0; r < p.d_count; ++r) {
        uint64_t word = 0;
        for (uint32_t k = 0; k < de; ++k) {
          uint32_t index = r * de + k, row = uint32_t(lane) / 4 + 8 * (index >> 1),
                   column = 2 * (uint32_t(lane) % 4) + (index & 1);
          if (!Documented) {
            uint32_t linear = uint32_t(lane) * (p.m * p.n / kLanes) + index;
            row = linear / p.n, column = linear % p.n;
          }
          double sum = 0;
          for (uint32_t x = 0; x < p.k; ++x) sum += m.a[row][x] * m.b[x][column];
          sum += value_of(c, pick(fragments.c[index / ce][lane], c, index % ce));
          uint64_t bits = bits_of(d, sum, p.saturate);
          word |= de == 1 ? bits : bits << (16 * k);
        }
        if (d == Type::kF64)
          at<uint64_t>(w, words[kProductWords + r])[lane] = word;
        else
          at<uint32_t>(w, words[kProductWords + r])[lane] = uint32_t(word);
      }
    });
  }
};

// ---------------------------------------------------------------------------------------------- ldmatrix, stmatrix

// 8x8 matrices of 16-bit elements: lane 8j + i gives the address of row i of matrix j; lane l holds elements 2(l % 4)
// and 2(l % 4) + 1 of row l / 4. flags: matrices, | 16 transposed.
struct LoadMatrix {
  static void read(Warp& w, const Inst& in) {
    lanes(w.mask, [&](int i) { w.exchange.value[i] = at<uint64_t>(w, in.a)[i] + in.imm; });
  }
  static void write(Warp& w, const Inst& in) {
    const uint32_t* registers = &w.frame->function->extra[in.extra];
    const uint32_t count = in.flags & 15;
    const bool transposed = in.flags & 16;
    const uint8_t* rows[kLanes] = {};
    for (uint32_t i = 0; i < count * 8; ++i) {
      rows[i] = resolve(w, in, Window::kShared, w.exchange.value[i], 16, 16, false, int(i));
      if (!rows[i]) return;
    }
    lanes(w.mask, [&](int lane) {
      for (uint32_t j = 0; j < count; ++j) {
        uint32_t word = 0;
        for (int k = 0; k < 2; ++k) {
          int row = lane / 4, column = 2 * (lane % 4) + k;
          if (transposed) std::swap(row, column);
          uint16_t element;
          memcpy(&element, rows[8 * j + uint32_t(row)] + 2 * column, 2);
          word |= uint32_t(element) << 16 * k;
        }
        at<uint32_t>(w, registers[j])[lane] = word;
      }
    });
  }
};
struct StoreMatrix {
  static void read(Warp& w, const Inst& in) { LoadMatrix::read(w, in); }
  static void write(Warp& w, const Inst& in) {
    const uint32_t* registers = &w.frame->function->extra[in.extra];
    const uint32_t count = in.flags & 15;
    const bool transposed = in.flags & 16;
    for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
      int lane = __builtin_ctz(mask);
      for (uint32_t j = 0; j < count; ++j)
        for (int k = 0; k < 2; ++k) {
          int row = lane / 4, column = 2 * (lane % 4) + k;
          if (transposed) std::swap(row, column);
          uint64_t address = w.exchange.value[8 * j + uint32_t(row)];
          uint8_t* p = resolve(w, in, Window::kShared, address, 16, 16, true, lane);
          if (!p) return;
          uint16_t element = uint16_t(at<uint32_t>(w, registers[j])[lane] >> 16 * k);
          memcpy(p + 2 * column, &element, 2);
        }
    }
  }
};

bool take_registers(Lower& lw, const ast::Operand& operand, Type t, bool write, std::vector<uint32_t>& out) {
  auto add = [&](const ast::Operand& item) { out.push_back(write ? lw.dst(item, t) : lw.src(item, t)); };
  if (operand.kind == ast::OperandKind::kVector)
    for (const auto& item : operand.items) add(item);
  else
    add(operand);
  return true;
}

bool rule_ldmatrix(Lower& lw) {
  bool store = lw.opcode() == "stmatrix";
  if (!lw.take("sync") || !lw.take("aligned") || !lw.take("m8n8")) return false;
  int count = lw.take_any({"x1", "x2", "x4"});
  bool transposed = lw.take("trans");
  lw.take_any({"shared", "shared::cta"});
  Lower::Address address;
  if (count < 0 || !lw.take("b16") || !lw.expect_operands(2, 2) || !lw.address(lw.operand(store ? 0 : 1), address) ||
      address.kind != Lower::Address::kRegister)
    return false;
  std::vector<uint32_t> registers;
  take_registers(lw, lw.operand(store ? 1 : 0), Type::kB32, !store, registers);
  if (registers.size() != size_t(1) << count) return lw.refuse("wrong number of registers");
  Location all = lw.constant(~0u, 4);
  Inst& inst = lw.emit(store ? collective_handler<StoreMatrix>() : collective_handler<LoadMatrix>(), 0, address.base);
  inst.imm = address.offset;
  inst.e = all;
  inst.extra = lw.extra(registers);
  inst.flags = (1u << count) | (transposed ? 16 : 0);
  return true;
}

// -------------------------------------------------------------------------------------------------------- products

bool emit_product(Lower& lw, Product p, bool documented) {
  if (!lw.expect_operands(4, 4)) return false;
  auto register_type = [](Type t) { return t == Type::kF64 ? Type::kF64 : Type::kB32; };
  std::vector<uint32_t> d, a, b, c;
  take_registers(lw, lw.operand(0), register_type(Type(p.d)), true, d);
  take_registers(lw, lw.operand(1), register_type(Type(p.a)), false, a);
  take_registers(lw, lw.operand(2), register_type(Type(p.b)), false, b);
  take_registers(lw, lw.operand(3), register_type(Type(p.c)), false, c);
  auto needed = [](Type t, uint32_t elements) { return elements / kLanes / per_register(t); };
  if (d.size() != needed(Type(p.d), p.m * p.n) || c.size() != needed(Type(p.c), p.m * p.n))
    return lw.refuse("wrong number of accumulator registers");
  bool fits = documented ? a.size() == needed(Type(p.a), p.m * p.k) && b.size() == needed(Type(p.b), p.k * p.n)
                         : a.size() >= needed(Type(p.a), p.m * p.k) && b.size() >= needed(Type(p.b), p.k * p.n);
  if (!fits || a.size() > 16 || b.size() > 16) return lw.refuse("wrong number of registers");
  p.d_count = uint32_t(d.size()), p.a_count = uint32_t(a.size()), p.b_count = uint32_t(b.size()),
  p.c_count = uint32_t(c.size());
  std::vector<uint32_t> words(kProductWords);
  memcpy(words.data(), &p, sizeof p);
  for (auto* list : {&d, &a, &b, &c}) words.insert(words.end(), list->begin(), list->end());
  Location all = lw.constant(~0u, 4);
  Inst& inst = lw.emit(documented ? collective_handler<Multiply<true>>() : collective_handler<Multiply<false>>());
  inst.e = all;
  inst.extra = lw.extra(words);
  return true;
}

bool known_types(const Product& p) {
  Type a = Type(p.a), b = Type(p.b), c = Type(p.c), d = Type(p.d);
  if (a == Type::kF64) return b == a && c == a && d == a;
  bool integers = (a == Type::kU8 || a == Type::kS8) && (b == Type::kU8 || b == Type::kS8);
  if (integers) return c == Type::kS32 && d == Type::kS32;
  if (a != b) return false;
  if (a == Type::kF16) return (c == Type::kF16 || c == Type::kF32) && (d == Type::kF16 || d == Type::kF32);
  return (a == Type::kBf16 || a == Type::kTf32) && c == Type::kF32 && d == Type::kF32;
}

bool rule_mma(Lower& lw) {
  if (!lw.take("sync") || !lw.take("aligned")) return false;
  int shape = lw.take_any({"m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32", "m8n8k4"});
  if (shape < 0 || !lw.take("row") || !lw.take("col")) return false;
  Product p{};
  p.m = shape == 4 ? 8 : 16, p.n = 8, p.k = shape == 4 ? 4 : 4u << shape;
  p.saturate = lw.take("satfinite");
  p.d = uint32_t(lw.take_type()), p.a = uint32_t(lw.take_type()), p.b = uint32_t(lw.take_type()),
  p.c = uint32_t(lw.take_type());
  if (!known_types(p)) return false;
  // m8n8k4 is for doubles; the other shapes give every lane whole registers.
  if ((shape == 4) != (Type(p.a) == Type::kF64)) return false;
  if (p.k % (4 * per_register(Type(p.a)))) return false;
  return emit_product(lw, p, true);
}

bool take_wmma_shape(Lower& lw, Product& p) {
  int shape = lw.take_any({"m16n16k16", "m32n8k16", "m8n32k16", "m16n16k8"});
  static constexpr uint32_t kShapes[][3] = {{16, 16, 16}, {32, 8, 16}, {8, 32, 16}, {16, 16, 8}};
  if (shape < 0) return false;
  p.m = kShapes[shape][0], p.n = kShapes[shape][1], p.k = kShapes[shape][2];
  return true;
}

// One element per step: flags: matrix rows | columns << 8 | row-major << 16 | store << 17 | bytes << 20; extra:
// registers.
void move_fragment(Warp& w, const Inst& in) {
  const uint32_t* words = &w.frame->function->extra[in.extra];
  const uint32_t rows = in.flags & 255, columns = in.flags >> 8 & 255, bytes = in.flags >> 20 & 15;
  const bool row_major = in.flags >> 16 & 1, store = in.flags >> 17 & 1;
  const Window window = Window(in.flags >> 24);
  const uint32_t per = bytes >= 4 ? 1 : 4 / bytes, mine = rows * columns / kLanes, count = words[0];
  const uint64_t* address = at<uint64_t>(w, in.a);
  const uint32_t* stride = at<uint32_t>(w, in.b);
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int lane = __builtin_ctz(mask);
    for (uint32_t r = 0; r < count; ++r) {
      uint32_t& word = at<uint32_t>(w, words[1 + r])[lane];
      if (!store) word = 0;
      for (uint32_t k = 0; k < per && r * per + k < mine; ++k) {
        uint32_t index = uint32_t(lane) * mine + r * per + k, row = index / columns, column = index % columns;
        uint64_t offset = row_major ? uint64_t(row) * stride[lane] + column : uint64_t(column) * stride[lane] + row;
        uint8_t* p = resolve(w, in, window, address[lane] + in.imm + offset * bytes, bytes, bytes, store, lane);
        if (!p) return;
        uint32_t bits = 0;
        if (store) {
          bits = word >> (8 * bytes % 32 * k);
          memcpy(p, &bits, bytes);
        } else {
          memcpy(&bits, p, bytes);
          word |= bits << (8 * bytes % 32 * k);
        }
      }
    }
  }
}

bool rule_wmma_move(Lower& lw, bool store) {
  int which = store ? (lw.take("d") ? 2 : -1) : lw.take_any({"a", "b", "c"});
  if (which < 0 || !lw.take("sync") || !lw.take("aligned")) return false;
  int layout = lw.take_any({"row", "col"});
  Product p{};
  if (layout < 0 || !take_wmma_shape(lw, p)) return false;
  int space = lw.take_any({"global", "shared", "shared::cta"});
  Window window = space < 0 ? Window::kGeneric : space == 0 ? Window::kGlobal : Window::kShared;
  Type t = lw.take_type();
  if (type_bytes(t) == 0 || type_bytes(t) > 4 || !lw.expect_operands(2, 3)) return false;
  uint32_t rows = which == 1 ? p.k : p.m, columns = which == 0 ? p.k : p.n;
  Lower::Address address;
  if (!lw.address(lw.operand(store ? 0 : 1), address) || address.kind != Lower::Address::kRegister) return false;
  std::vector<uint32_t> registers;
  take_registers(lw, lw.operand(store ? 1 : 0), Type::kB32, !store, registers);
  if (registers.size() > 16 || registers.size() * per_register(t) < rows * columns / kLanes)
    return lw.refuse("wrong number of registers");
  Location stride = lw.operand_count() == 3 ? lw.src(2, Type::kU32) : lw.constant(layout == 0 ? columns : rows, 4);
  registers.insert(registers.begin(), uint32_t(registers.size()));
  Inst& inst = lw.emit(move_fragment, 0, address.base, stride);
  inst.imm = address.offset;
  inst.extra = lw.extra(registers);
  inst.flags = rows | columns << 8 | uint32_t(layout == 0) << 16 | uint32_t(store) << 17 | type_bytes(t) << 20 |
               uint32_t(window) << 24;
  return true;
}

bool rule_wmma(Lower& lw) {
  if (lw.take("load")) return rule_wmma_move(lw, false);
  if (lw.take("store")) return rule_wmma_move(lw, true);
  Product p{};
  if (!lw.take("mma") || !lw.take("sync") || !lw.take("aligned")) return false;
  if (lw.take_any({"row", "col"}) < 0 || lw.take_any({"row", "col"}) < 0) {  // the fragments know their layout
    return false;
  }
  if (!take_wmma_shape(lw, p)) return false;
  p.d = uint32_t(lw.take_type());
  Type second = lw.take_type();
  if (lw.peek_type() == Type::kNone) {
    p.a = p.b = uint32_t(Type::kF16);
    p.c = uint32_t(second);
  } else {
    p.a = uint32_t(second), p.b = uint32_t(lw.take_type()), p.c = uint32_t(lw.take_type());
  }
  p.saturate = lw.take("satfinite");
  return known_types(p) && emit_product(lw, p, false);
}

constexpr NamedRule kRules[] = {
    {"mma", rule_mma}, {"wmma", rule_wmma}, {"ldmatrix", rule_ldmatrix}, {"stmatrix", rule_ldmatrix}};

}  // namespace

std::span<const NamedRule> matrix_rules() { return kRules; }

}  // namespace bf::ptx
