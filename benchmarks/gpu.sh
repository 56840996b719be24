#!/usr/bin/env bash
# Runs the benchmarks of docs/explanation/performance.md on a GPU, and writes the results into
# DIRECTORY (default: multirun/gpu). This takes about an hour. The same command resumes.
#
#   benchmarks/gpu.sh [DIRECTORY]
#
# Environment variables:
#
#   MODEL=resnet44v2_3stage   model of the runs at full length and of the runs side by side
#   OVERRIDES="..."           overrides of the runs at full length
#   ROUNDS=3                  rounds of the comparisons
#   PYTHON=python             Python interpreter
set -uo pipefail
cd "$(dirname "$0")/.." || exit

directory=${1:-multirun/gpu}
python=${PYTHON:-python}
model=${MODEL:-resnet44v2_3stage}
rounds=${ROUNDS:-3}
read -d "" -ra overrides <<<"${OVERRIDES:-}"
failed=0

# Run a command and write its output into a file, unless the file exists.
step() {
  local file=$directory/$1
  [[ -e $file ]] && return
  echo "${*:2}" >&2
  local status=0
  "${@:2}" >"$file.part" || status=$?
  case $status in
    0) mv "$file.part" "$file" ;;
    # The command was interrupted, so the script stops too.
    75 | 130 | 143) exit "$status" ;;
    *) failed=1 ;;
  esac
}

mkdir -p "$directory/recipe" || exit
step device.txt nvidia-smi --query-gpu=name,driver_version --format=csv
# Test that compiled steps and checkpoints written by a thread give the same results.
step equality.txt "$python" -m pytest -o addopts= --all -q tests/test_compile.py tests/test_async_writer.py
step throughput.md "$python" -m benchmarks.throughput --device cuda --rounds "$rounds" --epochs 2
step pool.md "$python" -m benchmarks.throughput --device cuda --rounds "$rounds" --epochs 4 \
  --models "$model" --pool 1 2 4 8
step profile.md "$python" -m benchmarks.profile --device cuda --steps 50
# Train the log's recipe at full length, to compare time and accuracy with eager float32. The compile
# mode isn't part of the signature, so each combination of precision and mode is a separate sweep.
for combination in float32/null bfloat16/null bfloat16/default bfloat16/reduce-overhead bfloat16/max-autotune; do
  sweep=recipe/${combination/\//_}
  step "$sweep.txt" "$python" -m resnet_sweep --multirun hydra.sweep.dir="$directory/$sweep" \
    "model=$model" seed=0,1,2 trainer.device=cuda logger=csv reuse=false \
    "trainer.precision=${combination%/*}" "trainer.compile=${combination#*/}" ${overrides[@]+"${overrides[@]}"}
done
((failed)) || step recipe.md "$python" -m resnet_sweep runs "$directory"/recipe/*_*/ \
  --group-by precision,trainer.compile
exit "$failed"
