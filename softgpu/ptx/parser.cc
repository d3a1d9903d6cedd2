// Recursive descent over PTX's grammar. One token of look-ahead; blocks nest to a fixed depth; everything is stored
// once, so memory is proportional to the text. The parser knows syntax only: which instructions exist, and what their
// operands may be, is judged when a function is lowered.
#include <bit>

#include "softgpu/ptx/ast.h"
#include "softgpu/ptx/lexer.h"

namespace bf::ptx::ast {
namespace {

constexpr int kMaxNesting = 64;
constexpr uint64_t kMaxObjectBytes = uint64_t{1} << 40;  // no device has more

class Parser {
 public:
  Parser(std::string_view text, const std::string& name) : lexer_(text), name_(name) { advance(); }

  Result<Unit> run() {
    while (ok() && token_.kind != TokenKind::kEnd) top_level();
    if (ok() && unit_.ptx_version == 0) fail("no .version directive: this is not PTX text");
    if (!ok()) return Status(StatusCode::kInvalid, error_);
    return std::move(unit_);
  }

 private:
  bool ok() const { return error_.empty(); }
  void advance() {
    token_ = lexer_.next();
    if (token_.kind == TokenKind::kBad) fail("'" + std::string(token_.text.substr(0, 40)) + "' is not PTX");
  }
  // The first failure stays; the token stream ends there.
  bool fail(const std::string& what) {
    if (!error_.empty()) return false;
    error_ = (name_.empty() ? "" : name_ + ": ") + what + " at line " + std::to_string(token_.line);
    token_ = Token{TokenKind::kEnd, {}, 0, token_.line};
    lexer_ = Lexer({});
    return false;
  }
  bool accept(char c) {
    if (!token_.is(c)) return false;
    advance();
    return true;
  }
  bool expect(char c) {
    if (accept(c)) return true;
    return fail(std::string("expected '") + c + "' but found '" + std::string(token_.text.substr(0, 60)) + "'");
  }
  std::string_view name() {
    std::string_view text = token_.text;
    if (token_.kind != TokenKind::kName) {
      fail("expected a name but found '" + std::string(token_.text.substr(0, 60)) + "'");
      return {};
    }
    advance();
    return text;
  }
  // A dotted or plain word, as .version 9.0's and .target's operands are.
  void skip_to_semicolon() {
    while (ok() && token_.kind != TokenKind::kEnd && !accept(';')) advance();
  }

  uint64_t integer() {
    bool minus = false, invert = false;
    for (;; advance()) {
      if (token_.is('-'))
        minus = !minus;
      else if (token_.is('~'))
        invert = true;
      else if (!token_.is('+'))
        break;
    }
    uint64_t value = token_.bits;
    if (token_.kind != TokenKind::kInt) {
      fail("expected an integer but found '" + std::string(token_.text.substr(0, 60)) + "'");
      return 0;
    }
    advance();
    if (minus) value = 0 - value;
    return invert ? ~value : value;
  }

  void top_level() {
    if (token_.kind != TokenKind::kDot) {
      if (accept(';')) return;
      fail("expected a directive but found '" + std::string(token_.text.substr(0, 60)) + "'");
      return;
    }
    std::string_view word = token_.text;
    if (word == "version") return version();
    if (word == "target") return target();
    if (word == "address_size") {
      advance();
      unit_.address_bits = int(integer());
      if (ok() && unit_.address_bits != 64) fail("only .address_size 64 is supported, found");
      return;
    }
    if (word == "file" || word == "loc") return skip_rest_of_line();
    if (word == "pragma") return skip_to_semicolon();
    if (word == "section") return skip_section();
    Linkage linkage = parse_linkage();
    if (token_.kind == TokenKind::kDot && (token_.text == "entry" || token_.text == "func")) return function(linkage);
    if (token_.kind == TokenKind::kDot && token_.text == "alias") return (void)fail("unsupported directive '.alias'");
    declaration(unit_.variables, linkage, false);
  }

  void version() {
    advance();
    // "9.0" lexes as one floating number.
    double value = token_.kind == TokenKind::kFloat64 ? std::bit_cast<double>(token_.bits) : 0;
    if (!(value >= 1 && value < 100)) return (void)fail("expected a version number after .version");
    unit_.ptx_version = int(value * 10 + 0.5);
    if (unit_.ptx_version > 99) fail("PTX version " + std::to_string(unit_.ptx_version / 10) + " is newer than 9.x");
    advance();
  }

  void target() {
    advance();
    do {
      std::string_view word = name();
      if (word.substr(0, 3) == "sm_") {
        unit_.target = 0;
        for (char c : word.substr(3))
          if (c >= '0' && c <= '9' && unit_.target < 1000) unit_.target = unit_.target * 10 + (c - '0');
      }
    } while (ok() && accept(','));
  }

  void skip_rest_of_line() {
    lexer_.skip_line();
    advance();
  }

  void skip_section() {
    while (ok() && token_.kind != TokenKind::kEnd && !token_.is('{')) advance();
    expect('{');
    while (ok() && token_.kind != TokenKind::kEnd && !token_.is('}')) advance();
    expect('}');
  }

  Linkage parse_linkage() {
    Linkage linkage = Linkage::kStatic;
    while (token_.kind == TokenKind::kDot) {
      if (token_.text == "visible")
        linkage = Linkage::kVisible;
      else if (token_.text == "weak")
        linkage = Linkage::kWeak;
      else if (token_.text == "extern")
        linkage = Linkage::kExtern;
      else if (token_.text == "common")
        linkage = Linkage::kCommon;
      else
        break;
      advance();
    }
    return linkage;
  }

  static Space parse_space(std::string_view word) {
    if (word == "reg") return Space::kReg;
    if (word == "param") return Space::kParam;
    if (word == "global") return Space::kGlobal;
    if (word == "const") return Space::kConst;
    if (word == "shared") return Space::kShared;
    if (word == "local") return Space::kLocal;
    return Space::kNone;
  }

  // .space .align n .v2 .type, in any order; false unless a space and a type were there.
  bool declaration_head(Declaration& d) {
    d.line = token_.line;
    while (ok() && token_.kind == TokenKind::kDot) {
      std::string_view word = token_.text;
      if (Space space = parse_space(word); space != Space::kNone) {
        d.space = space;
      } else if (Type type = parse_type(word); type != Type::kNone) {
        d.type = type;
      } else if (word == "v2" || word == "v4" || word == "v8") {
        d.vector = uint32_t(word[1] - '0');
      } else if (word == "align") {
        advance();
        uint64_t align = integer();
        if (align == 0 || align > 65536 || (align & (align - 1))) return fail("bad alignment");
        d.alignment = uint32_t(align);
        continue;
      } else if (word == "ptr") {  // .ptr .global .align n: describes what a pointer parameter points to
        advance();
        while (token_.kind == TokenKind::kDot) {
          bool align = token_.text == "align";
          if (!align && parse_space(token_.text) == Space::kNone) break;
          advance();
          if (align) integer();
        }
        continue;
      } else if (word == "attribute") {
        advance();
        expect('(');
        while (ok() && token_.kind != TokenKind::kEnd && !token_.is(')')) {
          if (token_.kind == TokenKind::kDot && token_.text == "managed") d.managed = true;
          advance();
        }
        expect(')');
        continue;
      } else {
        return fail("unsupported type or directive '." + std::string(word.substr(0, 60)) + "'");
      }
      advance();
    }
    if (d.space == Space::kNone || d.type == Type::kNone)
      return fail("expected a declaration with state space and type");
    return ok();
  }

  void declaration(std::vector<Declaration>& out, Linkage linkage, bool in_function) {
    Declaration head;
    head.linkage = linkage;
    if (!declaration_head(head)) return;
    if (!in_function && (head.space == Space::kReg || head.space == Space::kLocal || head.space == Space::kParam))
      return (void)fail("registers, local variables and parameters belong inside functions");
    do {
      Declaration d = head;
      d.name = name();
      declarator(d);
      if (!ok()) return;
      out.push_back(std::move(d));
    } while (accept(','));
    expect(';');
  }

  // What may follow a name: <count>, [n][m], = initialiser.
  void declarator(Declaration& d) {
    if (accept('<')) {
      uint64_t count = integer();
      if (d.space != Space::kReg || count == 0 || count > 10'000'000) return (void)fail("bad register count");
      d.count = uint32_t(count);
      expect('>');
    }
    while (ok() && accept('[')) {
      if (accept(']')) {
        d.unsized = true;
        d.elements = 0;
        continue;
      }
      uint64_t n = integer();
      expect(']');
      if (n > kMaxObjectBytes || d.elements > kMaxObjectBytes / (n ? n : 1)) return (void)fail("variable is too large");
      d.elements *= n;
    }
    if (ok() && d.elements > kMaxObjectBytes / 64) return (void)fail("variable is too large");
    if (accept('=')) {
      if (d.space != Space::kGlobal && d.space != Space::kConst)
        return (void)fail("only .global and .const variables have initialisers");
      initialiser(d, 0);
      if (d.unsized) d.elements = (d.initial.size() + d.vector - 1) / d.vector, d.unsized = false;
      if (ok() && d.initial.size() > d.elements * d.vector) fail("too many initialisers");
    }
  }

  void initialiser(Declaration& d, int depth) {
    if (depth > kMaxNesting) return (void)fail("initialiser is nested too deeply");
    if (accept('{')) {
      if (accept('}')) return;
      do initialiser(d, depth + 1);
      while (ok() && accept(','));
      expect('}');
      return;
    }
    Initial value;
    if (token_.kind == TokenKind::kFloat32 || token_.kind == TokenKind::kFloat64 || token_.is('-') ||
        token_.kind == TokenKind::kInt) {
      Operand number = immediate();
      value.bits = convert(number, d.type);
      if (number.kind == OperandKind::kInt && token_.is('(')) {
        value.mask = number.bits;
        value.bits = 0;
        advance();
        symbol(value);
        expect(')');
      }
    } else {
      symbol(value);
    }
    d.initial.push_back(value);
  }

  void symbol(Initial& value) {
    value.symbol = name();
    if (value.symbol == "generic" && accept('(')) {
      value.generic = true;
      value.symbol = name();
      addend(value.bits);
      expect(')');
    }
    addend(value.bits);
  }

  void addend(uint64_t& bits) {
    while (ok() && (token_.is('+') || token_.is('-'))) {
      bool minus = token_.is('-');
      advance();
      bits += minus ? 0 - integer() : integer();
    }
  }

  // Numbers of initialisers take the variable's type.
  static uint64_t convert(const Operand& number, Type type) {
    if (number.kind == OperandKind::kFloat64) {
      if (type == Type::kF32) return std::bit_cast<uint32_t>(float(std::bit_cast<double>(number.bits)));
      return number.bits;
    }
    if (number.kind == OperandKind::kFloat32) {
      if (type == Type::kF64) return std::bit_cast<uint64_t>(double(std::bit_cast<float>(uint32_t(number.bits))));
      return number.bits;
    }
    if (type == Type::kF32) return std::bit_cast<uint32_t>(float(int64_t(number.bits)));
    if (type == Type::kF64) return std::bit_cast<uint64_t>(double(int64_t(number.bits)));
    return number.bits;
  }

  Operand immediate() {
    Operand operand;
    bool minus = false, invert = false, lnot = false;
    while (ok() && (token_.is('-') || token_.is('+') || token_.is('~') || token_.is('!'))) {
      minus ^= token_.is('-'), invert |= token_.is('~'), lnot |= token_.is('!');
      advance();
    }
    operand.bits = token_.bits;
    if (token_.kind == TokenKind::kInt) {
      operand.kind = OperandKind::kInt;
      if (minus) operand.bits = 0 - operand.bits;
      if (invert) operand.bits = ~operand.bits;
      if (lnot) operand.bits = !operand.bits;
    } else if (token_.kind == TokenKind::kFloat32) {
      operand.kind = OperandKind::kFloat32;
      if (minus) operand.bits ^= 0x80000000u;
    } else if (token_.kind == TokenKind::kFloat64) {
      operand.kind = OperandKind::kFloat64;
      if (minus) operand.bits ^= uint64_t{1} << 63;
    } else {
      fail("expected a number but found '" + std::string(token_.text.substr(0, 60)) + "'");
    }
    advance();
    return operand;
  }

  // A name with PTX's dotted suffixes: %tid.x.
  std::string_view dotted_name() {
    std::string_view base = name();
    if (ok() && !base.empty() && base[0] == '%' && token_.kind == TokenKind::kDot &&
        token_.text.data() == base.data() + base.size() + 1) {
      base = std::string_view(base.data(), base.size() + 1 + token_.text.size());
      advance();
    }
    return base;
  }

  Operand operand(int depth) {
    Operand result;
    if (depth > 4) {
      fail("operands are nested too deeply");
      return result;
    }
    if (accept('!')) {
      result = operand(depth + 1);
      result.negated = true;
      return result;
    }
    if (token_.is('{') || token_.is('(')) {
      bool list = token_.is('(');
      result.kind = list ? OperandKind::kList : OperandKind::kVector;
      advance();
      char close = list ? ')' : '}';
      if (accept(close)) return result;
      do result.items.push_back(operand(depth + 1));
      while (ok() && accept(','));
      expect(close);
      return result;
    }
    if (accept('[')) return address(depth);
    if (token_.kind == TokenKind::kName) {
      result.kind = OperandKind::kName;
      result.name = dotted_name();
      addend(result.bits);
      if (accept('|')) result.second = dotted_name();
      return result;
    }
    return immediate();
  }

  Operand address(int depth) {
    Operand result;
    result.kind = OperandKind::kAddress;
    if (token_.kind == TokenKind::kName) {
      result.name = dotted_name();
      addend(result.bits);
    } else {
      result.bits = integer();
    }
    while (ok() && accept(',')) result.items.push_back(operand(depth + 1));
    expect(']');
    return result;
  }

  void param_list(std::vector<Declaration>& out) {
    expect('(');
    if (accept(')')) return;
    do {
      Declaration d;
      if (!declaration_head(d)) return;
      if (d.space != Space::kParam && d.space != Space::kReg) return (void)fail("parameters must be .param or .reg");
      d.name = name();
      declarator(d);
      out.push_back(std::move(d));
      if (out.size() > 4096) return (void)fail("too many parameters");
    } while (ok() && accept(','));
    expect(')');
  }

  void triple(uint32_t (&out)[3]) {
    for (int i = 0; i < 3; ++i) {
      uint64_t value = integer();
      out[i] = uint32_t(value > 0x7fffffff ? 0x7fffffff : value);
      if (!accept(',')) {
        for (int k = i + 1; k < 3; ++k) out[k] = 1;
        break;
      }
    }
  }

  void function(Linkage linkage) {
    Function f;
    f.kernel = token_.text == "entry";
    f.linkage = linkage;
    f.line = token_.line;
    advance();
    if (token_.kind == TokenKind::kDot &&
        token_.text == "attribute") {  // .attribute(.unified(..)): about symbol tables
      while (ok() && token_.kind != TokenKind::kEnd && !accept(')')) advance();
    }
    if (token_.is('(')) param_list(f.returns);
    f.name = name();
    if (ok() && token_.is('(')) param_list(f.params);
    while (ok() && token_.kind == TokenKind::kDot) {
      std::string_view word = token_.text;
      advance();
      uint32_t ignored[3];
      if (word == "maxntid")
        triple(f.maxntid);
      else if (word == "reqntid")
        triple(f.reqntid);
      else if (word == "minnctapersm")
        f.min_blocks = uint32_t(integer());
      else if (word == "maxnreg" || word == "maxnctapersm")
        integer();
      else if (word == "maxclusterrank")
        integer();
      else if (word == "reqnctapercluster")
        triple(f.cluster);
      else if (word == "explicitcluster" || word == "noreturn" || word == "blocksareclusters")
        continue;
      else if (word == "pragma")
        skip_to_semicolon();
      else if (word == "abi_preserve" || word == "abi_preserve_control")
        triple(ignored);
      else
        return (void)fail("unsupported directive '." + std::string(word.substr(0, 60)) + "'");
    }
    if (accept(';')) {
      unit_.functions.push_back(std::move(f));
      return;
    }
    expect('{');
    f.defined = true;
    body(f);
    if (ok()) unit_.functions.push_back(std::move(f));
  }

  void body(Function& f) {
    int depth = 1;
    while (ok() && depth > 0) {
      Statement s;
      s.line = token_.line;
      if (token_.kind == TokenKind::kEnd)
        return (void)fail("the text ends inside function '" + std::string(f.name) + "'");
      if (accept(';')) continue;
      if (accept('{')) {
        if (++depth > kMaxNesting) return (void)fail("blocks are nested too deeply");
        s.kind = StatementKind::kOpen;
        f.body.push_back(std::move(s));
      } else if (accept('}')) {
        --depth;
        s.kind = StatementKind::kClose;
        if (depth > 0) f.body.push_back(std::move(s));
      } else if (token_.kind == TokenKind::kDot) {
        local_directive(f);
      } else {
        statement(f, s);
      }
    }
  }

  void local_directive(Function& f) {
    std::string_view word = token_.text;
    if (word == "loc" || word == "file") return skip_rest_of_line();
    if (word == "pragma") return skip_to_semicolon();
    size_t first = f.declarations.size();
    int line = token_.line;
    Linkage linkage = parse_linkage();
    declaration(f.declarations, linkage, true);
    for (size_t i = first; i < f.declarations.size(); ++i) {
      Statement s;
      s.kind = StatementKind::kDeclaration;
      s.line = line;
      s.index = uint32_t(i);
      f.body.push_back(std::move(s));
    }
  }

  // A label, a labelled directive or an instruction.
  void statement(Function& f, Statement& s) {
    Instruction in;
    if (accept('@')) {
      in.guard_negated = accept('!');
      in.guard = name();
    }
    in.opcode = name();
    if (ok() && in.guard.empty() && accept(':')) {
      s.name = in.opcode;
      s.kind = StatementKind::kLabel;
      if (token_.kind == TokenKind::kDot && (token_.text == "branchtargets" || token_.text == "calltargets")) {
        s.kind = StatementKind::kTargets;
        advance();
        do s.targets.push_back(name());
        while (ok() && accept(','));
        expect(';');
      } else if (token_.kind == TokenKind::kDot && token_.text == "callprototype") {
        s.kind = StatementKind::kPrototype;
        skip_to_semicolon();
      }
      f.body.push_back(std::move(s));
      return;
    }
    while (ok() && token_.kind == TokenKind::kDot) {
      in.modifiers.push_back(token_.text);
      if (in.modifiers.size() > 24) return (void)fail("too many modifiers on '" + std::string(in.opcode) + "'");
      advance();
    }
    if (ok() && !token_.is(';')) {
      do in.operands.push_back(operand(0));
      while (ok() && accept(','));
    }
    expect(';');
    if (!ok()) return;
    s.index = uint32_t(f.instructions.size());
    f.instructions.push_back(std::move(in));
    f.body.push_back(std::move(s));
  }

  Lexer lexer_;
  std::string name_;
  Token token_;
  std::string error_;
  Unit unit_;
};

}  // namespace

Result<Unit> parse(std::string_view text, const std::string& name) { return Parser(text, name).run(); }

}  // namespace bf::ptx::ast
