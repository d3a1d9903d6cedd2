#!/usr/bin/python3
"""Extracts facts-13.0.json from the CUDA headers: signatures, struct layouts, enum values of every symbol the driver exports.

Usage: extract_facts.py [--include /usr/local/cuda/include] [--stub libcuda.so] [--output facts-13.0.json] [--check]

Needs libclang and its Python binding (Debian: python3-clang-14). The output is deterministic and committed, so that
building Backfield needs neither. Nothing in it is typed by hand: judgement lives in the tables.
"""
import argparse
import glob
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))

# The graphics headers need a few types of GL, EGL and VDPAU, which need not be installed.
STAND_INS = {
    "GL/gl.h": "typedef unsigned int GLenum; typedef unsigned int GLuint; typedef int GLint;\n",
    "EGL/egl.h": "typedef int EGLint; typedef unsigned int EGLBoolean;\n",
    "EGL/eglext.h": "typedef void *EGLStreamKHR; typedef void *EGLImageKHR; typedef void *EGLSyncKHR;\n"
                    "typedef void *EGLDisplay;\n",
    "vdpau/vdpau.h": "#include <stdint.h>\ntypedef uint32_t VdpDevice; typedef uint32_t VdpVideoSurface; typedef uint32_t VdpOutputSurface;\n"
                     "typedef int VdpStatus; typedef uint32_t VdpFuncId;\n"
                     "typedef VdpStatus VdpGetProcAddress(VdpDevice, VdpFuncId, void **);\n",
}
MAIN = """#define __CUDA_API_VERSION_INTERNAL
#include <cuda.h>
#include <cudaProfiler.h>
#include <cudaGL.h>
#include <cudaEGL.h>
#include <vdpau/vdpau.h>
#include <cudaVDPAU.h>
"""


def parse(include):
    try:
        from clang import cindex
    except ImportError:
        sys.exit("extract_facts.py needs libclang's Python binding: apt install python3-clang-14, and run it with /usr/bin/python3")
    virtual = "/virtual-include"
    files = [(f"{virtual}/{name}", text) for name, text in STAND_INS.items()] + [("facts.c", MAIN)]
    builtin = sorted(glob.glob("/usr/lib/llvm-*/lib/clang/*/include"))
    arguments = ["-x", "c", "-std=c11", f"-I{include}", f"-I{virtual}", "-fparse-all-comments"]
    arguments += [f"-isystem{path}" for path in builtin[:1]]
    unit = cindex.Index.create().parse("facts.c", arguments, unsaved_files=files)
    errors = [d.spelling for d in unit.diagnostics if d.severity >= cindex.Diagnostic.Error]
    if errors:
        sys.exit("the CUDA headers do not parse: " + "; ".join(errors[:5]))
    return cindex, unit


class Extractor:
    def __init__(self, include, exports):
        self.ci, self.unit = parse(include)
        self.exports = exports
        self.functions, self.structs, self.enums, self.handles, self.typedefs = {}, {}, {}, {}, {}
        self.struct_names = {}  # every typedef of a struct, also those no function mentions: tables may use any of them

    def run(self):
        kinds = self.ci.CursorKind
        for cursor in self.unit.cursor.get_children():
            if cursor.kind == kinds.FUNCTION_DECL and cursor.spelling in self.exports:
                self.function(cursor)
        for cursor in self.unit.cursor.get_children():
            if cursor.kind == kinds.TYPEDEF_DECL:
                canonical = cursor.type.get_canonical()
                if canonical.spelling in self.structs:
                    self.struct_names[cursor.spelling] = canonical.spelling
        return {
            "cuda": "13.0",
            "functions": self.functions,
            "private": sorted(self.exports - self.functions.keys()),
            "structs": self.structs,
            "struct_names": self.struct_names,
            "enums": self.enums,
            "handles": self.handles,
            "typedefs": self.typedefs,
        }

    def function(self, cursor):
        returned = self.returned_parameters(cursor.raw_comment or "")
        params = []
        for index, argument in enumerate(cursor.get_arguments()):
            name = argument.spelling or f"arg{index}"
            fact = {"name": name, "type": argument.type.spelling, "canonical": argument.type.get_canonical().spelling}
            if name in returned:
                fact["returned"] = True  # the vendor's documentation says "Returned ..."
            params.append(fact)
            self.note_type(argument.type)
        header = os.path.basename(cursor.location.file.name)
        known = self.functions.get(cursor.spelling)
        if known and any("returned" in p for p in known["params"]):
            return
        self.functions[cursor.spelling] = {"header": header, "returns": cursor.result_type.spelling, "params": params}

    @staticmethod
    def returned_parameters(comment):
        found = set()
        for line in comment.replace("*", " ").split("\\param")[1:]:
            words = line.split(None, 3)
            if len(words) > 2 and words[1] == "-" and words[2].startswith("Return"):
                found.add(words[0])
        return found

    def note_type(self, type_):
        """Follows pointers, arrays and typedefs to the structs, enums and handles that a type needs."""
        kinds = self.ci.TypeKind
        while type_.kind in (kinds.POINTER, kinds.CONSTANTARRAY, kinds.INCOMPLETEARRAY):
            type_ = type_.get_pointee() if type_.kind == kinds.POINTER else type_.element_type
        name = type_.spelling.removeprefix("const ").removeprefix("struct ").removeprefix("enum ").removeprefix("union ")
        canonical = type_.get_canonical()
        if canonical.kind == kinds.POINTER:
            pointee = canonical.get_pointee()
            if pointee.kind == kinds.RECORD and pointee.get_size() < 0:
                self.handles[name] = pointee.spelling.removeprefix("struct ")
            else:
                self.typedefs[name] = canonical.spelling
                self.note_type(pointee)
        elif canonical.kind == kinds.RECORD:
            self.struct(canonical)
        elif canonical.kind == kinds.ENUM:
            self.enum(name, canonical)
        elif canonical.spelling != type_.spelling and canonical.kind not in (kinds.FUNCTIONPROTO, kinds.VOID):
            self.typedefs[name] = canonical.spelling.removeprefix("const ")

    def struct(self, canonical):
        """Structs are known by their canonical spelling: a C type may have several typedef names."""
        name = canonical.spelling.removeprefix("const ")
        if name in self.structs or canonical.get_size() < 0:
            return
        fields = []
        self.structs[name] = {"size": canonical.get_size(), "align": canonical.get_align(), "fields": fields}
        self.fields(canonical, canonical, "", fields, 0)

    def fields(self, outer, type_, prefix, fields, base):
        """Flattens nested structs and unions to dotted names, so that a table can name res.array.hArray."""
        kinds = self.ci.TypeKind
        for field in type_.get_fields():
            name = prefix + field.spelling if field.spelling else prefix.rstrip(".")
            offset = base + field.get_field_offsetof() // 8
            field_type = field.type
            canonical = field_type.get_canonical()
            nested = canonical.kind == kinds.RECORD and (
                field_type.get_declaration().is_anonymous() or "(unnamed" in canonical.spelling or "(anonymous" in canonical.spelling)
            fact = {"name": name, "offset": offset, "size": field_type.get_size(),
                    "type": "(nested)" if nested else field_type.spelling, "canonical": "(nested)" if nested else canonical.spelling}
            fields.append(fact)
            if canonical.kind == kinds.RECORD:
                self.fields(outer, canonical, (name + ".") if field.spelling else prefix, fields, offset)
                if not nested:
                    self.note_type(field_type)
            else:
                self.note_type(field_type)

    def enum(self, name, canonical):
        if name in self.enums:
            return
        values = {}
        for constant in canonical.get_declaration().get_children():
            if constant.kind == self.ci.CursorKind.ENUM_CONSTANT_DECL:
                values[constant.spelling] = constant.enum_value
        self.enums[name] = values


def stub_exports(stub):
    text = subprocess.run(["nm", "-D", "--defined-only", stub], check=True, capture_output=True, text=True).stdout
    return {line.split()[2].split("@")[0] for line in text.splitlines() if line.split()[1] == "T"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--include", default="/usr/local/cuda/include")
    parser.add_argument("--stub", default="/usr/local/cuda/lib64/stubs/libcuda.so")
    parser.add_argument("--output", default=f"{HERE}/facts-13.0.json")
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing it; exit 77 if the toolkit is missing")
    options = parser.parse_args()
    if options.check:
        try:
            import clang.cindex  # noqa: F401
        except ImportError:
            print("SKIPPED: libclang's Python binding is not installed (python3-clang-14)")
            sys.exit(77)
        if not os.path.exists(options.stub) or not os.path.exists(f"{options.include}/cuda.h"):
            print("SKIPPED: the CUDA Toolkit is not installed")
            sys.exit(77)
    exports = stub_exports(options.stub)
    with open(f"{HERE}/exports-580.txt") as f:
        exports |= set(f.read().split())
    facts = Extractor(options.include, exports).run()
    text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    if options.check:
        with open(options.output) as f:
            if f.read() != text:
                sys.exit(f"{options.output} is not what the headers say: run proto/api/extract_facts.py and look at the difference")
        print(f"{options.output} agrees with {options.include}")
        return
    with open(options.output, "w") as f:
        f.write(text)
    print(f"{len(facts['functions'])} functions, {len(facts['private'])} without a public signature, {len(facts['structs'])} structs, "
          f"{len(facts['enums'])} enums, {len(facts['handles'])} handle types")


if __name__ == "__main__":
    main()
