"""What the runners know of each end-to-end program. A program that is not listed here runs with no arguments, must end
with status 0 and must print the same on every path. Called with the names of the programs that are built, prints the
names of the tests they make, for CMake."""

import sys

# args, stdin, env: how it is started. status: how it must end (negative: by that signal).
# gpus: how many it needs. timeout: seconds for one run.
SPECIAL = {
    "aborts": {"status": -6},
    "bidirectional": {"timeout": 120},
    "copy_huge": {"timeout": 120},
    "exit_busy": {"status": 42},
    "fork_exec": {"status": 8},
    "killed": {"status": -9},
    "order_stress": {"args": ["1200", "3", "7"], "timeout": 180},
    "surroundings": {
        "args": ["plain", "with space", "", "--flag", "$HOME", "*"],
        "stdin": "first line\nsecond line\n",
        "env": {"BF_E2E_GREETING": "good day"},
        "status": 5,
    },
    "thrust_cub": {"timeout": 120},
    "two_devices": {"gpus": 2},
}

# Programs that the scripts use; alone they prove nothing.
HELPERS = {"busy", "cycle", "quota"}

# Further runs of one program: name -> (program, settings).
VARIANTS = {
    "visible_devices_two": ("visible_devices", {"args": ["--two"], "gpus": 2}),
    "terminated": ("killed", {"args": ["15"], "status": -15}),
    "segfault": ("killed", {"args": ["11"], "status": -11}),
    "order_stress_8_threads": ("order_stress", {"args": ["1600", "8", "3"], "timeout": 180}),
    # Ends with copies under way whose destinations overlap: half of the runs failed when the later one could land first.
    "order_stress_overlap": ("order_stress", {"args": ["600", "3", "7"], "timeout": 180}),
}

DEFAULTS = {"args": [], "stdin": "", "env": {}, "status": 0, "gpus": 1, "timeout": 60}

EXAMPLES = ["vector_add", "reduction", "matmul_tiled", "streams", "graph", "nvrtc_saxpy", "train_mlp"]


def settings_of(name):
    """(program, settings) of a test called `name`."""
    program, special = VARIANTS.get(name, (name, None))
    if special is None:
        base = name[: -len("_shared")] if name.endswith("_shared") else name
        special = SPECIAL.get(base, {})
    return program, {**DEFAULTS, **special}


def tests_of(built):
    """The names of the tests that the built programs make."""
    return sorted(set(built) - HELPERS) + sorted(VARIANTS) + EXAMPLES


if __name__ == "__main__":
    print(";".join(tests_of(sys.argv[1:])))
