#!/usr/bin/env bash
# Compiles kernels/*.cu to the PTX that lies beside them, for who builds without nvcc: run it after every change.
#
#   scripts/kernels.sh           compile and write kernels/kernels.ptx.zst, with the hash of its sources
#   scripts/kernels.sh --check   compile, for the GPUs of today too, and compare with what is there
#
# nvcc is the one of scripts/setup.sh cuda, or what NVCC says.
set -euo pipefail
cd "$(dirname "$0")/../kernels"

nvcc=${NVCC:-$(compgen -G '../target/cuda/lib/python*/site-packages/nvidia/cu13/bin/nvcc' || true)}
[ -n "$nvcc" ] || { echo "kernels: nvcc is missing: run scripts/setup.sh cuda, or set NVCC" >&2; exit 1; }

hash() { # of the sources: path and content of each, sorted
  export LC_ALL=C
  find . -path ./emulator -prune -o \( -name '*.cu' -o -name '*.cuh' \) -print | sort | while read -r file; do
    echo "$file"
    cat "$file"
  done | sha256sum | cut -d ' ' -f 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$nvcc" -std=c++17 -arch=compute_80 -ptx -o "$work/kernels.ptx" all.cu
case ${1:-} in
  "")
    zstd --quiet --force -19 -o kernels.ptx.zst "$work/kernels.ptx"
    hash >kernels.ptx.sources
    echo "kernels: wrote $(wc -c <kernels.ptx.zst) bytes"
    ;;
  --check)
    for target in 80 90; do "$nvcc" -std=c++17 -arch=sm_$target -cubin -o "$work/sm_$target" all.cu; done
    if [ "$(hash)" != "$(cat kernels.ptx.sources)" ]; then
      echo "kernels: kernels.ptx.zst is of other sources: run scripts/kernels.sh" >&2
      exit 1
    fi
    # Another nvcc may write other PTX; the one of setup.sh must write this.
    zstd --quiet --decompress --stdout kernels.ptx.zst | cmp - "$work/kernels.ptx"
    echo "kernels: compiled for compute_80, sm_80 and sm_90; kernels.ptx.zst is of these sources"
    ;;
  *) echo "kernels: unknown argument '$1'" >&2; exit 2 ;;
esac
