#!/usr/bin/env python3
"""Code images are uploaded once: the second program that brings the same code sends none of it, the server's folder stays
inside its bound, and an entry that was tampered with is noticed and replaced."""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import harness
import programs


def run(server, build, name):
    done = server.run([str(build.program(name))], {**programs.DEFAULTS}, "tcp")
    if done.status != 0:
        sys.exit(f"{name} ended with {done.status}: {(done.stdout + done.stderr).decode(errors='replace')[-400:]}")
    return done


def files_of(folder):
    return {p.name: p.stat().st_size for p in pathlib.Path(folder).iterdir() if p.name != "salt"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True)
    build = harness.Build(parser.parse_args().build)
    if build.missing():
        print("skipped:", build.missing())
        return 77
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent, "images")
        with harness.Server(build, extra=("--image-cache", str(folder), "--log-level", "debug")) as server:
            run(server, build, "threads64")
            first = files_of(folder)
            assert first, "nothing was kept"
            assert folder.stat().st_mode & 0o77 == 0 and all((folder / name).stat().st_mode & 0o77 == 0 for name in first)
            stamps = {name: (folder / name).stat().st_ino for name in first}
            run(server, build, "threads64")
            assert files_of(folder) == first, "the second run stored something"
            assert {name: (folder / name).stat().st_ino for name in first} == stamps, "the second run uploaded again"
            # Somebody writes over an entry: it is noticed, and the program's own code runs.
            name = max(first, key=first.get)
            (folder / name).write_bytes(b"x" * first[name])
            run(server, build, "threads64")
            assert (folder / name).read_bytes() != b"x" * first[name], "a damaged entry was kept"
            assert files_of(folder) == first
        # Another server process finds what is there.
        stamps = {name: (folder / name).stat().st_ino for name in first}
        with harness.Server(build, extra=("--image-cache", str(folder))) as server:
            run(server, build, "threads64")
            assert {name: (folder / name).stat().st_ino for name in first} == stamps
        # A folder that others may read is refused.
        os.chmod(folder, 0o755)
        refused = subprocess.run([str(build.bin / "bfserver"), "--dev", "--foreground", "--listen", "127.0.0.1:0", "--software-gpus", "1",
                                  "--image-cache", str(folder)], capture_output=True, text=True, timeout=60)
        assert refused.returncode == 2 and "0700" in refused.stderr, refused.stderr
    print("image cache: stored once, verified, private")
    return 0


if __name__ == "__main__":
    sys.exit(main())
