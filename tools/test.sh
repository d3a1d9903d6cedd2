#!/usr/bin/env bash
# Builds everything and runs all tests: on a fresh Debian 12 with the CUDA Toolkit this is the only command. In order:
#   1. what shares memory between threads by our own design, under ThreadSanitizer (build-tsan/);
#   2. every unit and contract suite and bounded fuzz runs, under AddressSanitizer + UBSan (build-asan/);
#   3. whole programs, tools, pools and the RDMA VM in the ordinary build (build/), whose summary comes last.
# The status is 0 only if all of them passed. BF_E2E_FULL=1 makes the end-to-end stress tests run at full length.
set -euo pipefail
if [ $# -gt 0 ]; then
  echo "usage: tools/test.sh (no arguments); one test, or one kind of tests: see docs/building.md" >&2
  exit 2
fi
cd "$(dirname "$(readlink -f "$0")")/.."
. tools/dependencies.sh
install_dependencies
install_test_extras
require_cuda_toolkit

jobs=$(nproc)
at_once=$((jobs + jobs / 2))  # tests: many wait for something
failed=()
configure() { cmake -S . -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBF_PRECOMPILE=ON "$@" >/dev/null; }
# Clang takes half of GCC's time for code with sanitizers; and so both compilers see everything. lld takes a quarter of ld's.
sanitizing=(-DBF_FUZZ_SECONDS=10)
if [ -e "$(clang++-14 -print-runtime-dir 2>/dev/null)/libclang_rt.asan-x86_64.so" ]; then
  sanitizing+=(-DCMAKE_CXX_COMPILER=clang++-14)
  [ ! -e /usr/lib/llvm-14/bin/ld.lld ] || sanitizing+=(-DCMAKE_{EXE,SHARED}_LINKER_FLAGS=-fuse-ld=lld)
fi
stage() { echo "== $1 (after $SECONDS s) =="; }
sanitized() {  # folder sanitizer labels [target ...]
  stage "$2: build"
  configure -B "$1" -DBF_SANITIZE="$2" "${sanitizing[@]}"
  cmake --build "$1" -j "$jobs" ${4:+--target "${@:4}"} | tail -n 1
  stage "$2: tests"
  if ctest --test-dir "$1" -j "$at_once" -L "$3" --output-on-failure --no-tests=error >"$1/tests.log"; then
    tail -n 20 "$1/tests.log"
  else
    failed+=("$2")
    tail -n 400 "$1/tests.log"
  fi
}
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
# The shim keeps its state for as long as the process lives, on purpose: leaks are counted by the life-cycle tests instead.
export ASAN_OPTIONS=detect_stack_use_after_return=1:detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
# The parts whose threads share memory by our own design. (The software GPU also runs programs' races, faithfully.)
threaded=(transport_contract_test transport_test client_state_test client_session_test worker_order_test worker_parts_test
  worker_session_test)
sanitized build-tsan thread threads "${threaded[@]}"
sanitized build-asan address,undefined '.*'

stage "everything: build"
configure -B build -DBF_TESTS=programs
cmake --build build -j "$jobs" | tail -n 1
stage "everything: tests"
[ ${#failed[@]} -eq 0 ] || echo "FAILED under sanitizers: ${failed[*]} (the output is above)"
ctest --test-dir build -j "$at_once" -LE contract --output-on-failure || failed+=("the suite")
[ ${#failed[@]} -eq 0 ]
