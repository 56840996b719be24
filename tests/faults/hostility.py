"""Files that somebody made to do harm, to be loaded."""

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

WORDS = (*recipes.SMALL, "hydra.run.dir=run")
MARK = "executed"
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


class Harm:
    """A pickle that makes a file when it is loaded as Python would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def hostility(count: int, seed: int, folder: Path) -> Tally:
    """Load so many hostile checkpoints, records, configs and tables."""
    tally = Tally(
        "a checkpoint, record, config or table made to execute code, to lead out of its directory "
        "or to speak in a report"
    )
    chance = random.Random(seed)
    sound = folder / "sound"
    child.run(sound, *WORDS)
    kinds = (_checkpoint, _config, _conf_folder, _record, _report)
    for number in range(count):
        place = folder / f"{number}"
        shutil.copytree(sound, place)
        kind = kinds[number % len(kinds)]
        outcome, wrong = kind(place, chance)
        if wrong is None and list(place.parent.rglob(MARK)):
            wrong = "its code was executed"
        tally.add(outcome, wrong and f"{kind.__name__} (seed {seed}, trial {number}): {wrong}")
        shutil.rmtree(place)
    return tally


def _watched(place: Path) -> Callable[[], None]:
    """A fault that lets a child write into a place alone, and start nothing."""

    def fault() -> None:
        sandbox = Sandbox()
        sandbox.inside, sandbox.closed = [str(place)], True

        class Told(list):
            def append(self, escape: str) -> None:
                print("Traceback: reached out by", escape, file=sys.stderr)

        sandbox.escapes = Told()

    return fault


def _orderly(ended: child.Outcome) -> str | None:
    if "Traceback" in ended.output or ended.status not in (0, 1, 2):
        return f"status {ended.status}\n{ended.output}"
    return None


def _command(place: Path, *words: str) -> str | None:
    return _orderly(child.run(place, *words, fault=_watched(place)))


def _checkpoint(place: Path, chance: random.Random) -> tuple[str, str | None]:
    """Pickles in each of the forms that torch has, in the place of each checkpoint."""
    harm = Harm(place / MARK)
    for name in chance.sample([BEST, LAST, PREVIOUS], 2):
        path = place / "run" / "checkpoints" / name
        form = chance.randrange(4)
        state = {"signature": harm, "rows": [], "model": harm}
        if form == 0:
            torch.save(state | {"digest": ""}, path)
        elif form == 1:
            torch.save(state, path, _use_new_zipfile_serialization=False)
        elif form == 2:
            path.write_bytes(pickle.dumps(harm))
        else:
            # Sound as far as it goes, of a form that nobody expects.
            odd: dict[str, Any] = {"rows": 3, "model": {"a": [1]}, "signature": "x", "epoch": {}}
            torch.save(odd | {"digest": digest(odd)}, path)
    record = json.loads((place / "run" / "run.json").read_text())
    del record["digest"]
    (place / "run" / "run.json").write_text(json.dumps(record | {"state": "interrupted"}))
    wrong = _command(place, "evaluate", "run") or _command(place, *WORDS)
    return "executed nothing", wrong


def _config(place: Path, chance: random.Random) -> tuple[str, str | None]:
    """Classes that nobody trusts, named on the command line and in the record."""
    target = chance.choice(TARGETS)
    path = chance.choice(["model", "optim", "loss", "schedule", "+augmentation.odd", "+logger.odd"])
    arguments = chance.choice(
        [
            (),
            (f"+{path.lstrip('+')}._args_=[{place}/{MARK}]",),
            (f"+{path.lstrip('+')}.path={place}/{MARK}",),
        ]
    )
    plain = path.lstrip("+")
    words = [f"++{plain}._target_={target}", *arguments, "hydra.run.dir=other"]
    ended = child.run(place, *recipes.SMALL, *words, fault=_watched(place))
    wrong = None if ended.refusal else f"{target} at {path}: status {ended.status}\n{ended.output}"
    record = json.loads((place / "run" / "run.json").read_text())
    del record["digest"]
    group = chance.choice(["model", "optim", "loss"])
    record["config"][group] |= {"_target_": target, "path": f"{place}/{MARK}"}
    (place / "run" / "run.json").write_text(json.dumps(record))
    return "executed nothing", wrong or _command(place, "evaluate", "run")


def _conf_folder(place: Path, chance: random.Random) -> tuple[str, str | None]:
    """A folder of YAML files from somebody, for `--config-dir`."""
    conf = place / "conf" / "optim"
    conf.mkdir(parents=True)
    text = chance.choice(
        [
            f"_target_: torch.optim.SGD\nlr: !!python/object/apply:os.mkdir ['{place}/{MARK}']\n",
            f"!!python/object/apply:os.mkdir ['{place}/{MARK}']\n",
            f"_target_: os.mkdir\npath: {place}/{MARK}\nlr: 0.1\n",
            "a: &a [1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n",
            "_target_: torch.optim.SGD\nlr: ${oc.create:${oc.env:HOME}}\n",
            f"_target_: torch.optim.SGD\nlr: 0.1\nparams:\n  _target_: os.mkdir\n"
            f"  path: {place}/{MARK}\n",
            f"_target_: torch.optim.SGD\nlr: 0.1\nfoo:\n  _target_: os.mkdir\n"
            f"  path: {place}/{MARK}\n",
            f"_target_: torch.optim.SGD\nlr:\n  _target_: os.mkdir\n  path: {place}/{MARK}\n",
            "defaults: [/../../../../etc/passwd]\n",
            "\x00",
            "- 1\n- 2\n",
            "lr: [\n",
        ]
    )
    (conf / "mine.yaml").write_text(text)
    # A stranger's modules beside it aren't imported.
    for name in ("resnet_sweep_plugin.py", "hydra_plugins.py", "yaml.py", "torch.py"):
        (place / "conf" / name).write_text(f"import os; os.mkdir({str(place / MARK)!r})\n")
    ended = child.run(
        place,
        "--config-dir=conf",
        *recipes.SMALL,
        "optim=mine",
        "hydra.run.dir=other",
        fault=_watched(place),
    )
    return "executed nothing", None if ended.refusal else f"{text!r}: {ended.status} {ended.output}"


def _record(place: Path, chance: random.Random) -> tuple[str, str | None]:
    """Records with values of other kinds, read by all tools and gone on with."""
    path = place / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["digest"]
    odd = chance.choice(
        [None, [], {}, "x", -1, 1e308, True, [[]], {"epoch": "x"}, "../../x", 10**30]
    )
    for name in chance.sample(sorted(record), 2):
        record[name] = odd
    deep = chance.random() < 0.1
    path.write_text("[" * 10**5 if deep else json.dumps(record))
    wrong = (
        _command(place, "runs", ".")
        or _command(place, "diff", "run", "logged_run_1")
        or _command(place, "report", "run", "-o", "report.html")
        or _command(place, "evaluate", "run")
        or _command(place, *WORDS)
    )
    return "read as data, or refused", wrong and f"{odd!r}: {wrong}"


def _report(place: Path, chance: random.Random) -> tuple[str, str | None]:
    """Text that a browser or a terminal would obey, wherever text can stand."""
    path = place / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["digest"]
    said = chance.choice(SCRIPTS) + "mark"
    for name in ("reason", "host", "device", "git_commit"):
        record[name] = said
    record["choices"]["model"] = record["config"]["seed"] = said
    record["config"][said] = {said: said}
    record["overrides"] = record["notes"] = [said]
    path.write_text(json.dumps(record))
    (place / "run" / "metrics.csv").write_text(f"epoch,{said}\n1,{said}\n")
    other = place / "runs" / html.escape(said).replace("/", "|").replace("\x00", "")
    other.parent.mkdir()
    with contextlib.suppress(OSError):
        shutil.copytree(place / "run", other)
    for words in (
        ("report", "run", "runs", "-o", "report.html"),
        ("runs", ".", "--no-group"),
        ("diff", "run", "logged_run_1"),
        ("evaluate", "run"),
    ):
        ended = child.run(place, *words, fault=_watched(place))
        wrong = _orderly(ended)
        if wrong is None and ("\x1b" in ended.output or "\u202e" in ended.output):
            wrong = f"{said!r} is printed as it is"
        if wrong is not None:
            return "escaped", wrong
    page = (place / "report.html").read_text()
    if "Content-Security-Policy" not in page or "default-src 'none'" not in page:
        return "escaped", "the report has no policy"
    if any(f"{each}mark" in page for each in SCRIPTS[:3]):
        return "escaped", f"{said!r} is in the report as it is"
    return "escaped", None
