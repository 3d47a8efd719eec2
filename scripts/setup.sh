#!/usr/bin/env bash
# Looks for what building ("build"), testing ("test"), training over processes ("mpi") and compiling kernels for a
# GPU ("cuda") need. Installs what is missing with apt-get where it may (as root, or by sudo without a password), else
# names it and fails; nvcc comes from PyPI. OpenAI's Python client is wanted, not needed.
set -euo pipefail

# The oldest Rust that builds this: rust-version in Cargo.toml.
rust_version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")

has() { command -v "$1" >/dev/null 2>&1; }
has_any() { local name; for name in "$@"; do has "$name" && return; done; return 1; }

# The client that other programs use: tests/openai_client.rs runs it, from a folder of its own.
openai_client=openai==3.54.0
python=$(dirname "$0")/../target/python

install_openai_client() {
  "$python/bin/python3" -c 'import openai' 2>/dev/null && return
  echo "setup: installing $openai_client for Python"
  { python3 -m venv "$python" && "$python/bin/pip" install --quiet --disable-pip-version-check "$openai_client"; } ||
    echo "setup: $openai_client cannot be installed; its tests will say that they did not run" >&2
}

# NVIDIA's compiler, as it is on PyPI, in a folder of its own; a GPU is not needed.
cuda=$(dirname "$0")/../target/cuda
nvcc=(nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85
  nvidia-cuda-runtime==13.0.96)

install_nvcc() {
  compgen -G "$cuda/lib/python*/site-packages/nvidia/cu13/bin/nvcc" >/dev/null && return
  echo "setup: installing ${nvcc[0]}"
  python3 -m venv "$cuda"
  "$cuda/bin/pip" install --quiet --disable-pip-version-check --no-deps "${nvcc[@]}"
}

packages=()
is_for_tests=
is_for_cuda=
for purpose in "$@"; do
  case $purpose in
    build)
      # SQLite and zstd are compiled from their C sources, whisper.cpp from its C++ ones by cmake.
      has_any cc gcc clang || packages+=(gcc libc6-dev)
      has_any c++ g++ clang++ || packages+=(g++)
      has cmake || packages+=(cmake make)
      ;;
    test)
      is_for_tests=yes
      # The browser test drives a real browser.
      has_any chromium chromium-browser google-chrome || packages+=(chromium)
      has chromedriver || packages+=(chromium-driver)
      ;;
    mpi)
      # The feature mpi: the library and its launcher, and libclang, which reads its headers.
      { has mpicc && has mpirun; } || packages+=(libopenmpi-dev openmpi-bin)
      { compgen -G '/usr/lib/llvm-*/lib/libclang.so' || compgen -G '/usr/lib*/libclang.so'; } >/dev/null ||
        packages+=(libclang-dev)
      ;;
    cuda)
      is_for_cuda=yes
      has python3 || packages+=(python3 python3-venv)
      has zstd || packages+=(zstd)
      ;;
    *) echo "setup: unknown purpose '$purpose', expected build, test, mpi or cuda" >&2; exit 2 ;;
  esac
done

if ! has cargo; then
  echo "setup: Rust $rust_version or newer is missing; install it from https://rustup.rs" >&2
  exit 1
fi
found=$(rustc --version | cut -d ' ' -f 2)
oldest=$(printf '%s\n%s\n' "$rust_version" "$found" | sort -V | head -n 1)
if [ "$oldest" != "$rust_version" ]; then
  echo "setup: Rust $rust_version or newer is needed, this is $found; run: rustup update stable" >&2
  exit 1
fi

[ -z "$is_for_tests" ] || install_openai_client
finish() {
  [ -z "$is_for_cuda" ] || install_nvcc
}

if [ ${#packages[@]} -eq 0 ]; then
  finish
  exit 0
fi

install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${packages[@]}")
if has apt-get && [ "$(id -u)" -eq 0 ]; then
  as_root=()
elif has apt-get && has sudo && sudo -n true 2>/dev/null; then
  as_root=(sudo -n)
else
  echo "setup: missing: ${packages[*]}" >&2
  echo "setup: on Debian or Ubuntu run: sudo apt-get install ${packages[*]}" >&2
  exit 1
fi
echo "setup: installing ${packages[*]}"
# A stale package list is the usual reason for a failed installation.
"${as_root[@]}" "${install[@]}" >/dev/null 2>&1 || {
  "${as_root[@]}" apt-get update --quiet --quiet
  "${as_root[@]}" "${install[@]}"
}
finish
