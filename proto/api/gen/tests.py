"""Emits what the tests need of every row: a fake driver that records what it is called with and answers at random, and an exercise
that makes the call with random arguments and checks both directions (api/exercise_N.cc; harness: tests/unit/api/exercise.h)."""
from .text import BANNER, CPP_EXTRA, declare, parts

FILES = 4


def outputs():
    return ["exercise_list.h", "exercise_list.cc"] + [f"exercise_{i}.cc" for i in range(FILES)]


def count(p):
    if p.deref:
        return f"({p.count} ? uint64_t(*{p.count}) : 0)"
    return f"uint64_t({p.count})" + (f" - {p.minus}" if p.minus else "")


def server_params(row):
    return [declare(p.ctext, p.name) for p in row.params] + [f"{CPP_EXTRA[e.wire]} {e.name}" for e in row.extra_in] + \
        [f"{CPP_EXTRA[e.wire]}& {e.name}" for e in row.extra_out]


def names(row):
    return [p.name for p in row.params] + [e.name for e in row.extra_in] + [e.name for e in row.extra_out]


def tag(p):
    return f", {p.tag}" if p.tag else ""


def record_lines(row):
    out = []
    for p in row.params:
        n = p.name
        if p.kind in ("skip", "reserved", "new"):
            continue
        if p.kind in ("handle", "del"):
            out.append(f"r.handle(HandleKind::{p.type.handle}, uint64_t({n}));")
        elif p.kind == "in_handles":
            out.append(f"r.handles(HandleKind::{p.type.handle}, {n}, {count(p)});")
        elif p.kind == "address":
            out.append(f"r.value(uint64_t({n}));")
        elif p.kind == "string":
            out.append(f"r.text({n});")
        elif p.wire_in == "want":
            out.append(f"r.value({n} != nullptr);")
        elif p.type.cls == "struct":
            out.append(f"r.structs({n if p.pointer else '&' + n}, {count(p) if p.count else '1'}{tag(p)});")
        elif p.count:
            out.append(f"r.array({n}, {count(p)});")
        elif p.pointer:
            out.append(f"r.array({n}, 1);")
        else:
            out.append(f"r.value({n});")
    for e in row.extra_in:
        out.append(f"r.array({e.name}.data(), {e.name}.size());" if e.wire in ("bytes", "string") else f"r.value({e.name});")
    return out


def fill_lines(row):
    """What the driver writes. Arrays first: a counter changes when they are full."""
    out, counters = [], {p.count for p in row.params if p.deref}
    for p in row.params:
        n = p.name
        if p.kind == "new" or p.kind == "out_handle":
            out.append(f"if ({n}) *{n} = g.real_handle<{p.type.text}>(HandleKind::{p.type.handle});")
        elif p.kind == "out_string":
            out.append(f"g.fill_text({n}, {count(p)});")
        elif p.wire_out and p.count:
            out.append(f"g.fill({n}, {count(p)});")
        elif p.wire_out and n not in counters:
            out.append(f"g.fill({n}, 1);")
    for p in row.params:
        if p.name in counters:
            out.append(f"if ({p.name}) *{p.name} = g.at_most(*{p.name});")
    for e in row.extra_out:
        out.append(f"{e.name} = g.extra<{CPP_EXTRA[e.wire]}>();")
    return out


def fake(row):
    params = ", ".join(f"[[maybe_unused]] {x}" for x in server_params(row))
    body = [f"static void record_{row.name}([[maybe_unused]] Record& r{', ' + params if params else ''}) {{"] + \
        ["  " + x for x in record_lines(row)] + ["}"]
    body += [f"static void fill_{row.name}([[maybe_unused]] Generator& g{', ' + params if params else ''}) {{"] + \
        ["  " + x for x in fill_lines(row)] + ["}"]
    args = names(row)
    body += [f"static CUresult fake_{row.name}({params}) {{",
             "  Record r;", f"  record_{row.name}({', '.join(['r'] + args)});",
             f"  return driver_was_called(r, [&](Generator& g) {{ fill_{row.name}({', '.join(['g'] + args)}); }});", "}"]
    return "\n".join(body) + "\n"


def handler(row):
    args = ["Call&"] + server_params(row)
    return f"CUresult handle_{row.name}({', '.join(args)}) {{ return apitest::fake_{row.name}({', '.join(names(row))}); }}\n"


def install(row):
    out = [f"  api.{row.name} = fake_{row.name};"]
    if row.flag_twin:
        twin = next(s.name for s in row.symbols if s.twin and s.plain == row.name)
        params = ", ".join(server_params(row))
        out.append(f"  api.{twin} = []({params}) -> CUresult {{ note_twin(); return fake_{row.name}({', '.join(names(row))}); }};")
    return out


def arguments(row):
    """Random client arguments: locals named like the parameters. Counters first."""
    counters = {p.count: max([int(q.minus or 0) for q in row.params if q.count == p.count]) for p in row.params if p.count}
    lines = []
    for p in sorted(row.params, key=lambda p: p.name not in counters):
        n, t = p.name, p.type.text
        element = "std::byte" if p.type.cls == "void" else t
        if p.kind in ("skip", "reserved"):
            lines.append(f"{p.ctext} {n}{{}};")
        elif n in counters:
            lines.append(f"{t} v_{n} = static_cast<{t}>(x.small() + {counters[n]});")
            lines.append(f"{t}* {n} = &v_{n};" if p.pointer else f"{t} {n} = v_{n};")
        elif p.kind in ("handle", "del"):
            lines.append(f"{t} {n} = x.handle<{t}>(HandleKind::{p.type.handle});")
        elif p.kind == "address":
            lines.append(f"void* {n} = reinterpret_cast<void*>(x.value<uint64_t>());")
        elif p.kind == "string":
            lines.append(f"std::string v_{n} = x.text(); const char* {n} = x.flip() ? v_{n}.c_str() : nullptr;")
        elif p.kind == "in_handles":
            lines.append(f"auto v_{n} = x.handles<{t}>(HandleKind::{p.type.handle}, {count(p)}); {t}* {n} = x.flip() ? v_{n}.get() : nullptr;")
        elif p.kind == "new":
            lines.append(f"{t} v_{n}{{}}; {t}* {n} = &v_{n};")
        elif p.count:
            lines.append(f"auto v_{n} = x.array<{element}>({count(p)}); {element}* {n} = x.flip() ? v_{n}.get() : nullptr;")
        elif p.pointer:
            lines.append(f"auto v_{n} = x.array<{element}>(1); {element}* {n} = x.flip() ? v_{n}.get() : nullptr;")
        else:
            lines.append(f"{t} {n} = x.value<{t}>();")
    for e in row.extra_in:
        if e.wire in ("bytes", "string"):
            lines.append(f"std::string v_{e.name} = x.text(); {CPP_EXTRA[e.wire]} {e.name}{{reinterpret_cast<const "
                         f"{'char' if e.wire == 'string' else 'std::byte'}*>(v_{e.name}.data()), v_{e.name}.size()}};")
        else:
            lines.append(f"{CPP_EXTRA[e.wire]} {e.name} = x.value<{CPP_EXTRA[e.wire]}>();")
    lines += [f"{CPP_EXTRA[e.wire]} {e.name}{{}};" for e in row.extra_out]
    return lines


def shadows(row):
    """Copies of the outs, filled as the fake driver filled its own, brought into the client's terms, and compared."""
    lines, args, checks = [], [], []
    deref = {p.count for p in row.params if p.deref}
    for p in row.params:
        n, t = p.name, p.type.text
        element = "std::byte" if p.type.cls == "void" else t
        if p.kind == "new":
            lines.append(f"{t} s_{n}{{}};")
            args.append(f"&s_{n}")
            checks.append(f"x.check_new(HandleKind::{p.type.handle}, uint64_t(*{n}), uint64_t(s_{n}));")
        elif p.wire_out:
            size = f"cap_{n}" if p.count else "1"
            lines.append(f"auto s_{n} = x.copy<{element}>(before_{n}.get(), {size}); {element}* q_{n} = {n} ? s_{n}.get() : nullptr;")
            args.append(f"q_{n}")
            if p.kind == "out_string":
                checks.append(f"x.check_text({n}, q_{n});")
                continue
            used = f"(std::min<uint64_t>(cap_{n}, *{p.count}))" if p.deref else size
            if p.kind in ("out_handle", "out_handles"):
                checks.append(f"x.to_values(HandleKind::{p.type.handle}, q_{n}, {used});")
            elif p.type.cls == "struct":
                checks.append(f"x.structs_to_values(q_{n}, {used}{tag(p)});")
            checks.append(f"x.check_equal(\"{n}\", {n}, q_{n}, {used});")
        else:
            args.append(n)
    args += [e.name for e in row.extra_in]
    for e in row.extra_out:
        lines.append(f"{CPP_EXTRA[e.wire]} s_{e.name}{{}};")
        args.append(f"s_{e.name}")
        checks.append(f"x.check_extra(\"{e.name}\", {e.name}, s_{e.name});")
    before = []
    for p in row.params:
        element = "std::byte" if p.type.cls == "void" else p.type.text
        if p.wire_out:
            if p.count:
                before.append(f"const uint64_t cap_{p.name} = {count(p)};")
            size = f"cap_{p.name}" if p.count else "1"
            before.append(f"auto before_{p.name} = x.copy<{element}>({p.name}, {size});")
    return before, lines, args, checks


def exercise(row):
    call_args = [p.name for p in row.params] + [e.name for e in row.extra_in] + \
        (["x.payload()"] if row.payload in ("in", "both") else []) + [e.name for e in row.extra_out] + \
        (["x.payload_out"] if row.payload in ("out", "both") else [])
    out = [f"void exercise_{row.name}(Exercise& x) {{"] + ["  " + line for line in arguments(row)]
    record_args = ", ".join(["r"] + names(row))
    out.append(f"  x.expect([&](Record& r) {{ record_{row.name}({record_args}); }});")
    before, lines, args, checks = shadows(row) if row.carry == "call" else ([], [], [], [])
    out += ["  " + line for line in before]
    new = [p for p in row.params if p.kind == "new"] if row.carry == "post" else []
    out.append(f"  const CUresult bf_result = client::{row.function}({', '.join(call_args)});")
    out.append("  if (!x.check_call(bf_result)) return;")
    if row.carry == "call" and (lines or checks):
        out += ["  " + line for line in lines]
        out.append(f"  x.replay([&](Generator& g) {{ fill_{row.name}({', '.join(['g'] + args)}); }});")
        out += ["  " + line for line in checks]
    out += [f"  x.check_made(HandleKind::{p.type.handle}, uint64_t(*{p.name}));" for p in new]
    return "\n".join(out + ["}", ""])


def emit(model):
    rows = [r for r in model.rows.values() if r.remote]
    files = {"exercise_list.h": BANNER + """#pragma once

#include <cstdint>

#include "api/driver_api.h"

namespace bf::apitest {

class Exercise;
struct Listed {
  const char* name;
  uint16_t opcode;
  bool twin;  // has a per-thread twin that only the frame flag tells apart, and which the driver is called by
  void (*run)(Exercise&);
};
extern const Listed kListed[];
extern const int kListedCount;

// Every auto row's function pointer is a fake that records; hand rows have fake handlers.
void install_fakes(DriverApi& api);

}  // namespace bf::apitest
"""}
    listed = "\n".join(f"void exercise_{r.name}(Exercise& x);" for r in rows)
    table = "\n".join(f'    {{"{r.name}", {r.opcode}, {"true" if r.flag_twin and r.server == "auto" else "false"}, exercise_{r.name}}},' for r in rows)
    installs = "\n".join(f"void install_{i}(DriverApi& api);" for i in range(FILES))
    files["exercise_list.cc"] = BANNER + f"""#include "api/exercise_list.h"

namespace bf::apitest {{

{listed}
{installs}

const Listed kListed[] = {{
{table}
}};
const int kListedCount = {len(rows)};

void install_fakes(DriverApi& api) {{
""" + "\n".join(f"  install_{i}(api);" for i in range(FILES)) + "\n}\n\n}  // namespace bf::apitest\n"
    for i, part in enumerate(parts(rows, FILES)):
        auto = [r for r in part if r.server == "auto"]
        hand = [r for r in part if r.server == "hand"]
        files[f"exercise_{i}.cc"] = BANNER + """#include "api/dispatch.h"
#include "api/exercise_list.h"
#include "api/remote.h"
#include "tests/unit/api/exercise.h"

namespace bf::apitest {

""" + "\n".join(fake(r) for r in part) + f"\nvoid install_{i}([[maybe_unused]] DriverApi& api) {{\n" + \
            "\n".join(line for r in auto for line in install(r)) + "\n}\n\n" + "\n".join(exercise(r) for r in part) + """
}  // namespace bf::apitest

namespace bf::server {

""" + "\n".join(handler(r) for r in hand) + "\n}  // namespace bf::server\n"
    return files
