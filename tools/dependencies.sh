# Sourced by demo.sh and test.sh: what Backfield is built from, in one place. Debian 12 or Ubuntu 24.04.
# install_dependencies    installs the packages that are missing (as root, else it says what to type)
# install_test_extras     installs (as root) what some tests use; without it they are skipped, visibly
# require_cuda_toolkit    sets CUDA_HOME, or says how to get the toolkit and ends

BF_PACKAGES=(
  # to build
  build-essential cmake ninja-build ccache python3 binutils
  libspdlog-dev libfmt-dev libprotozero-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev libzstd-dev liblz4-dev libseccomp-dev
  libyaml-cpp-dev libssl-dev libsqlite3-dev libcurl4-openssl-dev libibverbs-dev librdmacm-dev
  # to test
  libgtest-dev libbenchmark-dev libprotobuf-dev protobuf-compiler
)
# For builds with sanitizers and the check of the API facts against the vendor's headers, for RDMA in a VM (some 200 MB with
# its kernel), and for managed pools. Not every release has them.
BF_TEST_EXTRAS=(clang-14 lld-14 libclang-rt-14-dev python3-clang-14
  qemu-system-x86 busybox-static cpio kmod iproute2 ibverbs-providers
  etcd-server)

is_installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

install_dependencies() {
  local package missing=()
  for package in "${BF_PACKAGES[@]}"; do is_installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    echo "These packages are missing; install them, then run this again:"
    echo "  sudo apt-get install ${missing[*]}"
    exit 1
  fi
  echo "installing ${missing[*]}"
  apt-get update -qq
  install "${missing[@]}"
}

install_test_extras() {
  local package missing=()
  for package in "${BF_TEST_EXTRAS[@]}"; do is_installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" -eq 0 ] || return 0
  apt-get update -qq || true
  # etcd's program alone is wanted, not the service that its package starts.
  [ ! -d /run/systemd/system ] || systemctl --quiet mask etcd.service
  for package in "${missing[@]}"; do
    ! apt-cache show "$package" >/dev/null 2>&1 || install "$package" || echo "left out: $package"
  done
  [ -d /run/systemd/system ] || invoke-rc.d etcd stop >/dev/null 2>&1 || true
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
