#!/usr/bin/env bash
# Trains what docs/explanation/answers.md tells of. Exits with 0 when all is there, and with 75 when its time is
# up, with everything saved: the same command goes on.
#
#   benchmarks/answers.sh gpu [DIRECTORY]    # the log's network and length
#   benchmarks/answers.sh cpu [DIRECTORY]    # what two cores can do in ten hours
#   python -m benchmarks.answers DIRECTORY -o docs/explanation/answers.md
#
# DIRECTORY (multirun/answers) starts from the clone, and is gone on with. What can be set:
#
#   SECONDS_AT_MOST=570    how long it may take; the default is a week
#   WORDS="..."            overrides of all runs, such as hydra.launcher.jobs_per_gpu=2 (which makes
#                          each run slower, and so the times of gpu/lengths longer)
#   RECIPE="..."           overrides that make the best recipe, instead of a search for them
#   TRIALS=30              of the study
#   PYTHON=python          what it runs
#
# All of it in small, with digits, to see that it works:
#   WORDS="model=resnet8v2 data=digits data.limit_train=100 data.holdout=20 data.limit_test=50
#     trainer.batch_size=20 trainer.epochs=2 replicates=1" TRIALS=2 benchmarks/answers.sh cpu multirun/try
set -uo pipefail
shopt -s nullglob
cd "$(dirname "$0")/.." || exit

part=${1:-}
directory=${2:-multirun/answers}/$part
python=${PYTHON:-python}
seconds_at_most=${SECONDS_AT_MOST:-604800}
read -d "" -ra words <<<"${WORDS:-}"
failed=0

# Runs a command, unless it has come to its end before.
step() {
  grep -qsxF -- "$*" "$directory/finished" && return
  run "$@" && echo "$*" >>"$directory/finished"
}

# Runs a command; what it hasn't time for is left for later.
run() {
  local left=$((seconds_at_most - SECONDS)) status=75
  if ((left > 0)); then
    echo "$*" >&2
    timeout --foreground --preserve-status "$left" "$@"
    status=$?
  fi
  case $status in
    0) ;;
    # Jobs failed or diverged, as their sweep has told: the other steps can do without them.
    1) failed=1 ;;
    75 | 143)
      echo "the time is up, and all is saved: start this again to go on" >&2
      exit 75
      ;;
    *) exit "$status" ;;
  esac
  return "$status"
}

sweep() {
  step "$python" -m resnet_sweep --multirun "hydra.sweep.dir=$directory/$1" hydra/launcher=pool \
    logger=csv "${@:2}" ${words[@]+"${words[@]}"}
}

# Words that make the best recipe: known ones, or else those which a search among the log's
# recommendations chooses, by images that are held out.
choose_recipe() {
  local found=$directory/search.md chosen=${RECIPE:-}
  if [[ -z $chosen ]]; then
    if [[ ! -e $found ]]; then
      run "$python" -m benchmarks.best_recipe "$directory/search" ${words[@]+"${words[@]}"} \
        >"$found.part" || return
      mv "$found.part" "$found"
    fi
    chosen=$(sed -n 's/^Chosen: //p' "$found")
  fi
  # Where nothing helps, the log's recipe is the best that is known.
  read -ra recipe <<<"${chosen:-experiment=logged_run_1}"
}

gpu() {
  if [[ -n ${RECIPE:-} ]]; then
    # Its turn comes hours later, and what is wrong with it is told now.
    read -ra recipe <<<"$RECIPE"
    run "$python" -m resnet_sweep --multirun dry_run=true "${recipe[@]}" \
      ${words[@]+"${words[@]}"} >/dev/null
  fi
  sweep readings model=resnet44v2,resnet44v2_3stage replicates=3
  sweep identify sweep=identify_logged_runs
  sweep recommended sweep=recommended replicates=3
  choose_recipe || return
  # Chosen by what is held out, and then tested once. Each has to be a run of its own here.
  sweep best "${recipe[@]}" data.holdout=5000 replicates=3 reuse=false
  for record in "$directory"/best/*/run.json; do
    # The test set is read once: of a run that is still to go on, not yet.
    grep -qE '"state": "(finished|stopped_early)"' "$record" &&
      step "$python" -m resnet_sweep evaluate "${record%/*}"
  done
  # As the log has it, on all training images, and in less time.
  sweep lengths "${recipe[@]}" trainer.epochs=20,30,40,60,100 replicates=3
}

cpu() {
  # Ten epochs have no 85th to stop after.
  sweep recommended sweep=recommended 'sweep_filter=experiment != "early_stop_85"' \
    model=resnet20v2 data.limit_train=10000 trainer.epochs=10 replicates=3
  sweep study hydra/sweeper=optuna hydra/sweeper/pruner=hyperband "hydra.sweeper.n_trials=${TRIALS:-30}" \
    hydra.sweeper.n_jobs=2 hydra.sweeper.sampler.seed=0 hydra.sweeper.enqueue=current_config \
    model=resnet20v2 data.limit_train=10000 data.holdout=2000 trainer.epochs=10 \
    'optim.lr=tag(log,interval(0.01,0.5))' 'optim.weight_decay=tag(log,interval(1e-5,5e-3))' \
    'model.dropout=interval(0.0,0.4)'
  # The schedule keeps its 100 epochs, so that these are the log's first ones. One of two runs side
  # by side takes most of an hour.
  sweep first_epochs model=resnet44v2,resnet44v2_3stage replicates=2 trainer.early_stopping.epoch=2
}

machine() {
  sed -n 's/^model name.*: //p' /proc/cpuinfo 2>/dev/null | head -n 1
  echo "$(getconf _NPROCESSORS_ONLN) cores"
  nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null
}

case $part in
  cpu | gpu)
    mkdir -p "$directory" || exit
    machine >"$directory/machine.txt"
    "$part"
    exit "$failed"
    ;;
  *)
    echo "error: say benchmarks/answers.sh gpu or benchmarks/answers.sh cpu, not '$part'" >&2
    exit 2
    ;;
esac
