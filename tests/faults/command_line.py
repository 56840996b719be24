"""Generated command lines, which run until a training would start."""

import io
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from faults import child
from faults.arguments import UNKNOWN, Argument, Generator
from faults.recipes import SMALL
from faults.sandbox import Sandbox
from faults.tally import Tally
from resnet_sweep import jobs, single_run
from resnet_sweep.errors import RunFailed
from resnet_sweep.runs.signature import flatten

# A trial that takes longer counts as hanging.
LIMIT_SECONDS = 30
TRIALS_PER_CHILD = 500
# With these flags a command prints information instead of training.
INFORMATION_FLAGS = (
    "--cfg",
    "-c",
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
)


def command_line(count: int, seed: int, folder: Path) -> Tally:
    """Run `count` generated command lines, each of which must be refused or do what it says."""
    tally = Tally(
        "a generated command line: settings with arbitrary values, Hydra's override grammar, "
        "mutated overrides"
    )
    generator = Generator(seed)
    trials = [generator.arguments() for _ in range(count)]
    number = 0
    while number < count:
        # A child runs many trials. If a trial ends it, another child runs the rest.
        report = folder / f"report{number}"
        first = number
        process = child.Child(
            folder / "output",
            fault=lambda first=first, report=report: _run_trials(trials, first, report, folder),
        )
        lines = _read_report(process, report)
        for line in lines:
            outcome, failure = json.loads(line)
            tally.add(outcome, failure and f"seed {seed}, line {number}: {failure}")
            number += 1
        if number < count and len(lines) < TRIALS_PER_CHILD:
            texts = [argument.text for argument in trials[number]]
            tally.add("", f"seed {seed}, line {number}: {texts!r:.300} hangs or ends the process")
            number += 1
    return tally


def _read_report(process: child.Child, report: Path) -> list[str]:
    """Wait until a child ends, kill it if it hangs, and return the lines of its report."""
    reported, last_change = 0, time.monotonic()
    while os.waitpid(process.process, os.WNOHANG) == (0, 0):
        size = report.stat().st_size if report.exists() else 0
        if size > reported:
            reported, last_change = size, time.monotonic()
        elif time.monotonic() - last_change > LIMIT_SECONDS:
            process.send(signal.SIGKILL)
        time.sleep(0.05)
    return report.read_text().splitlines() if report.exists() else []


def _run_trials(trials: list[list[Argument]], first: int, report: Path, folder: Path) -> None:
    """Run trials from number `first` on, write a line for each to the report, and exit."""
    sys.dont_write_bytecode = True
    sandbox = Sandbox()
    with report.open("w") as file:
        for number in range(first, min(first + TRIALS_PER_CHILD, len(trials))):
            trial = folder / f"{number}"
            trial.mkdir()
            try:
                result = _run_trial(trials[number], trial, sandbox)
            except Exception:
                result = ("", traceback.format_exc())
            finally:
                sandbox.active = False
            os.chdir(folder)
            shutil.rmtree(trial, ignore_errors=True)
            file.write(json.dumps(result) + "\n")
            file.flush()
    os._exit(0)


def _run_trial(arguments: list[Argument], trial: Path, sandbox: Sandbox) -> tuple[str, str | None]:
    """Run a command line in its own folder; returns the outcome and a failure, if any."""
    started: list[Any] = []

    def train(planned, run, *_args, **_kwargs) -> None:
        """Record the run and end it, in place of the training."""
        started.append((planned, run.directory))
        logging.getLogger("resnet_sweep").warning("started")
        if (run.directory.parent / "sweep.json").exists():
            # A sweep would launch an interrupted job again.
            run.close("failed")
            raise RunFailed("the run started")
        run.close("interrupted")

    jobs.train = single_run.train = train
    environment = dict(os.environ)
    os.environ["RESNET_SWEEP_DATA"] = str(trial / "data")
    folder = trial / "a" / "b"
    folder.mkdir(parents=True)
    os.chdir(folder)
    _reset_logging()
    texts = [argument.text for argument in arguments]
    sys.argv = ["resnet_sweep", *SMALL, *texts]
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    sandbox.writable, sandbox.violations, sandbox.active = [str(trial)], [], True
    try:
        warnings.simplefilter("ignore")
        child.command_line.main()
        status: Any = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        status = traceback.format_exc()
    finally:
        sandbox.active = False
        output, errors = sys.stdout.getvalue(), sys.stderr.getvalue()
        sys.stdout, sys.stderr = streams
        os.environ.clear()
        os.environ.update(environment)
    files = [path for path in trial.rglob("*") if path != folder and path != folder.parent]
    outcome, failure = "", None
    if "Traceback" in output + errors or not isinstance(status, int):
        failure = f"status {status}\n{output[-1000:]}{errors[-3000:]}"
    # An override of Hydra may name a directory outside the folder. The sandbox blocks it, and the
    # command has to refuse it.
    elif sandbox.violations and (status != 2 or not any("hydra" in text for text in texts)):
        failure = f"blocked by the sandbox: {sandbox.violations}"
    elif any(text.startswith(INFORMATION_FLAGS) for text in texts) and status in (0, 2):
        outcome = "answered a help or information flag"
    elif status == 2 and errors.startswith("usage:") and not files:
        outcome = "refused with a usage message"
    elif status == 0 and any("dry_run" in text for text in texts) and not (started or files):
        outcome = "completed a dry run"
    elif _failed_by_hydra(status, texts, errors, files):
        outcome = "failed with one error message because of a setting of Hydra"
    elif status == 2:
        outcome = "refused with one error message"
        failure = _refusal_failure(output, errors, files)
    elif (folder / "multirun").is_dir():
        outcome = "started a sweep"
    elif status != 0 or len(started) != 1:
        failure = f"status {status}, {len(started)} runs\n{output[-500:]}{errors[-1000:]}"
    else:
        outcome = "started with the given settings"
        planned, directory = started[0]
        outside = [
            path for path in files if not path.is_dir() and not path.is_relative_to(directory)
        ]
        # These settings may put the log file anywhere.
        if outside and not any("hydra.job_logging" in text for text in texts):
            failure = f"it wrote {outside}, outside of {directory}"
        else:
            failure = _wrong_setting(arguments, planned)
    return outcome, failure and f"{texts!r:.400}: {failure}"


def _failed_by_hydra(status: int, texts: list[str], errors: str, files: list[Path]) -> bool:
    """Return whether a command failed with one line because of an override of Hydra's settings.

    Users may replace any part of Hydra, so such a command needn't be refused.
    """
    if status != 1 or not any("hydra" in text for text in texts) or errors.count("\n") != 1:
        return False
    states = [json.loads(path.read_text())["state"] for path in files if path.name == "run.json"]
    return not files or states == ["failed"]


def _refusal_failure(output: str, errors: str, files: list[Path]) -> str | None:
    """Describe what is wrong with how a command was refused, if anything."""
    if files:
        return f"refused, but left {files}"
    # The error of a sweep lists its invalid jobs.
    several = re.match(r"error: \d+ of \d+ ", errors) and "Traceback" not in errors
    if (errors.count("\n") != 1 and not several) or not errors.startswith("error: ") or output:
        return f"refused with {output + errors!r:.2000}"
    if len(errors) > 1500 and not several:
        return f"refused with {len(errors)} characters, {errors!r:.100}"
    return None


def _wrong_setting(arguments: list[Argument], planned: Any) -> str | None:
    """Describe a setting whose value in the run isn't the given one, if any."""
    settings = dict(flatten(planned.config))
    keys = [argument.text.lstrip("+~").partition("=")[0] for argument in arguments]
    for number, argument in enumerate(arguments):
        key = keys[number]
        if key in keys[number + 1 :] or key.startswith(("hydra", "-")):
            continue
        expected = argument.value
        if expected is UNKNOWN:
            override = OverridesParser.create().parse_override(argument.text)
            if override.is_delete() or override.is_sweep_override():
                continue
            expected = override.value()
        actual = settings.get(key, UNKNOWN)
        # The value is the name of a group's choice, which stands for many settings, or an empty
        # list of choices, which composes an empty group.
        if isinstance(actual, dict) and (isinstance(expected, str) or expected == []):
            continue
        if actual is UNKNOWN or (isinstance(expected, str) and "${" in expected):
            continue
        if OmegaConf.is_config(expected):
            expected = OmegaConf.to_container(expected)
        if repr(_plain(actual)) != repr(_plain(expected)):
            return f"{key} is {actual!r:.100} instead of {expected!r:.100}"
        group, _, name = key.partition(".")
        if group == "trainer" and name in ("epochs", "batch_size", "max_steps", "ema_decay"):
            value = getattr(planned.settings, name)
            if value != expected:
                return f"{key} is {value} in the trainer's config"
    return None


def _plain(value: Any) -> Any:
    """Convert containers and quoted strings of Hydra and OmegaConf to Python's."""
    if isinstance(value, (DictConfig, dict)):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return getattr(value, "text", value)


def _reset_logging() -> None:
    """Remove the logging configuration of the previous command line."""
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)
