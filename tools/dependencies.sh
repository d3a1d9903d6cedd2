# Sourced by demo.sh and test.sh: what Backfield is built from, in one place. Debian 12 or Ubuntu 24.04.
# install_dependencies    installs the packages that are missing (as root, else it says what to type)
# require_cuda_toolkit    sets CUDA_HOME, or says how to get the toolkit and ends

BF_PACKAGES=(
  # to build
  build-essential cmake ninja-build ccache python3 binutils
  libspdlog-dev libfmt-dev libprotozero-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev libzstd-dev liblz4-dev libseccomp-dev
  libyaml-cpp-dev libssl-dev libsqlite3-dev
  # to test
  libgtest-dev libbenchmark-dev libprotobuf-dev protobuf-compiler
)
# Left out where the release has no such package: the check of the API facts against the vendor's headers is skipped then.
BF_OPTIONAL_PACKAGES=(clang-14 libclang-rt-14-dev python3-clang-14)

install_dependencies() {
  local package missing=()
  for package in "${BF_PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" -ne 0 ]; then
    echo "These packages are missing; install them, then run this again:"
    echo "  sudo apt-get install ${missing[*]}"
    exit 1
  fi
  if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
  [ "$(id -u)" -eq 0 ] || return 0
  for package in "${BF_OPTIONAL_PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' && continue
    apt-cache show "$package" >/dev/null 2>&1 || continue
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null || echo "left out: $package"
  done
}

require_cuda_toolkit() {
  local nvcc
  nvcc=$(command -v nvcc || true)
  for folder in "${CUDA_HOME:-}" "${nvcc:+$(dirname "$(dirname "$(readlink -f "$nvcc")")")}" /usr/local/cuda; do
    if [ -n "$folder" ] && [ -x "$folder/bin/nvcc" ] && [ -n "$(find -L "$folder/include" "$folder"/targets/*/include -maxdepth 1 -name cuda.h 2>/dev/null | head -n 1)" ]; then
      export CUDA_HOME=$folder PATH="$folder/bin:$PATH"
      return
    fi
  done
  cat <<'TEXT'
The CUDA Toolkit (nvcc and cuda.h) was not found. Backfield itself needs its headers, the examples and tests its compiler;
no GPU and no driver are needed. Get version 13.0 or newer from https://developer.nvidia.com/cuda-downloads
(Linux, x86_64, Debian 12, deb (network)):
  apt-get install cuda-toolkit-13-0
or, where it lies somewhere else than /usr/local/cuda, name its folder:
  CUDA_HOME=/path/to/cuda
TEXT
  exit 1
}
