"""The joined model: facts (what the vendor's headers say) and tables (our judgement) become rows with judged parameters.

Everything that is missing or contradictory raises TableError with what to write where.
"""
import json
import re
import tomllib
from dataclasses import dataclass, field


class TableError(Exception):
    pass


# C type -> HandleKind of base/handle.h.
HANDLE_KINDS = {
    "CUcontext": "kContext", "CUstream": "kStream", "CUevent": "kEvent", "CUmodule": "kModule", "CUlibrary": "kLibrary",
    "CUfunction": "kFunction", "CUkernel": "kKernel", "CUarray": "kArray", "CUmipmappedArray": "kMipmappedArray",
    "CUtexref": "kTexRef", "CUsurfref": "kSurfRef", "CUgraph": "kGraph", "CUgraphNode": "kGraphNode",
    "CUgraphExec": "kGraphExec", "CUmemoryPool": "kMemoryPool", "CUuserObject": "kUserObject",
    "CUexternalMemory": "kExternalMemory", "CUexternalSemaphore": "kExternalSemaphore",
    "CUgraphicsResource": "kGraphicsResource", "CUlinkState": "kLinkState", "CUgreenCtx": "kGreenContext",
    "CUdevResourceDesc": "kDevResourceDesc", "CUmemGenericAllocationHandle": "kMemAllocation",
    "CUasyncCallbackHandle": "kAsyncCallback", "CUlogsCallbackHandle": "kLogsCallback",
    "CUgraphDeviceNode": "kGraphDeviceNode",
}

# canonical C type -> (wire class, bytes). Wire classes: u32 u64 (varint), s32 s64 (zigzag), f64 (fixed64), float, double.
SCALARS = {
    "unsigned int": ("u32", 4), "unsigned short": ("u32", 2), "unsigned char": ("u32", 1), "char": ("s32", 1),
    "int": ("s32", 4), "short": ("s32", 2), "unsigned long": ("u64", 8), "unsigned long long": ("u64", 8),
    "long": ("s64", 8), "long long": ("s64", 8), "float": ("float", 4), "double": ("double", 8),
}
EXTRA_TYPES = {"u32": "u32", "u64": "u64", "i64": "s64", "bytes": "bytes", "string": "string"}
PROTO_TYPES = {"u32": "uint32", "u64": "uint64", "s32": "sint32", "s64": "sint64", "f64": "fixed64", "float": "float",
               "double": "double", "bytes": "bytes", "string": "string", "want": "bool"}

ROW_KEYS = {"carry", "client", "server", "params", "extra_in", "extra_out", "payload", "reason", "guard", "outs_on_error"}
STRUCT_KEYS = {"handles", "zero", "keep", "when"}
KIND = re.compile(r"^(in|out|inout|string|out_string|handle|in_handles|out_handle|out_handles|new|del|address|skip|reserved)"
                  r"(?:\[(\*?)(\w+)(?:-(\d))?\])?(?: tag (\w+))?$")


@dataclass
class CType:
    """A C type as the wire sees it: cls is scalar's wire class, 'handle', 'struct', 'void', 'opaque' (functions, other pointers)."""
    text: str          # as in C, without const
    cls: str
    size: int = 0
    handle: str = ""   # HandleKind
    struct: str = ""   # canonical name


@dataclass
class Param:
    name: str
    ctext: str         # full C type
    pointer: bool      # a pointer to `type`
    type: CType
    kind: str = ""
    count: str = ""    # what sizes the array: a parameter's name or a number
    deref: bool = False
    minus: str = ""    # in[n-1]
    tag: str = ""      # the parameter that says which member of a union counts
    returned: bool = False
    inferred: bool = False
    number_in: int = 0
    number_out: int = 0

    @property
    def wire_in(self):
        """Wire class of the request field, or ''."""
        if self.kind in ("skip", "reserved"):
            return ""
        if self.kind in ("out", "out_string", "out_handle", "out_handles"):
            return "want"
        if self.kind in ("handle", "del", "new", "address"):
            return "f64"
        if self.kind == "string":
            return "string"
        if self.count:
            return "bytes"
        return "bytes" if self.type.cls == "struct" else self.type.cls

    @property
    def wire_out(self):
        if self.kind in ("out", "inout"):
            return "bytes" if self.count or self.type.cls == "struct" else self.type.cls
        return {"out_string": "string", "out_handle": "f64", "out_handles": "bytes"}.get(self.kind, "")


@dataclass
class Extra:
    name: str
    wire: str
    number: int = 0


@dataclass
class Row:
    name: str
    own: bool                       # a bf* call of ours
    carry: str
    client: str = "auto"
    server: str = "auto"
    guard: str = "init"
    reason: str = ""
    payload: str = ""
    outs_on_error: bool = False
    params: list = field(default_factory=list)
    extra_in: list = field(default_factory=list)
    extra_out: list = field(default_factory=list)
    symbols: list = field(default_factory=list)
    opcode: int = 0
    file: str = ""

    @property
    def remote(self):
        return self.carry in ("call", "post")

    @property
    def function(self):
        return ("post_" if self.carry == "post" else "remote_") + self.name

    @property
    def stream_param(self):
        for p in self.params:
            if not p.pointer and p.type.text == "CUstream":
                return p.name
        return ""

    @property
    def has_twin(self):
        return any(s.twin for s in self.symbols)

    @property
    def flag_twin(self):
        """The per-thread twin is told apart by the frame flag, because there is no stream parameter to carry it."""
        return self.has_twin and not self.stream_param


@dataclass
class Symbol:
    name: str
    twin: bool           # _ptsz or _ptds
    plain: str           # the symbol without the twin suffix
    typed: bool          # its types come from cuda.h, so generated C++ can name it
    params: list
    row: Row = None


@dataclass
class When:
    field: str
    equals: list
    handles: dict
    zero: list


@dataclass
class Struct:
    name: str            # canonical
    ctext: str           # a typedef name usable in C++
    size: int
    handles: dict
    zero: list
    whens: list

    @property
    def fixes(self):
        """Something in it must be translated or zeroed."""
        return bool(self.handles or self.zero or self.whens)

    @property
    def tagged(self):
        return any(w.field == "tag" for w in self.whens)


def split_symbol(name):
    twin = name.endswith(("_ptsz", "_ptds"))
    plain = name[:-5] if twin else name
    match = re.match(r"^(.*?)(?:_v(\d+))?$", plain)
    return twin, plain, match.group(1), int(match.group(2) or 1)


class Model:
    def __init__(self, here):
        self.here = here
        with open(f"{here}/facts-13.0.json") as f:
            self.facts = json.load(f)
        with open(f"{here}/exports-580.txt") as f:
            self.exports = sorted(set(f.read().split()) | set(self.facts["functions"]))
        self.rows, self.struct_rows, self.symbols, self.structs = {}, {}, {}, {}
        for name in ("driver.toml", "driver_more.toml"):
            self.read_table(name)
        self.join()
        for row in self.rows.values():
            if row.remote:
                self.judge(row)
        self.collect_structs()

    # --- reading ---------------------------------------------------------------------------------------------------------

    def read_table(self, file):
        try:
            with open(f"{self.here}/{file}", "rb") as f:
                table = tomllib.load(f)
        except tomllib.TOMLDecodeError as e:
            raise TableError(f"proto/api/{file}: {e}") from e
        for name, body in table.pop("struct", {}).items():
            if name not in self.facts["struct_names"]:
                raise TableError(f"proto/api/{file}: [struct.{name}]: no struct of that name in the facts")
            if set(body) - STRUCT_KEYS:
                raise TableError(f"proto/api/{file}: [struct.{name}]: unknown keys {sorted(set(body) - STRUCT_KEYS)}")
            canonical = self.facts["struct_names"][name]
            if canonical in self.struct_rows:
                raise TableError(f"proto/api/{file}: [struct.{name}] is there twice (perhaps under another typedef)")
            self.struct_rows[canonical] = (name, body)
        for name, body in table.items():
            where = f"proto/api/{file}: [{name}]"
            if name in self.rows:
                raise TableError(f"{where} is also in proto/api/{self.rows[name].file}: one row per function")
            if set(body) - ROW_KEYS:
                raise TableError(f"{where}: unknown keys {sorted(set(body) - ROW_KEYS)}")
            row = Row(name, name.startswith("bf"), body.get("carry", ""), body.get("client", "auto"), body.get("server", "auto"),
                      body.get("guard", "init"), body.get("reason", ""), body.get("payload", ""),
                      body.get("outs_on_error", False), file=file)
            for value, allowed, key in ((row.carry, ("call", "post", "local", "deny"), "carry"), (row.client, ("auto", "hand"), "client"),
                                        (row.server, ("auto", "hand"), "server"), (row.guard, ("init", "none"), "guard"),
                                        (row.payload, ("", "in", "out", "both"), "payload")):
                if value not in allowed:
                    raise TableError(f"{where}: {key} = \"{value}\" must be one of {', '.join(a for a in allowed if a)}")
            if row.carry == "deny" and not row.reason:
                raise TableError(f"{where}: a deny row needs reason = \"...\": one honest sentence for the coverage page")
            if row.own and (row.client, row.server) != ("hand", "hand"):
                raise TableError(f"{where}: Backfield's own calls are client = \"hand\" and server = \"hand\"")
            row.judgement = dict(body.get("params", {}))
            for key, target in (("extra_in", row.extra_in), ("extra_out", row.extra_out)):
                for extra, wire in body.get(key, {}).items():
                    if wire not in EXTRA_TYPES:
                        raise TableError(f"{where}: {key}.{extra} = \"{wire}\" must be one of {', '.join(EXTRA_TYPES)}")
                    target.append(Extra(extra, EXTRA_TYPES[wire]))
            if row.carry == "post" and (row.extra_out or row.payload in ("out", "both")):
                raise TableError(f"{where}: a post has no reply, so no extra_out and no payload out")
            if (row.extra_in or row.extra_out or row.payload) and "hand" not in (row.client, row.server):
                raise TableError(f"{where}: extra fields and payloads need client = \"hand\" or server = \"hand\"")
            self.rows[name] = row

    # --- symbols to rows -------------------------------------------------------------------------------------------------

    def signature(self, name):
        return tuple(p["canonical"] for p in self.facts["functions"][name]["params"])

    def join(self):
        functions = self.facts["functions"]
        families = {}
        for name in self.exports:
            twin, plain, base, version = split_symbol(name)
            if name not in functions:
                self.symbols[name] = Symbol(name, False, name, False, [])
                if name not in self.rows:
                    self.rows[name] = Row(name, False, "deny", guard="none", file="(no public signature)",
                                          reason="exported without a public signature")
                    self.rows[name].judgement = {}
                continue
            typed = functions[name]["header"] in ("cuda.h", "cudaProfiler.h")
            self.symbols[name] = Symbol(name, twin, plain, typed, functions[name]["params"])
            if twin:
                if plain not in functions or self.signature(plain) != self.signature(name):
                    raise TableError(f"facts: {name} has no plain sibling {plain} with the same signature")
            else:
                families.setdefault((base, self.signature(name)), []).append((version, name))
        missing = []
        for members in families.values():
            row = None
            for version, name in sorted(members, reverse=True):  # newest first
                row = self.rows.get(name, row)
                if row is None:
                    missing.append(name)
                    continue
                self.symbols[name].row = row
        if missing:
            raise TableError("no row for: " + ", ".join(sorted(missing)) +
                             "\nAdd one to proto/api/driver_more.toml (carry = call | post | local | deny); see docs/adding-a-function.md")
        for symbol in self.symbols.values():
            if symbol.row is None:
                symbol.row = self.rows[symbol.name] if symbol.name not in functions else self.symbols[symbol.plain].row
            symbol.row.symbols.append(symbol)
        for row in self.rows.values():
            if not row.own and row.name not in self.symbols:
                raise TableError(f"proto/api/{row.file}: [{row.name}]: the driver exports no such function; "
                                 "a call of Backfield's own starts with bf")

    # --- types and kinds -------------------------------------------------------------------------------------------------

    def ctype(self, text, canonical):
        text, canonical = text.removeprefix("const ").strip(), canonical.removeprefix("const ").strip()
        if text in HANDLE_KINDS:
            return CType(text, "handle", 8, HANDLE_KINDS[text])
        if (canonical.startswith("enum ") and "*" not in canonical) or text in self.facts["enums"]:
            return CType(text, "u32", 4)
        if canonical in self.facts["structs"]:
            return CType(text, "struct", self.facts["structs"][canonical]["size"], struct=canonical)
        if text in ("CUdeviceptr", "CUtexObject", "CUsurfObject"):
            return CType(text, "f64", 8)
        if canonical in SCALARS:
            return CType(text, *SCALARS[canonical])
        return CType(text, "void" if canonical == "void" else "opaque", 1)

    def param(self, fact, returned):
        text, canonical = fact["type"], fact["canonical"]
        whole = self.ctype(text, canonical)
        if whole.cls != "opaque" or not text.endswith("*"):
            return Param(fact["name"], text, False, whole, returned=returned)
        return Param(fact["name"], text, True, self.ctype(text[:-1].strip(), canonical[:-1].strip()), returned=returned)

    def judge(self, row):
        where = f"proto/api/{row.file}: [{row.name}]"
        if not row.own:
            returned = {p["name"] for s in row.symbols for p in s.params if p.get("returned")}
            row.params = [self.param(f, f["name"] in returned) for f in self.facts["functions"][row.name]["params"]]
        names = {p.name: p for p in row.params}
        for name in row.judgement:
            if name not in names:
                raise TableError(f"{where}: params.{name}: the function has no such parameter; it has {', '.join(names)}")
        for extra in row.extra_in + row.extra_out:
            if extra.name in names:
                raise TableError(f"{where}: extra field {extra.name} has the name of a parameter")
        for p in row.params:
            self.judge_param(row, where, p, row.judgement.get(p.name), names)
        for p in row.params:
            if p.count and not p.count.isdigit():
                counter = names[p.count]
                if p.deref and counter.kind == "out":
                    counter.kind = "inout"
                if counter.kind not in ("in", "inout", "skip"):
                    raise TableError(f"{where}: {p.name} is sized by {p.count}, which is {counter.kind}")
        if row.carry == "post" and any(p.wire_out for p in row.params):
            raise TableError(f"{where}: a post has no reply, but {[p.name for p in row.params if p.wire_out]} come back: use carry = \"call\"")

    def judge_param(self, row, where, p, said, names):
        if said is None:
            p.kind, p.inferred = self.infer(p), True
            if not p.kind:
                raise TableError(f"{where}: what is {p.name} ({p.ctext})? Write params = {{ {p.name} = \"KIND\" }} with one of in, out, "
                                 "inout, in[n], out[n], out[*n], string, out_string[n], in_handles[n], new, out_handle, out_handles[*n], "
                                 "del, skip, reserved")
            return
        match = KIND.match(said)
        if not match:
            raise TableError(f"{where}: params.{p.name} = \"{said}\" is no kind")
        p.kind, star, p.count = match.group(1), match.group(2), match.group(3) or ""
        p.deref, p.minus, p.tag = star == "*", match.group(4) or "", match.group(5) or ""
        if p.tag and p.tag not in names:
            raise TableError(f"{where}: params.{p.name} = \"{said}\": there is no parameter {p.tag}")
        if p.count and not p.count.isdigit() and p.count not in names:
            raise TableError(f"{where}: params.{p.name} = \"{said}\": there is no parameter {p.count}")
        if p.deref and not names[p.count].pointer:
            raise TableError(f"{where}: params.{p.name} = \"{said}\": {p.count} is no pointer")
        self.check_kind(where, p, said)

    @staticmethod
    def check_kind(where, p, said):
        def need(condition, text):
            if not condition:
                raise TableError(f"{where}: params.{p.name} = \"{said}\" ({p.ctext}): {text}")
        handle = p.type.cls == "handle"
        if p.kind in ("skip", "reserved"):
            return
        if p.kind in ("in_handles", "out_handles", "out_string"):
            need(p.pointer and p.count, "needs a pointer and a size")
        if p.kind in ("new", "out_handle", "in_handles", "out_handles"):
            need(p.pointer and handle, "needs a pointer to a handle type")
        if p.kind in ("handle", "del"):
            need(not p.pointer and handle, "needs a handle by value")
        if p.kind == "address":
            need(p.pointer and p.type.cls == "void" and not p.count, "needs void * (a device address)")
        if p.kind in ("string", "out_string"):
            need(p.pointer and p.type.text == "char", "needs char *")
        if p.kind in ("in", "out", "inout"):
            need(not handle, "is a handle: handle, in_handles, out_handle, out_handles, new or del")
            need(p.type.cls != "opaque", "is a type that does not travel: skip it or write the row by hand")
            need(p.type.cls != "void" or p.count, "is untyped: say how many bytes it has")
            need(p.pointer or p.kind == "in", "is passed by value")
        if p.count:
            need(p.pointer, "is no pointer")

    @staticmethod
    def infer(p):
        """Kinds that the C type leaves no doubt about (with the vendor's own "Returned ..." for outs)."""
        if not p.pointer:
            return {"handle": "handle", "opaque": "", "void": ""}.get(p.type.cls, "in")
        const = p.ctext.startswith("const ")
        if const and p.type.text == "char":
            return "string"
        if const and p.type.cls == "struct":
            return "in"
        if p.returned and not const and p.type.cls not in ("handle", "void", "opaque") and p.type.text != "char":
            return "out"
        return ""

    # --- structs ---------------------------------------------------------------------------------------------------------

    def collect_structs(self):
        for row in self.rows.values():
            for p in row.params:
                if p.type.cls == "struct" and (p.wire_in or p.wire_out):
                    self.struct(p.type, row)
                    if self.structs[p.type.struct].tagged != bool(p.tag):
                        raise TableError(f"proto/api/{row.file}: [{row.name}]: params.{p.name}: {p.type.text} is a union that "
                                         "only another parameter tells apart: write \"KIND tag PARAMETER\"")

        for canonical, (name, _) in self.struct_rows.items():  # also those that only hand-written handlers use
            if canonical not in self.structs:
                self.struct(CType(name, "struct", self.facts["structs"][canonical]["size"], struct=canonical), None)

    def struct(self, type_, row):
        if type_.struct in self.structs:
            return
        fields = {f["name"]: f for f in self.facts["structs"][type_.struct]["fields"]}
        name, body = self.struct_rows.get(type_.struct, (type_.text, {}))
        where = f"[struct.{name}]"
        handles, zero, keep = dict(body.get("handles", {})), list(body.get("zero", [])), list(body.get("keep", []))
        whens = []
        for when in body.get("when", []):
            equals = when["equals"] if isinstance(when["equals"], list) else [when["equals"]]
            whens.append(When(when["field"], equals, dict(when.get("handles", {})), list(when.get("zero", []))))
        judged = set(handles) | set(zero) | set(keep)
        for when in whens:
            judged |= set(when.handles) | set(when.zero)
            if when.field not in fields and when.field != "tag":
                raise TableError(f"{where}: when.field = \"{when.field}\": no such field")
        for field_name in judged:
            if field_name not in fields:
                raise TableError(f"{where}: no field {field_name}; it has {', '.join(fields)}")
        for field_name, fact in fields.items():
            if "*" in fact["canonical"] and field_name not in judged:
                raise TableError(f"{where} (used by [{row.name if row else 'the table'}]): the field {field_name} ({fact['type']}) is a pointer. Say what it is: "
                                 f"handles = {{ {field_name} = \"CU...\" }}, zero = [\"{field_name}\"] (does not travel), or "
                                 f"keep = [\"{field_name}\"] (a device address)")
        for kinds in [handles] + [w.handles for w in whens]:
            for value in kinds.values():
                if value not in HANDLE_KINDS:
                    raise TableError(f"{where}: {value} is no handle type")
        self.structs[type_.struct] = Struct(type_.struct, type_.text, type_.size, handles, zero, whens)
