#!/usr/bin/env bash
# Measures speed on a GPU: the benchmarks of docs/explanation/performance.md that need one, and runs
# of the log's recipe at full length. Writes the results into DIRECTORY. Exits with 0 if everything
# has succeeded, with 1 if a part failed, and with 75 at the time limit. The same command resumes;
# only the part that was stopped is repeated, or resumed if it is a run.
#
#   benchmarks/on_a_gpu.sh [DIRECTORY]    # relative to the clone (default: multirun/gpu)
#
# Environment variables:
#
#   SECONDS_AT_MOST=540       time limit (default: a week); each part takes a few minutes
#   MODEL=resnet44v2_3stage   model of the runs
#   PROFILED="..."            models of the profiles (default: MODEL and resnet44v2)
#   COMBINATIONS="..."        precisions and compile modes of the comparison (default: all)
#   RECIPES="..."             precisions and compile modes of the runs at full length
#   POOL="2 4 8"              numbers of runs at once
#   ROUNDS=3                  rounds of the comparisons
#   OVERRIDES="..."           overrides of the runs at full length
#   DEVICE=cuda               device
#   IMAGES=50000              training images in an epoch of the comparisons
#   STEPS=50                  steps of a profile, and of the run with torchrun
#   PYTHON=python             Python interpreter
#
# A quick test on a CPU:
#   DEVICE=cpu MODEL=resnet8v2 PROFILED=resnet8v2 COMBINATIONS=float32/default RECIPES=float32/null
#     POOL=2 ROUNDS=1 IMAGES=256 STEPS=2
#     OVERRIDES="trainer.epochs=1 data.limit_train=256 data.limit_test=100" \
#     benchmarks/on_a_gpu.sh multirun/try_gpu
set -uo pipefail
cd "$(dirname "$0")/.." || exit

directory=${1:-multirun/gpu}
python=${PYTHON:-python}
device=${DEVICE:-cuda}
model=${MODEL:-resnet44v2_3stage}
images=${IMAGES:-50000}
steps=${STEPS:-50}
rounds=${ROUNDS:-3}
read -ra profiled <<<"${PROFILED:-$model resnet44v2}"
read -ra pool <<<"${POOL:-2 4 8}"
read -ra combinations <<<"${COMBINATIONS:-}"
read -ra recipes <<<"${RECIPES:-float32/null bfloat16/null bfloat16/default \
bfloat16/reduce-overhead bfloat16/max-autotune}"
read -d "" -ra overrides <<<"${OVERRIDES:-}"
source benchmarks/steps.sh

mkdir -p "$directory/recipe" || exit
machine >"$directory/device.txt"
for name in "${profiled[@]}"; do
  output "profile_$name.md" "$python" -m benchmarks.profile --device "$device" --models "$name" \
    --steps "$steps"
done
output compile_modes.md "$python" -m benchmarks.compile_modes "$directory/compile_modes" \
  --device "$device" --model "$model" --images "$images" \
  ${combinations[@]+--combinations "${combinations[@]}"}
output one_process_ddp.md "$python" -m torch.distributed.run --nproc_per_node=1 \
  -m benchmarks.one_process_ddp --device "$device" --model "$model" --steps "$steps"
for runs in "${pool[@]}"; do
  output "pool_$runs.md" "$python" -m benchmarks.throughput --device "$device" --models "$model" \
    --rounds "$rounds" --images "$images" --epochs 4 --compile null --pool "$runs"
done
# Test that compiled steps and checkpoints written by a thread give the same results.
output equality.txt "$python" -m pytest -o addopts= --all -q tests/test_compile.py \
  tests/test_async_writer.py
# Train the log's recipe at full length, to compare time and accuracy with eager float32. The compile
# mode isn't part of the signature, so each combination of precision and mode is a separate sweep.
for combination in "${recipes[@]}"; do
  sweep=$directory/recipe/${combination/\//_}
  step "$python" -m resnet_sweep --multirun "hydra.sweep.dir=$sweep" "model=$model" seed=0,1,2 \
    "trainer.device=$device" logger=csv reuse=false "trainer.precision=${combination%/*}" \
    "trainer.compile=${combination#*/}" ${overrides[@]+"${overrides[@]}"}
done
((failed)) || output recipe.md "$python" -m resnet_sweep runs "$directory"/recipe/*_*/ \
  --group-by precision,trainer.compile
output throughput.md "$python" -m benchmarks.throughput --device "$device" --models "$model" \
  --rounds "$rounds" --images "$images"
exit "$failed"
