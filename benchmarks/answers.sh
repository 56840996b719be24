#!/usr/bin/env bash
# Trains the runs that docs/explanation/answers.md reports. Exits with 0 if all of them have ended,
# with 1 if some failed or diverged, and with 75 at the time limit, after saving everything. The same
# command resumes.
#
#   benchmarks/answers.sh gpu [DIRECTORY]    # the log's network and length
#   benchmarks/answers.sh cpu [DIRECTORY]    # ten hours on two cores
#   python -m benchmarks.answers DIRECTORY -o docs/explanation/answers.md
#
# DIRECTORY is relative to the clone (default: multirun/answers). Environment variables:
#
#   SECONDS_AT_MOST=540    time limit (default: a week)
#   JOBS_PER_GPU=4         number of runs that share a GPU (default: 1); gpu/lengths, which measures
#                          times, always trains one after another
#   OVERRIDES="..."        overrides of all runs
#   RECIPE="..."           overrides of the best recipe (default: benchmarks.best_recipe finds them)
#   TRIALS=30              number of trials in the study
#   PYTHON=python          Python interpreter
#
# A quick test with digits:
#   OVERRIDES="model=resnet8v2 data=digits data.limit_train=100 data.holdout=20 data.limit_test=50
#     trainer.batch_size=20 trainer.epochs=2 replicates=1" TRIALS=2 \
#     benchmarks/answers.sh cpu multirun/try
set -uo pipefail
shopt -s nullglob
cd "$(dirname "$0")/.." || exit

part=${1:-}
directory=${2:-multirun/answers}/$part
python=${PYTHON:-python}
jobs_per_gpu=${JOBS_PER_GPU:-1}
read -d "" -ra overrides <<<"${OVERRIDES:-}"
source benchmarks/steps.sh

sweep() {
  step "$python" -m resnet_sweep --multirun "hydra.sweep.dir=$directory/$1" hydra/launcher=pool \
    "hydra.launcher.jobs_per_gpu=$jobs_per_gpu" logger=csv "${@:2}" ${overrides[@]+"${overrides[@]}"}
}

# Set the overrides of the best recipe: those of RECIPE, or those that benchmarks.best_recipe chooses
# on held-out images.
choose_recipe() {
  local search=$directory/search.md chosen=${RECIPE:-}
  if [[ -z $chosen ]]; then
    if [[ ! -e $search ]]; then
      run "$python" -m benchmarks.best_recipe "$directory/search" \
        "hydra.launcher.jobs_per_gpu=$jobs_per_gpu" ${overrides[@]+"${overrides[@]}"} \
        >"$search.part" || return
      mv "$search.part" "$search"
    fi
    chosen=$(sed -n 's/^Chosen: //p' "$search")
  fi
  # If no recommendation helps, the log's recipe is the best.
  read -ra recipe <<<"${chosen:-experiment=logged_run_1}"
}

gpu() {
  if [[ -n ${RECIPE:-} ]]; then
    # The recipe is used hours later, so its errors are reported now.
    read -ra recipe <<<"$RECIPE"
    run "$python" -m resnet_sweep --multirun dry_run=true "${recipe[@]}" \
      ${overrides[@]+"${overrides[@]}"} >/dev/null
  fi
  sweep readings model=resnet44v2,resnet44v2_3stage,resnet44v2_thin replicates=3
  sweep recommended sweep=recommended replicates=3
  choose_recipe || return
  # The recipe was chosen on held-out images, and is tested once. Reused runs would be outside
  # this directory.
  sweep best "${recipe[@]}" data.holdout=5000 replicates=3 reuse=false
  for record in "$directory"/best/*/run.json; do
    # The test set is read once, so only after a run is complete.
    grep -qE '"state": "(finished|stopped_early)"' "$record" &&
      step "$python" -m resnet_sweep evaluate "${record%/*}"
  done
  sweep how_long sweep=how_long "${recipe[@]}" replicates=3
  # The log trains on all training images. Shorter runs show in which time its accuracy is reached.
  # Other runs on the same GPU would make this time longer.
  jobs_per_gpu=1 sweep lengths "${recipe[@]}" trainer.epochs=20,30,40,60,100 replicates=3
  # These are more runs than all others together.
  sweep identify sweep=identify_logged_runs
}

cpu() {
  # early_stop_85 stops after epoch 85, and these runs have ten epochs.
  sweep recommended sweep=recommended 'sweep_filter=experiment != "early_stop_85"' \
    model=resnet20v2 data.limit_train=10000 trainer.epochs=10 replicates=3
  sweep study hydra/sweeper=optuna hydra/sweeper/pruner=hyperband "hydra.sweeper.n_trials=${TRIALS:-30}" \
    hydra.sweeper.n_jobs=2 hydra.sweeper.sampler.seed=0 hydra.sweeper.enqueue=current_config \
    model=resnet20v2 data.limit_train=10000 data.holdout=2000 trainer.epochs=10 \
    'optim.lr=tag(log,interval(0.01,0.5))' 'optim.weight_decay=tag(log,interval(1e-5,5e-3))' \
    'model.dropout=interval(0.0,0.4)'
  # The schedule keeps its 100 epochs, so these are the first epochs of the log's runs. With two runs
  # at once, a run takes most of an hour.
  sweep first_epochs model=resnet44v2,resnet44v2_3stage replicates=2 trainer.early_stopping.epoch=2
}

case $part in
  cpu | gpu)
    mkdir -p "$directory" || exit
    machine >"$directory/machine.txt"
    "$part"
    exit "$failed"
    ;;
  *)
    echo "error: unknown part '$part': use benchmarks/answers.sh gpu or benchmarks/answers.sh cpu" >&2
    exit 2
    ;;
esac
