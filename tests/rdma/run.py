#!/usr/bin/env python3
"""Runs Backfield over real verbs, in the VM of vm.py: the transport contract, a link's faults, end-to-end programs.

  run.py --build build                what fits into minutes (the ctest entry rdma.vm)
  run.py --build build --full         everything, every end-to-end program; also BF_E2E_FULL=1
  run.py --build build --only faults  one part: contract, faults, e2e, sessions
Exit status: 0 all well, 1 something failed, 77 no VM is to be had here."""

import argparse
import os
import pathlib
import shlex
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent.parent
# Left out of the short run: each takes a minute of an emulated processor.
SLOW_CONTRACT = ["*BytesArriveInOrderWhateverThePieces*", "*ThousandsOfRoundTrips*", "*BytesOfAllSizesArrive*", "*HundredLinks*", "*SenderWaitsForASlowReceiver*"]
SLOW_FAULTS = ["*SilentNetwork*"]
PARTS = ["contract", "faults", "e2e", "sessions"]
# Of each kind of traffic one: calls, copies, host functions, memory both sides use, graphs, errors, forks, ends.
SHORT_E2E = ["driver_basic", "pageable_async", "host_functions", "pinned_copies", "mapped", "managed", "graph_capture", "sticky_error", "fork_after", "killed"]


def script(build, parts, full):
    """What runs inside."""
    lines = [f". {HERE}/network.sh", "export BF_TEST_RDMA=10.1.0.2 BF_E2E_HOST=10.1.0.2 BF_E2E_PATIENCE=5", "failed=", f"cd {shlex.quote(str(build))}"]

    def step(name, command, leaves_nothing=True):
        lines.append(f"echo '== {name} (at '$SECONDS' s) =='; {command} || failed=\"$failed {name}\"")
        if leaves_nothing:
            lines.append(f"nothing_left || failed=\"$failed {name}:leak\"")

    if "contract" in parts:
        step("contract", f"tests/transport_contract_test --gtest_brief=1 --gtest_filter={shlex.quote('*/Rdma' if full else '*/Rdma-' + ':'.join(SLOW_CONTRACT))}")
    if "faults" in parts:
        slow = [] if full else SLOW_FAULTS
        step("faults", f"tests/rdma_fault_test --gtest_brief=1 --gtest_filter={shlex.quote('-' + ':'.join(['*ACutCable*', *slow]))}")
    if "e2e" in parts and (build / "e2e").exists():
        transports, names = ("tcp,rdma", "") if full else ("rdma", " ".join(SHORT_E2E))
        step("e2e", f"python3 {SOURCE}/tests/e2e/run.py --build . --transports {transports} {names}")
        step("lossy", f"netem_on delay 1ms loss 0.5%; python3 {SOURCE}/tests/e2e/run.py --build . --transports rdma driver_basic; result=$?; netem_off; [ $result = 0 ]")
    if "sessions" in parts:
        step("sessions", f"python3 {HERE}/sessions.py --build .")
    if "faults" in parts:
        # Last, and not waited for after its verdict: Soft-RoCE recovers late, and the kernel may hold the process for minutes.
        lines.append("tests/rdma_fault_test --gtest_filter='*ACutCable*' > cut.log 2>&1 &")
        step("cut", r"for _ in $(seq 120); do sleep 1; grep -qE '(PASSED|FAILED) +\S* *[0-9]+ test' cut.log && break; done; cat cut.log; grep -qE 'PASSED +\S* *1 test' cut.log", leaves_nothing=False)
    lines.append('[ -z "$failed" ] || { echo "FAILED:$failed"; exit 1; }')
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="build folder")
    parser.add_argument("--full", action="store_true", help="leave nothing out")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--cache", type=pathlib.Path, help="where the VM's kernel is kept (default: in the build folder)")
    parser.add_argument("--timeout", type=int, help="seconds for the VM (default 1200, full 7200)")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    work = build / "rdma-vm"
    work.mkdir(exist_ok=True)
    inside = work / "inside.sh"
    full = arguments.full or bool(os.environ.get("BF_E2E_FULL"))
    inside.write_text(script(build, [arguments.only] if arguments.only else PARTS, full))
    return subprocess.run([sys.executable, HERE / "vm.py", "--cache", arguments.cache or work, "--timeout",
                           str(arguments.timeout or (7200 if full else 1200)), "--", "bash", inside]).returncode


if __name__ == "__main__":
    sys.exit(main())
