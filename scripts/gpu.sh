#!/usr/bin/env bash
# What is measured and checked when there is a GPU, in the order of what matters most: run it with a binary that
# was built with `--features cuda`, on the machine that has the GPU. Each part ends by itself and leaves a file.
#
#   scripts/gpu.sh BINARY FOLDER [PART…]      parts: check serve long peers train; all when none is named
set -uo pipefail
[ $# -ge 2 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
binary=$(realpath "$1") out=$2
shift 2
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(check serve long peers train)
mkdir -p "$out"
cd "$(dirname "$0")/.." || exit 1

run() { # name, command…
  local name=$1
  shift
  echo "== $name ($SECONDS s): $*"
  "$@" >"$out/$name" 2>"$out/$name.err" || echo "   failed ($?): $(tail -n 1 "$out/$name.err")"
}
engine() { # name, arguments…
  local name=$1
  shift
  run "$name" "$binary" bench engine --device cuda --json "$@"
}

for part in "${parts[@]}"; do
  case $part in
    check)
      nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv >"$out/device.csv" 2>&1 || true
      run fixtures-f32.txt "$binary" eval fixtures --device cuda tests/fixtures/{dream,llada,llada2_moe,llada2_moe_block_routing,lladamoe,sdar,sdar_moe}
      # Ten thousand requests: memory that is lost, and whether all repetitions wrote the same.
      engine requests.jsonl --batch 16 --prompt-tokens 64 --generate-tokens 32 --repeat 625
      run fixtures-bf16.txt "$binary" eval fixtures --device cuda --bf16 tests/fixtures/{dream,llada,llada2_moe,llada2_moe_block_routing,lladamoe,sdar,sdar_moe}
      ;;
    serve)
      for quant in q8 q4 bf16; do
        steps=8
        [ $quant = q4 ] && steps=4
        engine "chatdlm-7b-$quant.jsonl" --shape chatdlm-7b --quant $quant --batch 1,8,32,128 --prompt 1024,8192 \
          --generate-tokens 128 --tokens-per-step $steps
      done
      engine chatdlm-7b-q8-profile.jsonl --shape chatdlm-7b --quant q8 --batch 1 --prompt 1024 --tokens-per-step 8 --profile
      engine llada2-mini-q8.jsonl --shape llada2-mini --quant q8 --batch 1,8 --prompt 4096,32768 --tokens-per-step 8
      engine nano.jsonl --batch 1,8,32,128
      ;;
    long)
      engine long-q8.jsonl --shape chatdlm-7b --quant q8 --batch 1,8,32 --prompt 32768,131072 --tokens-per-step 8 --repeat 1
      engine long-q8-profile.jsonl --shape chatdlm-7b --quant q8 --batch 1 --prompt 131072 --tokens-per-step 8 --repeat 1 --profile
      ;;
    peers)
      engine peers.jsonl --shape llada-moe-7b --quant bf16 --layers 4 --batch 1 --prompt 1024 --tokens-per-step 8 \
        --against-pytorch "$(command -v python3)"
      ;;
    train)
      # The data has to be there: DATA and SERVICE are folders as the README says.
      run train.json "$binary" bench train --device cuda --data "${DATA:-data}" --service "${SERVICE:-service}" \
        --batch-tokens 65536 --pass-tokens 16384 --minutes 2 --json
      ;;
    *) echo "gpu: unknown part '$part'" >&2; exit 2 ;;
  esac
done
echo "== done in $SECONDS s; figures are in $out"
