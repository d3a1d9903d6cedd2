#!/usr/bin/env python3
"""Turns the API table into code: stubs, encoders, dispatch, exports, the .proto, tests and the coverage page.

  generate.py --out DIR       write everything into DIR (only files that changed are touched)
  generate.py --lock          append new rows and fields to opcodes.lock
  generate.py --explain F     how each parameter of F is carried
  generate.py --coverage      write docs/api-coverage.md
  generate.py --check-coverage  is docs/api-coverage.md current?
  generate.py --list          the names of the files that --out writes, for CMake

Inputs: facts-13.0.json (extract_facts.py), driver.toml and driver_more.toml, opcodes.lock, exports-580.txt,
procaddr-580.csv. Needs Python 3.11 and nothing else.
"""
import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True

from gen import client, pages, server, stubs, tests  # noqa: E402
from gen.lock import Lock  # noqa: E402
from gen.model import Model, TableError  # noqa: E402


def write(path, text):
    if os.path.exists(path):
        with open(path) as f:
            if f.read() == text:
                return
    with open(path, "w") as f:
        f.write(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out")
    parser.add_argument("--lock", action="store_true")
    parser.add_argument("--explain", metavar="F")
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--check-coverage", action="store_true")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        print(";".join(f for module in (client, server, stubs, pages, tests) for f in module.outputs()), end="")
        return
    try:
        model = Model(HERE)
        lock = Lock(f"{HERE}/opcodes.lock")
        lock.apply(model, may_append=options.lock)
    except TableError as e:
        sys.exit(f"API table: {e}")
    if options.lock:
        print(f"opcodes.lock: {len(lock.added)} lines appended")
    if options.explain:
        print(pages.explain(model, options.explain))
    if options.coverage:
        write(f"{HERE}/../../docs/api-coverage.md", pages.coverage(model))
    if options.check_coverage:
        with open(f"{HERE}/../../docs/api-coverage.md") as f:
            if f.read() != pages.coverage(model):
                sys.exit("docs/api-coverage.md is not what the table says: run proto/api/generate.py --coverage and commit it")
    if options.out:
        os.makedirs(options.out, exist_ok=True)
        files = {**client.emit(model), **server.emit(model), **stubs.emit(model), **pages.emit(model, lock), **tests.emit(model)}
        for name, text in files.items():
            write(f"{options.out}/{name}", text)


if __name__ == "__main__":
    main()
