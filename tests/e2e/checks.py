"""How the scripts report: every check is one line; the script fails if any check did."""

import argparse
import os
import sys

import harness

FULL = bool(os.environ.get("BF_E2E_FULL"))  # the long variants


class Checks:
    def __init__(self):
        self.failed = 0

    def __call__(self, good, text):
        self.failed += not good
        print(f"{'pass' if good else 'FAIL'}  {text}", flush=True)
        return good


def build_from_arguments():
    """The build that --build names; ends the script with 77 (skipped) if it is not complete."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    build = harness.Build(parser.parse_args().build)
    if build.missing():
        print(f"skipped: {build.missing()} has not been built")
        sys.exit(77)
    return build


def finish(check):
    print("failed" if check.failed else "all good")
    sys.exit(1 if check.failed else 0)
