#!/usr/bin/env bash
# Measures on a GPU what docs/explanation/performance.md has of one, into files of DIRECTORY (multirun/gpu).
#
#   benchmarks/on_a_gpu.sh [DIRECTORY]
#
# The same command goes on where it was stopped; about an hour in all. What can be set:
#
#   MODEL=resnet44v2_3stage   of the runs at full length and of those side by side
#   WORDS="..."               overrides of the runs at full length
#   ROUNDS=3                  of what is compared
#   PYTHON=python             what it runs
set -uo pipefail
cd "$(dirname "$0")/.." || exit

directory=${1:-multirun/gpu}
python=${PYTHON:-python}
model=${MODEL:-resnet44v2_3stage}
rounds=${ROUNDS:-3}
read -d "" -ra words <<<"${WORDS:-}"
failed=0

# Runs a command, what it prints going to a file, unless that is there.
step() {
  local file=$directory/$1
  [[ -e $file ]] && return
  echo "${*:2}" >&2
  local status=0
  "${@:2}" >"$file.part" || status=$?
  case $status in
    0) mv "$file.part" "$file" ;;
    # Somebody stopped it, and means all of this.
    75 | 130 | 143) exit "$status" ;;
    *) failed=1 ;;
  esac
}

mkdir -p "$directory/recipe" || exit
step device.txt nvidia-smi --query-gpu=name,driver_version --format=csv
# Compiled steps, and the checkpoints beside them, do what others do.
step equality.txt "$python" -m pytest -o addopts= --all -q tests/test_compile.py tests/test_writer.py
step throughput.md "$python" -m benchmarks.throughput --device cuda --rounds "$rounds" --epochs 2
step pool.md "$python" -m benchmarks.throughput --device cuda --rounds "$rounds" --epochs 4 \
  --models "$model" --pool 1 2 4 8
step profile.md "$python" -m benchmarks.profile --device cuda --steps 50
# The log's recipe at its length: how long, and whether the accuracy stays what it is in float32.
# How steps are carried out doesn't tell two runs apart, so each way is a sweep of its own.
for way in float32/null bfloat16/null bfloat16/default bfloat16/reduce-overhead bfloat16/max-autotune; do
  place=recipe/${way/\//_}
  step "$place.txt" "$python" -m resnet_sweep --multirun hydra.sweep.dir="$directory/$place" \
    "model=$model" seed=0,1,2 trainer.device=cuda logger=csv reuse=false \
    "trainer.precision=${way%/*}" "trainer.compile=${way#*/}" ${words[@]+"${words[@]}"}
done
((failed)) || step recipe.md "$python" -m resnet_sweep runs "$directory"/recipe/*_*/ \
  --group-by precision,trainer.compile
exit "$failed"
