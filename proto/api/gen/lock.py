"""opcodes.lock: the history of the wire. Lines are only ever appended: `call NAME OPCODE`, `in NAME NUMBER FIELD TYPE`,
`out NAME NUMBER FIELD TYPE`. A field keeps its number and type for ever; a field that is no longer used keeps its line."""
import os

from .model import PROTO_TYPES, TableError

FIRST_OPCODE = 256
FIRST_OUT = 3  # 1 and 2 are the reply's result and watermark
HEADER = "# History of the wire, append-only: written by generate.py --lock, never edited.\n"


class Lock:
    def __init__(self, path):
        self.path = path
        self.opcodes, self.fields = {}, {"in": {}, "out": {}}
        if os.path.exists(path):
            with open(path) as f:
                for line in f:
                    self.read(line.split("#")[0].split())
        self.added = []

    def read(self, words):
        if not words:
            return
        if words[0] == "call":
            self.opcodes[words[1]] = int(words[2])
        else:
            self.fields[words[0]].setdefault(words[1], {})[words[3]] = (int(words[2]), words[4])

    def add(self, line):
        self.added.append(line)
        self.read(line.split())

    def apply(self, model, may_append):
        """Gives every remote row its opcode and every field its number."""
        missing = []
        for row in model.rows.values():
            if not row.remote:
                continue
            if row.name not in self.opcodes:
                missing.append(row.name)
                self.add(f"call {row.name} {max(self.opcodes.values(), default=FIRST_OPCODE - 1) + 1}")
            row.opcode = self.opcodes[row.name]
            for p in row.params:
                if p.wire_in:
                    p.number_in = self.number("in", row.name, p.name, p.wire_in, 1, missing)
                if p.wire_out:
                    p.number_out = self.number("out", row.name, p.name, p.wire_out, FIRST_OUT, missing)
            for extra in row.extra_in:
                extra.number = self.number("in", row.name, extra.name, extra.wire, 1, missing)
            for extra in row.extra_out:
                extra.number = self.number("out", row.name, extra.name, extra.wire, FIRST_OUT, missing)
        if missing and not may_append:
            raise TableError("proto/api/opcodes.lock lacks " + ", ".join(missing[:8]) + (" ..." if len(missing) > 8 else "") +
                             ": run proto/api/generate.py --lock and commit what it appends")
        if self.added and may_append:
            fresh = not os.path.exists(self.path)
            with open(self.path, "a") as f:
                f.write((HEADER if fresh else "") + "".join(line + "\n" for line in self.added))

    def number(self, direction, row, name, wire, first, missing):
        fields = self.fields[direction].setdefault(row, {})
        if name not in fields:
            missing.append(f"{row}.{name}")
            number = max((n for n, _ in fields.values()), default=first - 1) + 1
            self.add(f"{direction} {row} {number} {name} {PROTO_TYPES[wire]}")
        number, locked = fields[name]
        if locked != PROTO_TYPES[wire]:
            raise TableError(f"{row}: the field {name} is locked as {locked} and cannot become {PROTO_TYPES[wire]}: a field never changes its "
                             "type (before the first release: delete opcodes.lock and run generate.py --lock)")
        return number
