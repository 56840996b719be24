"""Malicious files, which are loaded by the commands that read such files."""

import contextlib
import html
import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from faults import child, recipes
from faults.sandbox import Sandbox
from faults.tally import Tally
from resnet_sweep.training.checkpoint import BEST, LAST, PREVIOUS, digest

ARGUMENTS = (*recipes.SMALL, "hydra.run.dir=run")
# The name of the folder that malicious code makes.
MARKER = "executed"
TARGETS = (
    "os.system",
    "builtins.eval",
    "builtins.exec",
    "subprocess.run",
    "pathlib.Path.touch",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "torch.load",
    "torch.hub.load",
    "pickle.loads",
    "resnet_sweep.runs.run.shutil.rmtree",
    "resnet_sweep.runs.provenance.subprocess.run",
    "torch.nn.modules.module.os.system",
    "torch.optim.optimizer.torch.load",
    "torchvision.models._api.sys.exit",
    "resnet_sweep.training.trainer.os.replace",
)
SCRIPTS = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "'\"><svg onload=x>",
    "javascript:alert(1)",
    "\x1b]0;title\x07",
    "\u202e",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "-->",
)


class MaliciousObject:
    """An object whose pickle makes a folder when Python's `pickle` loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def hostility(count: int, seed: int, folder: Path) -> Tally:
    """Load `count` malicious checkpoints, records, configs and tables."""
    tally = Tally(
        "a malicious checkpoint, record, config or table that tries to execute code, to write "
        "outside of its directory, or to inject a script into a report"
    )
    rng = random.Random(seed)
    clean = folder / "clean"
    child.run(clean, *ARGUMENTS)
    kinds = (_checkpoint, _config, _conf_folder, _record, _report)
    for number in range(count):
        trial = folder / f"{number}"
        shutil.copytree(clean, trial)
        kind = kinds[number % len(kinds)]
        outcome, failure = kind(trial, rng)
        if failure is None and list(trial.parent.rglob(MARKER)):
            failure = "its code was executed"
        if failure is not None:
            failure = f"{kind.__name__} (seed {seed}, trial {number}): {failure}"
        tally.add(outcome, failure)
        shutil.rmtree(trial)
    return tally


def _sandboxed(trial: Path) -> Callable[[], None]:
    """Return a fault that lets a child write into one folder only, and start no program."""

    def fault() -> None:
        # Bytecode of this program would be written outside of the folder.
        sys.dont_write_bytecode = True
        sandbox = Sandbox()
        sandbox.writable, sandbox.active = [str(trial)], True

        class PrintedViolations(list):
            def append(self, violation: str) -> None:
                # Output with the word "Traceback" makes the trial fail.
                print("Traceback: sandbox violation:", violation, file=sys.stderr)

        sandbox.violations = PrintedViolations()

    return fault


def _crash(result: child.CommandResult) -> str | None:
    """Describe a command that ended with a traceback or another unexpected status, if it did."""
    if "Traceback" in result.output or result.status not in (0, 1, 2):
        return f"status {result.status}\n{result.output}"
    return None


def _run_sandboxed(trial: Path, *arguments: str) -> str | None:
    """Run a command in a sandbox; returns the description of a crash, if any."""
    return _crash(child.run(trial, *arguments, fault=_sandboxed(trial)))


def _checkpoint(trial: Path, rng: random.Random) -> tuple[str, str | None]:
    """Replace two checkpoints by pickles in one of the formats that torch reads."""
    malicious = MaliciousObject(trial / MARKER)
    for name in rng.sample([BEST, LAST, PREVIOUS], 2):
        path = trial / "run" / "checkpoints" / name
        form = rng.randrange(4)
        state = {"signature": malicious, "rows": [], "model": malicious}
        if form == 0:
            torch.save(state | {"digest": ""}, path)
        elif form == 1:
            torch.save(state, path, _use_new_zipfile_serialization=False)
        elif form == 2:
            path.write_bytes(pickle.dumps(malicious))
        else:
            # The digest is valid, but the values have unexpected types.
            odd: dict[str, Any] = {"rows": 3, "model": {"a": [1]}, "signature": "x", "epoch": {}}
            torch.save(odd | {"digest": digest(odd)}, path)
    record = json.loads((trial / "run" / "run.json").read_text())
    del record["digest"]
    (trial / "run" / "run.json").write_text(json.dumps(record | {"state": "interrupted"}))
    failure = _run_sandboxed(trial, "evaluate", "run") or _run_sandboxed(trial, *ARGUMENTS)
    return "executed no code", failure


def _config(trial: Path, rng: random.Random) -> tuple[str, str | None]:
    """Name a class that isn't trusted, on the command line and in the record."""
    target = rng.choice(TARGETS)
    path = rng.choice(["model", "optim", "loss", "schedule", "+augmentation.odd", "+logger.odd"])
    arguments = rng.choice(
        [
            (),
            (f"+{path.lstrip('+')}._args_=[{trial}/{MARKER}]",),
            (f"+{path.lstrip('+')}.path={trial}/{MARKER}",),
        ]
    )
    overrides = [f"++{path.lstrip('+')}._target_={target}", *arguments, "hydra.run.dir=other"]
    result = child.run(trial, *recipes.SMALL, *overrides, fault=_sandboxed(trial))
    failure = None
    if not result.refusal:
        failure = f"{target} at {path}: status {result.status}\n{result.output}"
    record = json.loads((trial / "run" / "run.json").read_text())
    del record["digest"]
    group = rng.choice(["model", "optim", "loss"])
    record["config"][group] |= {"_target_": target, "path": f"{trial}/{MARKER}"}
    (trial / "run" / "run.json").write_text(json.dumps(record))
    return "executed no code", failure or _run_sandboxed(trial, "evaluate", "run")


def _conf_folder(trial: Path, rng: random.Random) -> tuple[str, str | None]:
    """Pass a malicious folder of YAML files as `--config-dir`."""
    conf = trial / "conf" / "optim"
    conf.mkdir(parents=True)
    text = rng.choice(
        [
            f"_target_: torch.optim.SGD\nlr: !!python/object/apply:os.mkdir ['{trial}/{MARKER}']\n",
            f"!!python/object/apply:os.mkdir ['{trial}/{MARKER}']\n",
            f"_target_: os.mkdir\npath: {trial}/{MARKER}\nlr: 0.1\n",
            "a: &a [1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n",
            "_target_: torch.optim.SGD\nlr: ${oc.create:${oc.env:HOME}}\n",
            f"_target_: torch.optim.SGD\nlr: 0.1\nparams:\n  _target_: os.mkdir\n"
            f"  path: {trial}/{MARKER}\n",
            f"_target_: torch.optim.SGD\nlr: 0.1\nfoo:\n  _target_: os.mkdir\n"
            f"  path: {trial}/{MARKER}\n",
            f"_target_: torch.optim.SGD\nlr:\n  _target_: os.mkdir\n  path: {trial}/{MARKER}\n",
            "defaults: [/../../../../etc/passwd]\n",
            "\x00",
            "- 1\n- 2\n",
            "lr: [\n",
        ]
    )
    (conf / "mine.yaml").write_text(text)
    # Modules in the folder must not be imported.
    for name in ("resnet_sweep_plugin.py", "hydra_plugins.py", "yaml.py", "torch.py"):
        (trial / "conf" / name).write_text(f"import os; os.mkdir({str(trial / MARKER)!r})\n")
    result = child.run(
        trial,
        "--config-dir=conf",
        *recipes.SMALL,
        "optim=mine",
        "hydra.run.dir=other",
        fault=_sandboxed(trial),
    )
    failure = None if result.refusal else f"{text!r}: {result.status} {result.output}"
    return "executed no code", failure


def _record(trial: Path, rng: random.Random) -> tuple[str, str | None]:
    """Write values of unexpected types into the record, and run all commands that read it."""
    path = trial / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["digest"]
    odd = rng.choice([None, [], {}, "x", -1, 1e308, True, [[]], {"epoch": "x"}, "../../x", 10**30])
    for name in rng.sample(sorted(record), 2):
        record[name] = odd
    deep = rng.random() < 0.1
    path.write_text("[" * 10**5 if deep else json.dumps(record))
    failure = (
        _run_sandboxed(trial, "runs", ".")
        or _run_sandboxed(trial, "diff", "run", "logged_run_1")
        or _run_sandboxed(trial, "report", "run", "-o", "report.html")
        or _run_sandboxed(trial, "evaluate", "run")
        or _run_sandboxed(trial, *ARGUMENTS)
    )
    return "read as data or refused", failure and f"{odd!r}: {failure}"


def _report(trial: Path, rng: random.Random) -> tuple[str, str | None]:
    """Write scripts and terminal escapes into each text that a report or a command shows."""
    path = trial / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["digest"]
    text = rng.choice(SCRIPTS) + "mark"
    for name in ("reason", "host", "device", "git_commit"):
        record[name] = text
    record["choices"]["model"] = record["config"]["seed"] = text
    record["config"][text] = {text: text}
    record["overrides"] = record["notes"] = [text]
    path.write_text(json.dumps(record))
    (trial / "run" / "metrics.csv").write_text(f"epoch,{text}\n1,{text}\n")
    other = trial / "runs" / html.escape(text).replace("/", "|").replace("\x00", "")
    other.parent.mkdir()
    with contextlib.suppress(OSError):
        shutil.copytree(trial / "run", other)
    for arguments in (
        ("report", "run", "runs", "-o", "report.html"),
        ("runs", ".", "--no-group"),
        ("diff", "run", "logged_run_1"),
        ("evaluate", "run"),
    ):
        result = child.run(trial, *arguments, fault=_sandboxed(trial))
        failure = _crash(result)
        if failure is None and ("\x1b" in result.output or "\u202e" in result.output):
            failure = f"{text!r} is printed without escaping"
        if failure is not None:
            return "", failure
    page = (trial / "report.html").read_text()
    if "Content-Security-Policy" not in page or "default-src 'none'" not in page:
        return "", "the report has no content security policy"
    if any(f"{script}mark" in page for script in SCRIPTS[:3]):
        return "", f"{text!r} is in the report without escaping"
    return "shown as escaped text", None
