"""Emits the client encoders: api/remote.h, api/remote_N.cc."""
from .text import BANNER, WIRE_TYPE, declare, parts, remote_signature

FILES = 6


def outputs():
    return ["remote.h"] + [f"remote_{i}.cc" for i in range(FILES)]


def count_expr(p):
    """The number of elements of an array parameter, as uint64_t; 0 when *n cannot be read."""
    if p.deref:
        return f"({p.count} ? uint64_t(*{p.count}) : 0)"
    return f"uint64_t({p.count})" + (f" - {p.minus}" if p.minus else "")


def element_bytes(p):
    return "1" if p.type.cls == "void" else f"sizeof(*{p.name})"


def put_value(number, cls, value):
    """C++ that writes one scalar."""
    if cls == "u32":
        return f"wire::put_u64<{number}>(p, uint32_t({value}))"
    if cls == "u64":
        return f"wire::put_u64<{number}>(p, uint64_t({value}))"
    if cls in ("s32", "s64"):
        return f"wire::put_u64<{number}>(p, wire::zigzag({value}))"
    if cls == "f64":
        return f"wire::put_fixed64<{number}>(p, uint64_t({value}))"
    if cls == "float":
        return f"wire::put_fixed32<{number}>(p, std::bit_cast<uint32_t>({value}))"
    if cls == "double":
        return f"wire::put_fixed64<{number}>(p, std::bit_cast<uint64_t>({value}))"
    raise AssertionError(cls)


def bound_of(cls):
    return {"f64": "wire::kFixed64Bound", "double": "wire::kFixed64Bound", "float": "wire::kFixed32Bound"}.get(cls, "wire::kVarintBound")


def nonzero(cls, value):
    if cls == "float":
        return f"std::bit_cast<uint32_t>({value})"
    if cls == "double":
        return f"std::bit_cast<uint64_t>({value})"
    return value


class Encoder:
    """Collects the three stages of a request: checks before begin(), the bound, the writes."""

    def __init__(self, row):
        self.row, self.checks, self.bounds, self.writes = row, [], {}, []
        self.variable = []
        for p in row.params:
            self.param(p)
        for e in row.extra_in:
            self.extra(e)

    def bound(self, text):
        self.bounds[text] = self.bounds.get(text, 0) + 1

    def param(self, p):
        n, name = p.number_in, p.name
        if p.kind == "skip":
            return
        if p.kind == "reserved":
            self.checks.append(f"if ({name}) return CUDA_ERROR_INVALID_VALUE;")
        elif p.kind == "new":
            self.new(p)
        elif p.kind in ("handle", "del", "address"):
            self.bound("wire::kFixed64Bound")
            self.writes.append(f"if ({name}) p = {put_value(n, 'f64', name)};")
        elif p.kind == "string":
            self.checks.append(f"const size_t {name}_bytes = {name} ? strlen({name}) : 0;")
            self.checks.append(f"if ({name}_bytes > limits::kStringBytes) return CUDA_ERROR_INVALID_VALUE;")
            self.variable.append(f"wire::bytes_bound({name}_bytes)")
            self.writes.append(f"if ({name}) p = wire::put_bytes<{n}>(p, {name}, {name}_bytes);")
        elif p.wire_in == "want":
            if p.count:
                self.array_bytes(p, "out")
            self.bound("wire::kVarintBound")
            self.writes.append(f"if ({name}) p = wire::put_u64<{n}>(p, 1);")
        elif p.count:
            self.array_bytes(p, "in")
            self.variable.append(f"wire::bytes_bound({name}_bytes)")
            self.writes.append(f"if ({name}) p = wire::put_bytes<{n}>(p, {name}, {name}_bytes);")
        elif p.type.cls == "struct":
            self.bound(f"wire::bytes_bound(sizeof({p.type.text}))")
            address, condition = (name, f"if ({name}) ") if p.pointer else (f"&{name}", "")
            self.writes.append(f"{condition}p = wire::put_bytes<{n}>(p, {address}, sizeof({p.type.text}));")
        else:
            self.bound(bound_of(p.type.cls))
            value = f"*{name}" if p.pointer else name
            condition = name if p.pointer else nonzero(p.type.cls, name)
            self.writes.append(f"if ({condition}) p = {put_value(n, p.type.cls, value)};")

    def new(self, p):
        kind = f"HandleKind::{p.type.handle}"
        self.checks.append(f"if (!{p.name}) return CUDA_ERROR_INVALID_VALUE;")
        if self.row.client == "hand":
            self.checks.append(f"uint64_t {p.name}_value = uint64_t(*{p.name});")
            self.checks.append(f"const bool {p.name}_made = !{p.name}_value;")
            self.checks.append(f"if ({p.name}_made) {p.name}_value = make_handle({kind});")
        else:
            self.checks.append(f"const uint64_t {p.name}_value = make_handle({kind});")
        self.checks.append(f"if (!{p.name}_value) return CUDA_ERROR_OUT_OF_MEMORY;")
        self.bound("wire::kFixed64Bound")
        self.writes.append(f"p = wire::put_fixed64<{p.number_in}>(p, {p.name}_value);")

    def array_bytes(self, p, direction):
        count, size = count_expr(p), element_bytes(p)
        if p.kind == "out_string":  # the worker's buffer is bounded; what comes back is as long as the text
            self.checks.append(f"if (int64_t({p.count}) < 0) return CUDA_ERROR_INVALID_VALUE;")
            return
        used = "" if direction == "in" else "[[maybe_unused]] "
        self.checks.append(f"{used}uint64_t {p.name}_bytes = {p.name} ? {count} : 0;")
        self.checks.append(f"if ({p.name}_bytes > kMaxArrayBytes / {size}) return CUDA_ERROR_INVALID_VALUE;")
        if size != "1":
            self.checks.append(f"{p.name}_bytes *= {size};")

    def extra(self, e):
        if e.wire in ("bytes", "string"):
            self.checks.append(f"if ({e.name}.size() > kMaxArrayBytes) return CUDA_ERROR_INVALID_VALUE;")
            self.variable.append(f"wire::bytes_bound({e.name}.size())")
            self.writes.append(f"if (!{e.name}.empty()) p = wire::put_bytes<{e.number}>(p, {e.name}.data(), {e.name}.size());")
        else:
            self.bound("wire::kVarintBound")
            self.writes.append(f"if ({e.name}) p = {put_value(e.number, e.wire, e.name)};")

    def bound_expr(self):
        terms = [text if n == 1 else f"{n} * {text}" for text, n in self.bounds.items()]
        return " + ".join(terms + self.variable) or "0"


def decode_out(p):
    """(local declaration, switch case, assignment after success) for one out parameter of a reply."""
    n, name, cls = p.number_out, p.name, p.wire_out
    case = f"case wire::tag({n}, wire::{WIRE_TYPE[cls]}):"
    if cls in ("bytes", "string"):
        local = f"std::span<const std::byte> got_{name};"
        read = f"{case} got_{name} = in.bytes(); break;"
        if p.kind == "out_string":
            return local, read, f"copy_string({name}, uint64_t({p.count}), got_{name});"
        if p.deref:
            return local, read, f"if ({name} && !copy_up_to({name}, {name}_bytes, got_{name})) in.fail();"
        if p.count:
            return local, read, f"if ({name} && !copy_exactly({name}, {name}_bytes, got_{name})) in.fail();"
        return local, read, f"if ({name} && !copy_exactly({name}, sizeof(*{name}), got_{name})) in.fail();"
    getter = {"u32": "in.varint32()", "u64": "in.varint()", "s32": "wire::unzigzag(in.varint())", "s64": "wire::unzigzag(in.varint())",
              "f64": "in.fixed64()", "float": "std::bit_cast<float>(in.fixed32())", "double": "std::bit_cast<double>(in.fixed64())"}[cls]
    type_ = p.type.text
    cast = f"reinterpret_cast<{type_}>({getter})" if p.type.cls == "handle" and type_ != "CUmemGenericAllocationHandle" else f"static_cast<{type_}>({getter})"
    return f"{type_} got_{name}{{}};", f"{case} got_{name} = {cast}; break;", f"if ({name}) *{name} = got_{name};"


def from_value(p):
    cast = "static_cast" if p.type.text == "CUmemGenericAllocationHandle" else "reinterpret_cast"
    return f"*{p.name} = {cast}<{p.type.text}>({p.name}_value);"


def emit_row(row):
    e = Encoder(row)
    new = [p for p in row.params if p.kind == "new"]
    dead = [p for p in row.params if p.kind == "del"]
    drop_new = "".join((f" if ({p.name}_made)" if row.client == "hand" else "") + f" drop_handle({p.name}_value);" for p in new)
    out = [remote_signature(row, defining=True) + " {"]
    out += ["  " + line for line in e.checks]
    out.append("  std::byte* body;")
    fail = f"{{{drop_new} return why; }}" if new else "return why;"
    out.append(f"  if (CUresult why = begin({e.bound_expr()}, body)) {fail}")
    out.append("  std::byte* p = body;")
    out += ["  " + line for line in e.writes]
    flags = (["kPost"] if row.carry == "post" else []) + (["(per_thread() ? kPerThread : 0)"] if row.flag_twin else [])
    flags = " | ".join(flags) or "0"
    payload = "payload" if row.payload in ("in", "both") else "Payload()"
    call = f"{row.opcode}, {flags}, size_t(p - body), {payload}"
    if row.carry == "post":
        out.append(f"  if (CUresult why = finish_post({call})) {fail}")
        out += [f"  {from_value(p)}" for p in new]
        out += [f"  drop_handle(uint64_t({p.name}));" for p in dead]
        out += ["  return CUDA_SUCCESS;", "}", ""]
        return "\n".join(out)
    out += ["  Reply reply;", f"  if (CUresult why = finish_call({call}, reply)) {fail}"]
    if row.outs_on_error:
        if new:
            out.append(f"  if (reply.result) {{{drop_new} }}")
    else:
        out.append(f"  if (reply.result) {{{drop_new} return reply.result; }}" if new else "  if (reply.result) return reply.result;")
    out += ["  " + line for line in decode_reply(row)]
    success = "  if (reply.result == CUDA_SUCCESS) " if row.outs_on_error else "  "
    out += [success + from_value(p) for p in new]
    out += [f"{success}drop_handle(uint64_t({p.name}));" for p in dead]
    out += ["  return reply.result;" if row.outs_on_error else "  return CUDA_SUCCESS;", "}", ""]
    return "\n".join(out)


def decode_reply(row):
    outs = [p for p in row.params if p.wire_out]
    lines = []
    if row.payload in ("out", "both"):
        lines.append("payload_out = reply.payload;")
    lines += [f"{e.name} = {{}};" for e in row.extra_out]
    if not outs and not row.extra_out:
        return lines + [f"if (!reply.outs.empty()) return malformed_reply(\"{row.name}\");"]
    locals_, cases, assign = [], [], []
    for p in outs:
        local, case, after = decode_out(p)
        locals_.append(local)
        cases.append(case)
        assign.append(after)
    for e in row.extra_out:
        getter = {"u32": "in.varint32()", "u64": "in.varint()", "s64": "wire::unzigzag(in.varint())", "bytes": "in.bytes()",
                  "string": "as_string(in.bytes())"}[e.wire]
        cases.append(f"case wire::tag({e.number}, wire::{WIRE_TYPE[e.wire]}): {e.name} = {getter}; break;")
    lines += locals_ + ["wire::Reader in(reply.outs);", "while (uint32_t tag = in.next()) {", "  switch (tag) {"]
    lines += ["    " + c for c in cases] + ["    default: in.fail();", "  }", "}"]
    lines.append(f"if (in.failed()) return malformed_reply(\"{row.name}\");")
    lines += assign
    if any("in.fail()" in a for a in assign):
        lines.append(f"if (in.failed()) return malformed_reply(\"{row.name}\");")
    return lines


def emit(model):
    rows = [r for r in model.rows.values() if r.remote]
    header = [BANNER, """// The calls as the client makes them: remote_F sends and waits for the driver's result, post_F only sends.
// A `new` handle: client = "auto" rows make its value; for client = "hand" rows *p says it (0: one is made), so set it
// before the call. On success *p holds the value; on failure a value made here is dropped again.
// Spans of extra_out and payload_out stay valid until this thread's next call.
#pragma once

#include <span>
#include <string_view>

#include "proto/api/call_channel.h"

namespace bf::client {
"""]
    header += [remote_signature(r) + ";" for r in rows]
    header.append("\n// What hand-written client code defines (client = \"hand\" and carry = \"local\" rows).")
    header += [client_handler(r) for r in model.rows.values() if not r.own and (r.carry == "local" or (r.remote and r.client == "hand"))]
    header.append("\n// entry_F: what a program's call of F does behind the guard. Adapters that make other calls use these.")
    header += [entry(r) for r in model.rows.values() if not r.own and r.carry != "deny"]
    header.append("\n}  // namespace bf::client\n")
    files = {"remote.h": "\n".join(header)}
    for i, part in enumerate(parts(rows, FILES)):
        files[f"remote_{i}.cc"] = BANNER + """#include "api/remote.h"

#include "proto/api/remote_support.h"

namespace bf::client {

""" + "\n".join(emit_row(r) for r in part) + "\n}  // namespace bf::client\n"
    return files


def entry(row):
    """The one place that knows whether a row is entered by hand."""
    target = f"handle_{row.name}" if row.carry == "local" or row.client == "hand" else row.function
    symbol = next(s for s in row.symbols if s.name == row.name)
    names = ", ".join(p["name"] for p in symbol.params)
    args = ", ".join(declare(p["type"], p["name"]) for p in symbol.params)
    return f"inline CUresult entry_{row.name}({args}) noexcept {{ return {target}({names}); }}"


def client_handler(row):
    symbol = next(s for s in row.symbols if s.name == row.name)
    args = ", ".join(declare(p["type"], p["name"]) for p in symbol.params)
    return f"CUresult handle_{row.name}({args}) noexcept;"
