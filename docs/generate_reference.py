"""Write the generated parts of docs/reference/settings.md and docs/reference/commands.md.

    python docs/generate_reference.py

settings.md comes from the comments and values in conf/. In commands.md, the text between two
markers is generated from the arguments of a subcommand, and the rest is written by hand.
"""

import argparse
import itertools
import json
import pkgutil
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from resnet_sweep.config.check import (
    EXTRA_SETTINGS,
    LIBRARY_PARAMETERS,
    SETTINGS,
    describe_type,
    parameters,
)
from resnet_sweep.studies.plan import SETTINGS as SWEEPER_SETTINGS

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
REFERENCE = ROOT / "docs" / "reference"
GROUPS = {
    "model": "The network.",
    "data": "The images.",
    "optim": "The optimizer and its learning rate.",
    "schedule": "The learning rate during the run.",
    "augmentation": "The operations on the images of a training batch.",
    "loss": "The function that training minimizes.",
    "metric": "Metrics of the validation images, besides the loss and the accuracy: see\n"
    "[Add metrics](../how-to/metrics.md).",
    "trainer": "The length of a run, the batch size, and the device.",
    "logger": "Where metrics are logged in addition to `metrics.csv`.",
    "experiment": 'Presets of a run. A preset sets values of other groups. Those that quote "the '
    'log" carry out\na recommendation of the training log that this project starts from: see\n'
    "[Experiments and sweeps](experiments.md).",
    "debug": "Presets that shorten a run to find mistakes.",
    "sweep": "Presets of a sweep. A preset sets what varies, and what the runs are ranked by.",
    "hydra/sweeper": "How `--multirun` chooses the jobs of a sweep. Hydra's own sweepers are "
    "refused.",
    "hydra/sweeper/pruner": "Which trials `hydra/sweeper=optuna` ends early.",
    "hydra/launcher": "Where the jobs of a sweep, or the workers of a study, run.",
}
PRESETS = ("experiment", "debug", "sweep")
# Other choices of a group, which have no file in conf/: what they are, by name.
PLUGINS = {
    "hydra/launcher": {
        "basic": "One job after another, in the process of the command. The workers of a study are "
        "processes on\nthis machine. This is the default.",
        "joblib": "Several jobs at once on this machine, through a plugin of Hydra. Needs\n"
        "`pip install 'resnet-sweep[joblib]'`.",
        "submitit_local": "Several jobs at once on this machine, through submitit. Needs\n"
        "`pip install 'resnet-sweep[slurm]'`.",
        "submitit_slurm": "Jobs on a SLURM cluster, with the default settings of Hydra's plugin. "
        "`hydra/launcher=slurm` has\ndefault settings for this program.",
    },
}
SAMPLERS = {
    "tpe": ("TPESampler", "tree-structured Parzen estimator; the default"),
    "random": ("RandomSampler", "independent random values"),
    "cmaes": ("CmaEsSampler", "CMA-ES; needs `pip install cmaes`"),
    "gp": ("GPSampler", "Gaussian process"),
    "qmc": ("QMCSampler", "quasi-random sequence"),
    "grid": ("GridSampler", "every combination; needs lists of values, or ranges with a step"),
    "nsgaii": ("NSGAIISampler", "genetic algorithm for several objectives"),
    "nsgaiii": ("NSGAIIISampler", "genetic algorithm for many objectives"),
}
OPTUNA = "https://optuna.readthedocs.io/en/stable/reference"
INTRODUCTION = """\
# Settings

<!-- Generated from conf/ by docs/generate_reference.py: change the comments there. -->

Each setting of a run and of a sweep, with its default. `GROUP=CHOICE` chooses a file of `conf/`,
and `NAME=VALUE` sets a value: `optim=adamw optim.lr=0.002`. `+NAME=VALUE` adds an argument of the
class that the file doesn't list, and `~NAME` removes one.
`python -m resnet_sweep --cfg job OVERRIDE...` prints the composed config.

The column *allowed* lists the values that are accepted. Any other value is refused before anything
is written. Where the column is empty, only the class or the library that gets the value checks it.
"""
PARTS = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings() -> str:
    """Return the page on all settings."""
    head = CONF / "config.yaml"
    chosen = {
        group: choice
        for entry in yaml.safe_load(head.read_text(encoding="utf-8"))["defaults"]
        if isinstance(entry, dict)
        for group, choice in entry.items()
    }
    chosen["hydra/sweeper"], chosen["hydra/launcher"] = "grid", "basic"
    lines = [INTRODUCTION, "| group | choices | default |", "|---|---|---|"]
    for group in GROUPS:
        names = [*(path.stem for path in files(group)), *PLUGINS.get(group, ())]
        links = ", ".join(f"[`{name}`](#{anchor(group, name)})" for name in names)
        default = chosen.get(group)
        lines.append(f"| `{group}` | {links} | {'' if default is None else f'`{default}`'} |")
    lines += ["", "## Settings without a group", "", *table("", head, SETTINGS), ""]
    for group, text in GROUPS.items():
        lines += [f"## {group}", "", text, ""]
        for path in files(group):
            lines += [f"### {group}={path.stem}", "", *choice(group, path)]
        for name, text in PLUGINS.get(group, {}).items():
            lines += [f"### {group}={name}", "", text, ""]
        if group == "hydra/sweeper":
            lines += samplers()
    return "\n".join(lines).rstrip() + "\n"


def files(group: str) -> list[Path]:
    """Return the files of a group, by name."""
    return sorted((CONF / group).glob("*.yaml"))


def anchor(group: str, name: str) -> str:
    """Return the anchor of the heading of a choice, as GitHub and MyST make it."""
    return re.sub(r"[^\w-]", "", f"{group}{name}".lower())


def choice(group: str, path: Path) -> Iterator[str]:
    """Yield the lines on a choice: its head comment, and its keys."""
    yield from head_comment(path)
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for parent in content.get("defaults", ()):
        file = CONF / group / f"{parent}.yaml"
        if file.exists():
            yield from (f"It has all settings of [{parent}](#{anchor(group, parent)}), and:", "")
            inherited = yaml.safe_load(file.read_text(encoding="utf-8"))
            content = {**inherited, **content}
    if group in PRESETS:
        yield from preset(path, content)
        return
    target = content.get("_target_")
    if target:
        yield from (f"Class: `{target}`", "")
    prefix = {"hydra/sweeper/pruner": "hydra.sweeper.pruner"}.get(group, group.replace("/", "."))
    lines = table(f"{prefix}.", path, allowed_of(group, content))
    if len(lines) > 2:
        yield from (*lines, "")


def head_comment(path: Path) -> Iterator[str]:
    """Yield the comment at the head of a file: paragraphs, then its commands in a block."""
    lines = [
        line.removeprefix("#").removeprefix(" ")
        for line in itertools.takewhile(
            lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines()
        )
        if not line.startswith("# @package")
    ]
    commands = [line.strip() for line in lines if line.startswith("  ")]
    for line in (line for line in lines if not line.startswith("  ")):
        if re.match(r"The log: |Expect", line):
            yield ""
        yield line
    yield ""
    if commands:
        yield from ("```bash", *commands, "```", "")


def preset(path: Path, content: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of what a preset sets."""
    sets: list[tuple[str, str, str]] = []
    for entry in content.get("defaults", ()):
        if isinstance(entry, dict):
            for key, value in entry.items():
                sets.append((key.removeprefix("override ").lstrip("/"), value, ""))
    for name, value, text in keys(path):
        if name == "hydra.sweeper.params":
            for key, values in value.items():
                varies = re.search(r"[,(]", typed(values))
                sets.append((key, typed(values), "varies" if varies else ""))
        else:
            sets.append((name, typed(value), text))
    yield from ("| sets | to | |", "|---|---|---|")
    for name, value, text in sets:
        yield f"| `{name}` | `{cell(value)}` | {meaning(text)} |"
    yield ""


def table(prefix: str, path: Path, allowed: Mapping[str, str | Any]) -> list[str]:
    """Return a table of the keys of a file."""
    lines = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    for name, value, text in keys(path):
        annotation = allowed.get(name, "")
        values = annotation if isinstance(annotation, str) else in_words(annotation)
        lines.append(
            f"| `{prefix}{name}` | `{cell(typed(value))}` | {cell(values)} | {meaning(text)} |"
        )
    return lines


def allowed_of(group: str, content: Mapping[str, Any]) -> dict[str, str]:
    """Return in words which values the keys of a choice may have, by their names in its file."""
    if group == "hydra/sweeper":
        is_study = "sampler" in str(content.get("defaults"))
        return {name: in_words(kind) for name, kind in SWEEPER_SETTINGS.items() if is_study}
    if group.startswith("hydra/"):
        return {}
    found = {name: in_words(kind) for name, kind in EXTRA_SETTINGS.get(group, {}).items()}
    if "_target_" in content:
        return found | allowed_by(content["_target_"])
    extra, found = found, {}
    for part, node in content.items():
        if isinstance(node, dict) and "_target_" in node:
            arguments = extra | allowed_by(node["_target_"])
            found |= {f"{part}.{name}": text for name, text in arguments.items()}
    return found


def allowed_by(target: str) -> dict[str, str]:
    """Return in words which values the arguments of a class may have."""
    if not target.startswith("resnet_sweep."):
        # Annotations of libraries change with their versions.
        return {name: in_words(kind) for name, kind in LIBRARY_PARAMETERS.items()}
    return dict(annotations(pkgutil.resolve_name(target)))


def annotations(target: Any) -> Iterator[tuple[str, str]]:
    """Yield the arguments of a class of this package, with their annotations in words."""
    for name, parameter in parameters(target).items():
        if is_dataclass(parameter.annotation):
            for inner, text in annotations(parameter.annotation):
                yield f"{name}.{inner}", text
        else:
            yield name, in_words(parameter.annotation)


def in_words(annotation: Any) -> str:
    """Return which values an annotation allows."""
    text = describe_type(annotation).replace("<class 'list'>", "a list")
    return text.replace("<class 'dict'>", "values by key")


def keys(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield the dotted name of each key of a file, its value, and the comment on it.

    The comment is beside the key, or on the lines above.
    """
    text = path.read_text(encoding="utf-8")
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    yield from _keys(node, "", text.splitlines())


def _keys(node: yaml.Node | None, prefix: str, lines: list[str]) -> Iterator[tuple[str, Any, str]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if name == "defaults" or key.value == "_target_":
            continue
        if isinstance(value, yaml.MappingNode) and value.value and name != "hydra.sweeper.params":
            yield from _keys(value, f"{name}.", lines)
            continue
        at = key.start_mark.line
        beside = re.search(r"(?<=\s)# (.*)$", lines[at])
        text = beside[1] if beside else _above(lines, at)
        plain = yaml.SafeLoader("")
        yield name, plain.construct_document(value), text


def _above(lines: list[str], at: int) -> str:
    indent = re.match(r" *", lines[at])[0]
    found = itertools.takewhile(lambda line: line.startswith(f"{indent}# "), reversed(lines[:at]))
    comments = [line.strip("# ") for line in found]
    # A comment that begins the file is about all of it.
    if len(comments) == at:
        return ""
    text = " ".join(reversed(comments)).rstrip(".")
    # Beside a key, a comment isn't a sentence.
    return f"{text[0].lower()}{text[1:]}" if text and text[1:2].islower() else text


def samplers() -> Iterator[str]:
    """Yield a table of the samplers of a study."""
    yield from (
        "## hydra/sweeper/sampler",
        "",
        "How `hydra/sweeper=optuna` chooses the parameters of a trial. The settings of a sampler,",
        "`hydra.sweeper.sampler.NAME`, are the arguments of its class. This command lists them:",
        "",
        "```bash",
        "python -m resnet_sweep hydra/sweeper=optuna hydra/sweeper/sampler=tpe --cfg hydra "
        "-p hydra.sweeper.sampler",
        "```",
        "",
        "All samplers have `hydra.sweeper.sampler.seed`: null, the default, draws other values in",
        "each study.",
        "",
        "| sampler | class | |",
        "|---|---|---|",
    )
    for name, (title, text) in SAMPLERS.items():
        url = f"{OPTUNA}/samplers/generated/optuna.samplers.{title}.html"
        yield f"| `{name}` | [{title}]({url}) | {text} |"
    yield ""


def typed(value: Any) -> str:
    """Return a value as it is typed on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def meaning(comment: str) -> str:
    """Return a comment on a key for a cell: the values that it names are code."""
    text = re.sub(r"'([^']*[=<>][^']*)'", r"`'\1'`", comment)
    text = re.sub(r"(^|; )(true|false|null|auto|`\w+`): ", r"\1`\2`: ", text.rstrip("."))
    return cell(text.replace("``", "`"))


def cell(text: Any) -> str:
    """Return a text for a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


class Recorder(argparse.ArgumentParser):
    """A parser that keeps the arguments that a subcommand adds."""

    def __init__(self, **settings: Any) -> None:
        self.added: list[tuple[argparse.Action, int | None]] = []
        self.groups = 0
        super().__init__(**settings, add_help=False)

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Add an argument, and keep it."""
        action = super().add_argument(*names, **settings)
        self.added.append((action, None))
        return action

    def add_mutually_exclusive_group(self, **settings: Any) -> Any:
        """Return a group whose arguments are kept as alternatives."""
        group = super().add_mutually_exclusive_group(**settings)
        number, add = self.groups, group.add_argument
        self.groups += 1

        def add_argument(*names: str, **arguments: Any) -> argparse.Action:
            action = add(*names, **arguments)
            self.added.append((action, number))
            return action

        group.add_argument = add_argument
        return group


def commands(page: str) -> str:
    """Return the page on commands, with its generated parts written again."""
    return PARTS.sub(lambda part: f"{part[1]}{subcommand(part[2])}{part[3]}", page)


def subcommand(name: str) -> str:
    """Return the part on a subcommand."""
    module = import_module(f"resnet_sweep.cli.{name}")
    parser = Recorder(description=module.__doc__)
    module.add_arguments(parser)
    usage = [f"python -m resnet_sweep {name}"]
    for number, members in itertools.groupby(parser.added, key=lambda pair: pair[1]):
        words = [usage_of(action) for action, _ in members]
        if number is not None:
            words = [f"[{' | '.join(word[1:-1] for word in words)}]"]
        usage += words
    description = formatted((parser.description or "").strip())
    lines = ["", description, "", "```text", wrapped(usage), "```", ""]
    lines += ["| argument | |", "|---|---|"]
    for action, _ in parser.added:
        names = ", ".join(f"`{form}`" for form in forms(action))
        text = (action.help or "").replace("%%", "%")
        lines.append(f"| {names} | {cell(formatted(text))} |")
    if parser.epilog:
        lines += ["", *textwrap.wrap(formatted(parser.epilog), 100, break_on_hyphens=False)]
    return "\n".join(lines) + "\n\n"


def formatted(text: str) -> str:
    """Return a plain text with options, settings with a value, and conditions as code.

    Otherwise quotes and dashes in them would be replaced by typographic ones.
    """
    return re.sub(r"'[^']*[=<>][^']*'|(?<![\w`-])--\w[\w-]*(?:=\S*\w)?", r"`\g<0>`", text)


def forms(action: argparse.Action) -> list[str]:
    """Return how an argument is typed, with its value."""
    value = str(action.metavar or action.dest.upper())
    if not action.option_strings:
        return [value]
    if action.nargs == 0:
        return list(action.option_strings)
    return [f"{name} {value}" for name in action.option_strings]


def usage_of(action: argparse.Action) -> str:
    """Return an argument as the usage of a command has it."""
    text = forms(action)[0]
    if action.option_strings:
        return f"[{text}]"
    return {"*": f"[{text}...]", "+": f"{text}..."}.get(str(action.nargs), text)


def wrapped(words: list[str], width: int = 96) -> str:
    """Return words in lines, of which all but the first are indented."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) > width:
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    """Return the content of each generated page."""
    page = REFERENCE / "commands.md"
    return {
        REFERENCE / "settings.md": settings(),
        page: commands(page.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
