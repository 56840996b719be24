"""Command lines of all sorts, up to where training would begin."""

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
from faults.recipes import SMALL
from faults.sandbox import Sandbox
from faults.tally import Tally
from faults.words import UNKNOWN, Generator, Word
from resnet_sweep import jobs, single_run
from resnet_sweep.errors import RunFailed
from resnet_sweep.runs.signature import flatten

# A trial that takes longer hangs.
LIMIT_SECONDS = 30
# What is printed in answer to these isn't one line.
QUESTIONS = (
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
    """Type so many command lines, and see that each is done right or refused."""
    tally = Tally(
        "a command line of generated words: settings of all values, Hydra's grammar, mutations"
    )
    generator = Generator(seed)
    trials = [generator.words() for _ in range(count)]
    number = 0
    while number < count:
        # A child of many trials; the one in which it dies is its last.
        report = folder / f"report{number}"
        first = number
        process = child.Child(
            folder / "printed",
            fault=lambda first=first, report=report: _type_all(trials, first, report, folder),
        )
        lines = _follow(process, report)
        for line in lines:
            outcome, wrong = json.loads(line)
            tally.add(outcome, wrong and f"seed {seed}, line {number}: {wrong}")
            number += 1
        if number < count and len(lines) < 500:
            words = [word.text for word in trials[number]]
            tally.add("", f"seed {seed}, line {number}: {words!r:.300} hangs, or ends the process")
            number += 1
    return tally


def _follow(process: child.Child, report: Path) -> list[str]:
    """What a child reports before it ends, or is ended since it says nothing more."""
    seen, since = 0, time.monotonic()
    while os.waitpid(process.process, os.WNOHANG) == (0, 0):
        size = report.stat().st_size if report.exists() else 0
        if size > seen:
            seen, since = size, time.monotonic()
        elif time.monotonic() - since > LIMIT_SECONDS:
            process.send(signal.SIGKILL)
        time.sleep(0.05)
    return report.read_text().splitlines() if report.exists() else []


def _type_all(trials: list[list[Word]], first: int, report: Path, folder: Path) -> None:
    sys.dont_write_bytecode = True
    sandbox = Sandbox()
    with report.open("w") as file:
        for number in range(first, min(first + 500, len(trials))):
            place = folder / f"{number}"
            place.mkdir()
            try:
                found = _type(trials[number], place, sandbox)
            except Exception:
                found = ("", traceback.format_exc())
            finally:
                sandbox.closed = False
            os.chdir(folder)
            shutil.rmtree(place, ignore_errors=True)
            file.write(json.dumps(found) + "\n")
            file.flush()
    os._exit(0)


def _type(words: list[Word], place: Path, sandbox: Sandbox) -> tuple[str, str | None]:
    """Type a line in a folder of its own: what came of it, and what is wrong with that."""
    started: list[Any] = []

    def begin(planned, run, *_args, **_kwargs) -> None:
        started.append((planned, run.directory))
        logging.getLogger("resnet_sweep").warning("begun")
        if "--multirun" in sys.argv:
            # A sweep launches again what was interrupted.
            run.close("failed")
            raise RunFailed("it began")
        run.close("interrupted")

    jobs.train = single_run.train = begin
    environment = dict(os.environ)
    os.environ["RESNET_SWEEP_DATA"] = str(place / "data")
    folder = place / "a" / "b"
    folder.mkdir(parents=True)
    os.chdir(folder)
    _forget_logging()
    texts = [word.text for word in words]
    sys.argv = ["resnet_sweep", *SMALL, *texts]
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    sandbox.inside, sandbox.escapes, sandbox.closed = [str(place)], [], True
    try:
        warnings.simplefilter("ignore")
        child.command_line.main()
        status: Any = 0
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        status = traceback.format_exc()
    finally:
        sandbox.closed = False
        output, errors = sys.stdout.getvalue(), sys.stderr.getvalue()
        sys.stdout, sys.stderr = streams
        os.environ.clear()
        os.environ.update(environment)
    told = f"{texts!r:.400}: "
    left = [path for path in place.rglob("*") if path != folder and path != folder.parent]
    if "Traceback" in output + errors or not isinstance(status, int):
        return "", f"{told}status {status}\n{output[-1000:]}{errors[-3000:]}"
    # A directory that was typed may be anywhere; it is only not made here.
    if sandbox.escapes and (status != 2 or not any("hydra" in text for text in texts)):
        return "", f"{told}it reaches for {sandbox.escapes}"
    if any(text.startswith(QUESTIONS) for text in texts) and status in (0, 2):
        return "answered a question about the command", None
    if status == 2 and errors.startswith("usage:") and not left:
        return "refused as no flag of the command", None
    if status == 0 and any("dry_run" in text for text in texts) and not (started or left):
        return "started nothing in a dry run", None
    if status == 1 and any("hydra" in text for text in texts) and errors.count("\n") == 1:
        # Hydra's own parts are the user's to take apart.
        states = [json.loads(path.read_text())["state"] for path in place.rglob("run.json")]
        if not left or states == ["failed"]:
            return "failed with one sentence, by a part of Hydra that isn't one", None
    if status == 2:
        if left:
            return "", f"{told}refused, but left {left}"
        # Of a sweep, each of its wrong jobs is told.
        several = re.match(r"error: \d+ of \d+ ", errors) and "Traceback" not in errors
        if (errors.count("\n") != 1 and not several) or not errors.startswith("error: ") or output:
            return "", f"{told}refused with {output + errors!r:.2000}"
        if len(errors) > 1500 and not several:
            return "", f"{told}refused with {len(errors)} characters, {errors!r:.100}"
        return "refused with one sentence", None
    if (folder / "multirun").is_dir():
        return "told as a sweep of several", None
    if status != 0 or len(started) != 1:
        return "", f"{told}status {status}, {len(started)} runs\n{output[-500:]}{errors[-1000:]}"
    prepared, directory = started[0]
    outside = [path for path in left if not path.is_dir() and not path.is_relative_to(directory)]
    # The log file goes where it was typed.
    if outside and not any("hydra.job_logging" in text for text in texts):
        return "", f"{told}it wrote {outside}, outside of {directory}"
    wrong = _misunderstood(words, prepared)
    return "started right", wrong and told + wrong


def _misunderstood(words: list[Word], prepared: Any) -> str | None:
    """A setting that the run has another value of than was typed; None if there is none."""
    settings = dict(flatten(prepared.config))
    keys = [word.text.lstrip("+~").partition("=")[0] for word in words]
    for number, word in enumerate(words):
        key = keys[number]
        if key in keys[number + 1 :] or key.startswith(("hydra", "-")):
            continue
        expected = word.value
        if expected is UNKNOWN:
            override = OverridesParser.create().parse_override(word.text)
            if override.is_delete() or override.is_sweep_override():
                continue
            expected = override.value()
        found = settings.get(key, UNKNOWN)
        # What a group's choice stands for isn't typed.
        if isinstance(found, dict) and isinstance(expected, str):
            continue
        if found is UNKNOWN or (isinstance(expected, str) and "${" in expected):
            continue
        if OmegaConf.is_config(expected):
            expected = OmegaConf.to_container(expected)
        if repr(_plain(found)) != repr(_plain(expected)):
            return f"{key} is {found!r:.100} where {expected!r:.100} was typed"
        group, _, name = key.partition(".")
        if group == "trainer" and name in ("epochs", "batch_size", "max_steps", "ema_decay"):
            built = getattr(prepared.settings, name)
            if built != expected:
                return f"{key} came out as {built}"
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, (DictConfig, dict)):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return getattr(value, "text", value)


def _forget_logging() -> None:
    """Undo what a command line before this one made of logging."""
    logging.root.handlers.clear()
    logging.root.setLevel(logging.WARNING)
    logging.disable(logging.NOTSET)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.setLevel(logging.NOTSET)
