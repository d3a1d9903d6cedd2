// tex, tld4, suld, sust, txq, suq: one request per thread to the environment, which owns the objects behind the
// handles.
#include "softgpu/ptx/handlers.h"
#include "softgpu/ptx/numeric.h"

namespace bf::ptx {
namespace {

// What an instruction's extra words say: destinations or sources first, then coordinates, then level or gradients.
struct Shape {
  Geometry geometry;
  int coordinates;  // spatial
  bool layered;
};
bool take_shape(Lower& lw, Shape& shape) {
  static constexpr Shape kShapes[] = {{Geometry::k1D, 1, false},        {Geometry::k2D, 2, false},
                                      {Geometry::k3D, 3, false},        {Geometry::k1DLayered, 1, true},
                                      {Geometry::k2DLayered, 2, true},  {Geometry::kCube, 3, false},
                                      {Geometry::kCubeLayered, 3, true}};
  int which = lw.take_any({"1d", "2d", "3d", "a1d", "a2d", "cube", "acube"});
  if (which >= 0) shape = kShapes[which];
  return which >= 0;
}

// Extra words: [results][coordinates: layer first][level | ddx ddy]. flags: geometry | op << 4 | type << 8 | integer <<
// 12 | component << 16 | results << 20. imm: number of coordinate words.
void fetch(Warp& w, const Inst& in) {
  const uint32_t* words = &w.frame->function->extra[in.extra];
  const uint64_t* handle = at<uint64_t>(w, in.a);
  const uint32_t results = in.flags >> 20 & 7;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    TextureRequest r;
    r.texture = handle[i];
    r.geometry = Geometry(in.flags & 15);
    r.op = TextureOp(in.flags >> 4 & 15);
    r.type = TexelType(in.flags >> 8 & 15);
    r.integer_coordinates = in.flags >> 12 & 1;
    r.component = uint8_t(in.flags >> 16 & 3);
    const uint32_t* next = words + results;
    const uint32_t* end = next + in.imm;
    if (r.geometry == Geometry::k1DLayered || r.geometry == Geometry::k2DLayered ||
        r.geometry == Geometry::kCubeLayered)
      r.layer = at<uint32_t>(w, *next++)[i];
    const uint32_t spatial = uint32_t(end - next);
    for (uint32_t k = 0; next < end && k < 3; ++next, ++k) {
      uint32_t bits = at<uint32_t>(w, *next)[i];
      r.index[k] = int32_t(bits);
      r.coordinate[k] = r.integer_coordinates ? float(int32_t(bits)) : std::bit_cast<float>(bits);
    }
    if (r.op == TextureOp::kFetchLevel) {
      uint32_t bits = at<uint32_t>(w, *next)[i];
      r.level = r.integer_coordinates ? float(int32_t(bits)) : std::bit_cast<float>(bits);
    } else if (r.op == TextureOp::kFetchGradient) {
      for (uint32_t k = 0; k < spatial && k < 3; ++k) {
        r.ddx[k] = at<float>(w, next[k])[i];
        r.ddy[k] = at<float>(w, next[spatial + k])[i];
      }
    }
    uint32_t texel[4] = {};
    if (!w.launch->environment->fetch_texture(r, texel))
      return fault(w, in, LaunchCode::kIllegalAddress, i, "texture fetch from an object that does not exist",
                   r.texture);
    for (uint32_t k = 0; k < results; ++k) {
      if (r.type == TexelType::kF16)
        at<uint16_t>(w, words[k])[i] = uint16_t(texel[k]);
      else
        at<uint32_t>(w, words[k])[i] = texel[k];
    }
  }
}

bool add_vector(Lower& lw, const ast::Operand& operand, Type t, std::vector<uint32_t>& words, size_t count) {
  if (count == 1 && operand.kind != ast::OperandKind::kVector) {
    words.push_back(lw.src(operand, t));
    return true;
  }
  if (operand.kind != ast::OperandKind::kVector || operand.items.size() < count)
    return lw.refuse("too few coordinates");
  for (size_t k = 0; k < count; ++k) words.push_back(lw.src(operand.items[k], t));
  return true;
}

bool take_handle(Lower& lw, const ast::Operand& operand, Location& handle) {
  if (operand.kind != ast::OperandKind::kAddress || operand.items.empty())
    return lw.refuse("expected [object, coordinates]");
  ast::Operand name;
  name.kind = ast::OperandKind::kName;
  name.name = operand.name;
  if (lw.register_type(name) == Type::kNone)
    return lw.refuse("only texture and surface objects in registers are supported");
  handle = lw.src(name, Type::kB64);
  return operand.items.size() == 1 || lw.refuse("separate samplers are not supported");
}

bool rule_tex(Lower& lw) {
  bool gather = lw.opcode() == "tld4";
  int level = gather ? -1 : lw.take_any({"base", "level", "grad"});
  int component = gather ? lw.take_any({"r", "g", "b", "a"}) : 0;
  Shape shape;
  if (component < 0 || !take_shape(lw, shape)) return false;
  uint32_t results = lw.take("v4") ? 4 : lw.take("v2") ? 2 : 1;
  Type t = lw.take_type(), c = lw.take_type();
  TexelType texel = t == Type::kF32   ? TexelType::kF32
                    : t == Type::kS32 ? TexelType::kS32
                    : t == Type::kU32 ? TexelType::kU32
                                      : TexelType::kF16;
  if ((texel == TexelType::kF16 && t != Type::kF16) || (c != Type::kF32 && c != Type::kS32)) return false;
  TextureOp op = gather       ? TextureOp::kGather
                 : level == 1 ? TextureOp::kFetchLevel
                 : level == 2 ? TextureOp::kFetchGradient
                              : TextureOp::kFetch;
  size_t more = op == TextureOp::kFetchLevel ? 1 : op == TextureOp::kFetchGradient ? 2 : 0;
  if (!lw.expect_operands(2 + more, 2 + more)) return false;
  Location handle;
  if (!take_handle(lw, lw.operand(1), handle)) return false;
  std::vector<uint32_t> words;
  const ast::Operand& d = lw.operand(0);
  if (results > 1 && d.items.size() != results) return false;
  for (uint32_t k = 0; k < results; ++k) words.push_back(lw.dst(results > 1 ? d.items[k] : d, t));
  size_t coordinates = size_t(shape.coordinates) + shape.layered;
  if (!add_vector(lw, lw.operand(1).items[0], c, words, coordinates)) return false;
  if (op == TextureOp::kFetchLevel && !add_vector(lw, lw.operand(2), c, words, 1)) return false;
  if (op == TextureOp::kFetchGradient)
    for (size_t k = 2; k < 4; ++k)
      if (!add_vector(lw, lw.operand(k), Type::kF32, words, size_t(shape.coordinates))) return false;
  Inst& inst = lw.emit(fetch, 0, handle);
  inst.extra = lw.extra(words);
  inst.imm = coordinates;
  inst.flags = uint32_t(shape.geometry) | uint32_t(op) << 4 | uint32_t(texel) << 8 | uint32_t(c == Type::kS32) << 12 |
               uint32_t(component) << 16 | results << 20;
  return true;
}

// Extra words: [data][coordinates]. flags: geometry | clamp << 4 | element bytes << 8 | elements << 16 | write << 20.
void surface(Warp& w, const Inst& in) {
  const uint32_t* words = &w.frame->function->extra[in.extra];
  const uint64_t* handle = at<uint64_t>(w, in.a);
  const uint32_t bytes = in.flags >> 8 & 15, elements = in.flags >> 16 & 7;
  const bool write = in.flags >> 20 & 1;
  for (uint32_t mask = w.mask; mask; mask &= mask - 1) {
    int i = __builtin_ctz(mask);
    SurfaceRequest r;
    r.surface = handle[i];
    r.geometry = Geometry(in.flags & 15);
    r.clamp = SurfaceClamp(in.flags >> 4 & 3);
    r.bytes = bytes * elements;
    const uint32_t* next = words + elements;
    if (r.geometry == Geometry::k1DLayered || r.geometry == Geometry::k2DLayered) r.layer = at<uint32_t>(w, *next++)[i];
    int32_t* place[3] = {&r.x_bytes, &r.y, &r.z};
    for (uint32_t k = 0; next < words + elements + in.imm && k < 3; ++next, ++k) *place[k] = at<int32_t>(w, *next)[i];
    uint8_t data[32] = {};
    auto lane = [&](uint32_t k) {
      return w.base[words[k] >> 30] + (words[k] & 0x3fffffff) + size_t(i) * (bytes == 1 ? 2 : bytes);
    };
    bool done;
    if (write) {
      for (uint32_t k = 0; k < elements; ++k) memcpy(data + k * bytes, lane(k), bytes);
      done = w.launch->environment->write_surface(r, data);
    } else {
      done = w.launch->environment->read_surface(r, data);
      for (uint32_t k = 0; done && k < elements; ++k) {
        if (bytes == 1) memset(lane(k), 0, 2);
        memcpy(lane(k), data + k * bytes, bytes);
      }
    }
    if (!done)
      return fault(w, in, LaunchCode::kIllegalAddress, i, "surface access outside an existing object", r.surface);
  }
}

bool rule_surface(Lower& lw) {
  bool write = lw.opcode() == "sust";
  if (!lw.take("b")) return lw.refuse("only the unformatted .b form is supported");
  Shape shape;
  if (!take_shape(lw, shape)) return false;
  lw.take_any({"ca", "cg", "cs", "cv", "wb", "wt"});
  uint32_t elements = lw.take("v4") ? 4 : lw.take("v2") ? 2 : 1;
  Type t = lw.take_type();
  int clamp = lw.take_any({"trap", "clamp", "zero"});
  if (clamp < 0 || type_kind(t) != 'b' || type_bytes(t) * elements > 16 || !lw.expect_operands(2, 2)) return false;
  const ast::Operand &where = lw.operand(write ? 0 : 1), &data = lw.operand(write ? 1 : 0);
  Location handle;
  if (!take_handle(lw, where, handle)) return false;
  if (elements > 1 && data.items.size() != elements) return false;
  std::vector<uint32_t> words;
  for (uint32_t k = 0; k < elements; ++k) {
    const ast::Operand& item = data.kind == ast::OperandKind::kVector && k < data.items.size() ? data.items[k] : data;
    words.push_back(write ? lw.src(item, t) : lw.dst(item, t));
  }
  size_t coordinates = size_t(shape.coordinates) + shape.layered;
  if (!add_vector(lw, where.items[0], Type::kB32, words, coordinates)) return false;
  Inst& inst = lw.emit(surface, 0, handle);
  inst.extra = lw.extra(words);
  inst.imm = coordinates;
  inst.flags =
      uint32_t(shape.geometry) | uint32_t(clamp) << 4 | type_bytes(t) << 8 | elements << 16 | uint32_t(write) << 20;
  return true;
}

void query(Warp& w, const Inst& in) {
  const uint64_t* handle = at<uint64_t>(w, in.a);
  uint32_t* d = at<uint32_t>(w, in.d);
  lanes(w.mask, [&](int i) { d[i] = w.launch->environment->query_texture(handle[i], int(in.imm)); });
}

bool rule_query(Lower& lw) {
  int axis = lw.take_any({"width", "height", "depth"});
  if (axis < 0 || !lw.take("b32") || !lw.expect_operands(2, 2) || lw.operand(1).kind != ast::OperandKind::kAddress)
    return false;
  ast::Operand name;
  name.kind = ast::OperandKind::kName;
  name.name = lw.operand(1).name;
  if (lw.register_type(name) == Type::kNone) return false;
  Location handle = lw.src(name, Type::kB64);
  lw.emit(query, lw.dst(0, Type::kB32), handle).imm = uint64_t(axis);
  return true;
}

constexpr NamedRule kRules[] = {{"tex", rule_tex},      {"tld4", rule_tex},  {"suld", rule_surface},
                                {"sust", rule_surface}, {"txq", rule_query}, {"suq", rule_query}};

}  // namespace

std::span<const NamedRule> texture_rules() { return kRules; }

}  // namespace bf::ptx
