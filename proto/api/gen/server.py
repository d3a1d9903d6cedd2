"""Emits the worker's side: api/dispatch.h, api/dispatch.cc (the lookup), api/dispatch_N.cc, api/struct_handles.h."""
from .client import bound_of, nonzero, put_value
from .text import BANNER, CPP_EXTRA, WIRE_TYPE, parts, server_signature

FILES = 6


def outputs():
    return ["dispatch.h", "dispatch.cc", "struct_handles.h"] + [f"dispatch_{i}.cc" for i in range(FILES)]


def to_c(p, value):
    """Casts a decoded 64-bit number to the parameter's type."""
    if p.type.cls == "handle" and p.type.text != "CUmemGenericAllocationHandle":
        return f"reinterpret_cast<{p.type.text}>({value})"
    return f"static_cast<{p.type.text}>({value})"


def getter(cls):
    return {"u32": "in.varint32()", "u64": "in.varint()", "s32": "wire::unzigzag(in.varint())", "s64": "wire::unzigzag(in.varint())",
            "f64": "in.fixed64()", "float": "std::bit_cast<float>(in.fixed32())", "double": "std::bit_cast<double>(in.fixed64())",
            "want": "in.varint32() != 0", "bytes": "in.bytes()", "string": "in.bytes()"}[cls]


def tag(p):
    return f", {p.tag}" if p.tag else ""


class Entry:
    """One dispatch entry: locals, switch cases, what builds the C arguments, and what encodes the reply."""

    def __init__(self, row, model):
        self.row, self.model = row, model
        self.refusal = f"return refuse(call, why{', transfer' if any(e.name == 'transfer' for e in row.extra_in) else ''});"
        self.locals, self.cases, self.build, self.args = [], [], [], []
        self.handles, self.after, self.outs, self.bounds = [], [], [], []
        # Sizes first: arrays are checked against parameters that may stand behind them.
        counters = {p.count for p in row.params if p.count}
        built = {}
        for p in row.params:
            self.build = built.setdefault(p.name, [])
            self.param(p)
        self.build = [line for first in (True, False) for p in row.params if (p.name in counters) == first for line in built[p.name]]
        for e in row.extra_in:
            self.extra_in(e)
        for e in row.extra_out:
            self.extra_out(e)

    def wire(self, number, cls, ctype, name, value=None):
        self.locals.append(f"{ctype} {name}{{}};")
        self.cases.append(f"case wire::tag({number}, wire::{WIRE_TYPE[cls]}): {name} = {value or getter(cls)}; break;")

    def count(self, p):
        return f"({p.count} ? uint64_t(*{p.count}) : 0)" if p.deref else f"uint64_t({p.count})" + (f" - {p.minus}" if p.minus else "")

    def param(self, p):
        if p.kind in ("skip", "reserved"):
            self.locals.append(f"{p.ctext} {p.name}{{}};")
            self.args.append(p.name)
            return
        self.args.append(p.name)
        if p.kind == "new":
            self.new(p)
        elif p.kind in ("handle", "del"):
            self.handle(p)
        elif p.kind == "address":
            self.wire(p.number_in, "f64", "void*", p.name, "reinterpret_cast<void*>(in.fixed64())")
        elif p.kind == "string":
            self.wire(p.number_in, "string", "std::span<const std::byte>", f"w_{p.name}")
            self.build += [f"const char* {p.name};", f"if (!decode_string(call, w_{p.name}, {p.name})) return violation(call, \"{p.name}\");"]
        elif p.wire_in == "want":
            self.out_only(p)
        elif p.count:
            self.array_in(p)
        elif p.type.cls == "struct":
            self.struct_in(p)
        elif p.pointer:
            self.scalar_pointer(p)
        else:
            self.wire(p.number_in, p.type.cls, p.type.text, p.name, f"static_cast<{p.type.text}>({getter(p.type.cls)})")
        if p.wire_out:
            self.encode(p)

    def new(self, p):
        kind = f"HandleKind::{p.type.handle}"
        self.wire(p.number_in, "f64", "uint64_t", f"w_{p.name}")
        self.locals += [f"{p.type.text} made_{p.name}{{}};", f"{p.type.text}* const {p.name} = &made_{p.name};"]
        self.after.append(f"if (!call.register_new({kind}, w_{p.name}, uint64_t(made_{p.name}))) return violation(call, \"{p.name}\");")

    def handle(self, p):
        kind = f"HandleKind::{p.type.handle}"
        if p.kind == "del":
            self.wire(p.number_in, "f64", "uint64_t", f"w_{p.name}")
            self.locals.append(f"{p.type.text} {p.name}{{}};")
            self.build.append(f"{p.name} = {to_c(p, 'w_' + p.name)};")
            self.after.append(f"call.erase({kind}, w_{p.name});")
        else:
            self.wire(p.number_in, "f64", p.type.text, p.name, to_c(p, "in.fixed64()"))
        self.handles.append(f"if (CUresult why = to_real(call, {kind}, {p.name})) {self.refusal}")

    def out_only(self, p):
        self.wire(p.number_in, "want", "bool", f"want_{p.name}")
        type_ = p.type.text if p.type.cls != "void" else "std::byte"
        if p.kind == "out_string":
            self.build.append(f"const uint64_t {p.name}_count = std::min<uint64_t>({self.count(p)}, limits::kStringBytes);")
            self.build.append(f"{p.count} = decltype({p.count})({p.name}_count);")
        elif p.count:
            self.build.append(f"const uint64_t {p.name}_count = {self.count(p)};")
        else:
            self.locals.append(f"{type_} out_{p.name}{{}};")
            self.build.append(f"{p.ctext} {p.name} = want_{p.name} ? &out_{p.name} : nullptr;")
            return
        self.build += [f"{type_}* {p.name} = nullptr;",
                       f"if (want_{p.name} && !({p.name} = out_array<{type_}>(call, {p.name}_count))) return violation(call, \"{p.name}\");"]

    def array_in(self, p):
        type_ = p.type.text if p.type.cls != "void" else "std::byte"
        self.wire(p.number_in, "bytes", "std::span<const std::byte>", f"w_{p.name}")
        self.build += [f"const uint64_t {p.name}_count = {self.count(p)};", f"{type_}* {p.name};",
                       f"if (!decode_array(call, w_{p.name}, {p.name}_count, {p.name})) return violation(call, \"{p.name}\");"]
        if p.kind == "in_handles":
            self.handles.append(f"if (CUresult why = all_to_real(call, HandleKind::{p.type.handle}, {p.name}, {p.name}_count)) {self.refusal}")
        elif p.type.cls == "struct" and self.model.structs[p.type.struct].fixes:
            self.handles.append(f"if (CUresult why = structs_to_real(call, {p.name}, {p.name}_count{tag(p)})) {self.refusal}")

    def struct_in(self, p):
        self.wire(p.number_in, "bytes", "std::span<const std::byte>", f"w_{p.name}")
        if p.pointer:
            target = p.name
            self.build += [f"{p.type.text}* {p.name};", f"if (!decode_array(call, w_{p.name}, 1, {p.name})) return violation(call, \"{p.name}\");"]
        else:
            target = f"p_{p.name}"
            self.build += [f"{p.type.text}* {target};", f"if (!decode_array(call, w_{p.name}, 1, {target}) || !{target}) return violation(call, \"{p.name}\");",
                           f"{p.type.text}& {p.name} = *{target};"]
        if self.model.structs[p.type.struct].fixes:
            self.handles.append(f"if (CUresult why = structs_to_real(call, {target}, 1{tag(p)})) {self.refusal}")

    def scalar_pointer(self, p):
        self.locals.append(f"bool has_{p.name} = false;")
        self.locals.append(f"{p.type.text} value_{p.name}{{}};")
        self.cases.append(f"case wire::tag({p.number_in}, wire::{WIRE_TYPE[p.type.cls]}): value_{p.name} = static_cast<{p.type.text}>({getter(p.type.cls)}); "
                          f"has_{p.name} = true; break;")
        self.build.append(f"{p.type.text}* {p.name} = has_{p.name} ? &value_{p.name} : nullptr;")

    def encode(self, p):
        n, name, cls = p.number_out, p.name, p.wire_out
        if p.kind == "out_string":
            self.bounds.append(f"wire::bytes_bound({name} ? {name}_count : 0)")
            self.outs.append(f"if ({name}) p = wire::put_bytes<{n}>(p, {name}, strnlen({name}, {name}_count));")
        elif p.count:
            size = "1" if p.type.cls == "void" else f"sizeof(*{name})"
            count = f"std::min<uint64_t>({name}_count, {self.count(p)})" if p.deref else f"{name}_count"
            if p.kind == "out_handles":
                self.outs.append(f"if ({name}) all_to_value(call, HandleKind::{p.type.handle}, {name}, {count});")
            elif p.type.cls == "struct":
                self.outs.append(f"if ({name}) structs_to_value(call, {name}, {count}{tag(p)});")
            self.bounds.append(f"wire::bytes_bound({name} ? {name}_count * {size} : 0)")
            self.outs.append(f"if ({name}) p = wire::put_bytes<{n}>(p, {name}, {count} * {size});")
        elif p.kind == "out_handle":
            self.bounds.append("wire::kFixed64Bound")
            self.outs.append(f"if ({name} && *{name}) p = wire::put_fixed64<{n}>(p, to_value(call, HandleKind::{p.type.handle}, *{name}));")
        elif p.type.cls == "struct":
            self.bounds.append(f"wire::bytes_bound(sizeof({p.type.text}))")
            self.outs.append(f"if ({name}) structs_to_value(call, {name}, 1{tag(p)});")
            self.outs.append(f"if ({name}) p = wire::put_bytes<{n}>(p, {name}, sizeof({p.type.text}));")
        else:
            self.bounds.append(bound_of(cls))
            self.outs.append(f"if ({name} && {nonzero(cls, '*' + name)}) p = {put_value(n, cls, '*' + name)};")

    def extra_in(self, e):
        value = "as_string(in.bytes())" if e.wire == "string" else None
        self.wire(e.number, e.wire, CPP_EXTRA[e.wire], e.name, value)
        self.args.append(e.name)

    def extra_out(self, e):
        self.locals.append(f"{CPP_EXTRA[e.wire]} {e.name}{{}};")
        self.args.append(e.name)
        if e.wire in ("bytes", "string"):
            self.bounds.append(f"wire::bytes_bound({e.name}.size())")
            self.outs.append(f"if (!{e.name}.empty()) p = wire::put_bytes<{e.number}>(p, {e.name}.data(), {e.name}.size());")
        else:
            self.bounds.append("wire::kVarintBound")
            self.outs.append(f"if ({e.name}) p = {put_value(e.number, e.wire, e.name)};")

    def emit(self):
        row = self.row
        out = [f"Outcome run_{row.name}(Call& call) {{"]
        out += ["  " + line for line in self.locals]
        out += ["  wire::Reader in(call.body);", "  while (uint32_t tag = in.next()) {", "    switch (tag) {"]
        out += ["      " + line for line in self.cases] + ["      default: in.fail();", "    }", "  }",
                "  if (in.failed()) return violation(call, \"body\");"]
        out += ["  " + line for line in self.build + self.handles]
        out += ["  " + line for line in self.invoke()]
        if self.after:
            out.append("  if (call.result == CUDA_SUCCESS) {")
            out += ["    " + line for line in self.after] + ["  }"]
        if self.outs:
            if not row.outs_on_error:
                out.append("  if (call.result != CUDA_SUCCESS) return Outcome::kDone;")
            out.append(f"  std::byte* p = begin_outs(call, {' + '.join(self.bounds)});")
            out.append("  if (!p) return violation(call, \"reply too large\");")
            out += ["  " + line for line in self.outs] + ["  end_outs(call, p);"]
        out += ["  return Outcome::kDone;", "}", ""]
        return "\n".join(out)

    def invoke(self):
        row = self.row
        if row.server == "hand":
            return [f"call.result = handle_{row.name}({', '.join(['call'] + self.args)});"]
        args = ", ".join(self.args)
        lines = [f"auto* function = call.driver.{row.name};"]
        if row.flag_twin:
            twin = next(s.name for s in row.symbols if s.twin and s.plain == row.name)
            lines.append(f"if (call.per_thread()) function = call.driver.{twin};")
        return lines + [f"call.result = function ? function({args}) : CUDA_ERROR_NOT_SUPPORTED;"]


def struct_code(struct):
    """fix_to_real / fix_to_value overloads of one struct: pointers that do not travel are zeroed, handles translated."""
    def lines(way):
        out = []
        for field in struct.zero:
            out.append(f"  s.{field} = {{}};")
        for field, type_ in struct.handles.items():
            out.append(translate(way, field, type_))
        for when in struct.whens:
            subject = "tag" if when.field == "tag" else f"s.{when.field}"
            condition = " || ".join(f"{subject} == {e}" for e in when.equals)
            out.append(f"  if ({condition}) {{")
            out += [f"    s.{field} = {{}};" for field in when.zero]
            out += ["  " + translate(way, field, type_) for field, type_ in when.handles.items()]
            out.append("  }")
        return out

    def translate(way, field, type_):
        from .model import HANDLE_KINDS
        kind = f"HandleKind::{HANDLE_KINDS[type_]}"
        if way == "real":
            return f"  if (CUresult why = to_real(call, {kind}, s.{field})) return why;"
        return f"  s.{field} = reinterpret_cast<{type_}>(to_value(call, {kind}, s.{field}));" if type_ != "CUmemGenericAllocationHandle" else \
            f"  s.{field} = to_value(call, {kind}, s.{field});"

    unused, tagged = "[[maybe_unused]] ", ", int64_t tag" if struct.tagged else ""
    return (f"inline CUresult fix_to_real({unused}Call& call, {struct.ctext}& s{tagged}) {{\n" + "\n".join(lines("real")) + "\n  return CUDA_SUCCESS;\n}\n"
            f"inline void fix_to_value({unused}Call& call, {struct.ctext}& s{tagged}) {{\n" + "\n".join(lines("value")) + "\n}\n")


def emit(model):
    rows = [r for r in model.rows.values() if r.remote]
    fixes = [struct_code(s) for s in model.structs.values() if s.fixes]
    asserts = [f"static_assert(sizeof({s.ctext}) == {s.size}, \"layout of {s.ctext} differs from the facts\");" for s in model.structs.values()]
    files = {"struct_handles.h": BANNER + """// Handles inside structs: translated on the way in and out; pointers that do not travel are zeroed.
#pragma once

#include "proto/api/dispatch_support.h"

namespace bf::server {

""" + "\n".join(fixes) + "\n" + "\n".join(asserts) + "\n\n}  // namespace bf::server\n"}
    header = [BANNER, """// The worker's side of every call. lookup() (proto/api/call_context.h) finds the entry of an opcode; its run() decodes the
// body, translates handles, calls the driver or the hand-written handler below, and encodes the reply.
#pragma once

#include <span>
#include <string_view>

#include "api/driver_api.h"
#include "proto/api/call_context.h"

namespace bf::server {

// Hand-written handlers: P hold real driver handles; skipped parameters are 0; spans of extra_out must live until the
// reply is sent (call.arena does). `new` handles are registered and `del` handles erased by the caller on success."""]
    header += [server_signature(r) + ";" for r in rows if r.server == "hand"]
    header.append("\n// Opcodes by name, for tests and logs.\nnamespace opcode {")
    header += [f"inline constexpr uint16_t {r.name} = {r.opcode};" for r in rows]
    header.append("}\n\n}  // namespace bf::server\n")
    files["dispatch.h"] = "\n".join(header)
    for i, part in enumerate(parts(rows, FILES)):
        files[f"dispatch_{i}.cc"] = BANNER + """#include "api/dispatch.h"
#include "api/struct_handles.h"

namespace bf::server {

""" + "\n".join(Entry(r, model).emit() for r in part) + "\n}  // namespace bf::server\n"
    by_opcode = {r.opcode: r for r in rows}
    first, last = min(by_opcode), max(by_opcode)
    table = [f"    {{\"{by_opcode[n].name}\", {'true' if by_opcode[n].carry == 'post' else 'false'}, run_{by_opcode[n].name}}}," if n in by_opcode
             else "    {},  // retired" for n in range(first, last + 1)]
    files["dispatch.cc"] = BANNER + """#include "api/dispatch.h"

namespace bf::server {

""" + "\n".join(f"Outcome run_{r.name}(Call& call);" for r in rows) + f"""

static constexpr Dispatch kTable[] = {{
""" + "\n".join(table) + f"""
}};

const Dispatch* lookup(uint16_t opcode) {{
  if (opcode < {first} || opcode > {last} || !kTable[opcode - {first}].run) return nullptr;
  return &kTable[opcode - {first}];
}}

}}  // namespace bf::server
"""
    return files
