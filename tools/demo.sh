#!/usr/bin/env bash
# Builds Backfield, starts a server on this machine, and trains a small network on a GPU borrowed from it. Where there is no GPU, the
# server offers software GPUs. Everything it starts is gone when it ends.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. tools/dependencies.sh
install_dependencies
require_cuda_toolkit

jobs=$(nproc)
build=${BF_BUILD:-build}
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "Building (the first time takes a few minutes)"
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBF_PRECOMPILE=ON >/dev/null
cmake --build "$build" -j "$jobs" --target bfserver bfworker bfrun bf bf_shim bf_softgpu program_bin_train_mlp | tail -n 1

if nvidia-smi -L >/dev/null 2>&1; then gpus=() kind="this machine's own"; else gpus=(--software-gpus 2) kind="two software"; fi
log=$(mktemp)
server= program=
cleanup() {
  for process in $program $server; do
    kill "$process" 2>/dev/null && wait "$process" 2>/dev/null || true
  done
  rm -f "$log"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export BF_SERVERS=127.0.0.1:$port
say "Starting a server with $kind GPUs: bfserver --dev --foreground --listen 127.0.0.1:$port ${gpus[*]}"
"$build/bin/bfserver" --dev --foreground --listen "127.0.0.1:$port" "${gpus[@]}" >"$log" 2>&1 &
server=$!
for _ in $(seq 300); do
  "$build/bin/bf" list >/dev/null 2>&1 && break
  kill -0 "$server" 2>/dev/null || { echo "the server did not start:"; cat "$log"; exit 1; }
  sleep 0.1
done
"$build/bin/bf" list

say "Training on a borrowed GPU: bfrun -n 1 -m 2048 -- train_mlp"
"$build/bin/bfrun" -n 1 -m 2048 -- "$build/bin/train_mlp" &
program=$!
sleep 2
if kill -0 "$program" 2>/dev/null; then
  say "Meanwhile: bf list"
  "$build/bin/bf" list
fi
wait "$program"
program=

say "Afterwards the memory is back: bf list"
"$build/bin/bf" list
