# Functions for scripts that consist of steps, stop at a time limit, and resume. The scripts set
# `directory`. The environment variable SECONDS_AT_MOST is the time limit (default: a week).

seconds_at_most=${SECONDS_AT_MOST:-604800}
# 1 after a step that exited with 1.
failed=0

# Run a command until it ends or the time is up.
run() {
  local left=$((seconds_at_most - SECONDS)) status=75
  if ((left > 0)); then
    echo "$*" >&2
    timeout --foreground --preserve-status "$left" "$@"
    status=$?
  fi
  case $status in
    0) ;;
    # Some jobs failed or diverged. The other steps don't depend on them.
    1) failed=1 ;;
    75 | 143)
      echo "stopped, and everything is saved: run the same command again to resume" >&2
      exit 75
      ;;
    *) exit "$status" ;;
  esac
  return "$status"
}

# Run a command, unless it has succeeded before.
step() {
  grep -qsxF -- "$*" "$directory/finished" && return
  run "$@" && echo "$*" >>"$directory/finished"
}

# Run a command and write its output into a file of the directory, unless the file exists.
output() {
  local file=$directory/$1
  [[ -e $file ]] && return
  run "${@:2}" >"$file.part" && mv "$file.part" "$file"
}

machine() {
  sed -n 's/^model name.*: //p' /proc/cpuinfo 2>/dev/null | head -n 1
  echo "$(getconf _NPROCESSORS_ONLN) cores"
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null
}
