"""Generated arguments of command lines: valid, invalid, mutated and of Hydra's grammar."""

import random
import string
from dataclasses import dataclass
from typing import Any

from small_run import choices, composed

from faults.recipes import SMALL
from resnet_sweep.runs.signature import flatten, format_setting

UNKNOWN = object()


@dataclass(frozen=True)
class Argument:
    """An argument of a command line.

    Attributes:
        text: the argument itself.
        key: the setting that it changes, if that is known.
        value: the value that the setting must have if the run starts, or UNKNOWN.
    """

    text: str
    key: str = ""
    value: Any = UNKNOWN


VALUES: tuple[tuple[str, Any], ...] = (
    ("0", 0),
    ("1", 1),
    ("2", 2),
    ("3", 3),
    ("7", 7),
    ("-1", -1),
    ("16", 16),
    ("32", 32),
    ("1000000", 10**6),
    ("1000000000000", 10**12),
    ("9223372036854775807", 2**63 - 1),
    ("9223372036854775808", 2**63),
    ("1" + "0" * 30, 10**30),
    ("1" + "0" * 400, 10**400),
    ("0.1", 0.1),
    ("0.5", 0.5),
    ("0.999", 0.999),
    ("1.0", 1.0),
    ("-0.0", -0.0),
    ("1e-3", 1e-3),
    ("1e-45", 1e-45),
    ("5e-324", 5e-324),
    ("1e10", 1e10),
    ("1e38", 1e38),
    ("1e39", 1e39),
    ("1e300", 1e300),
    ("1.7976931348623157e308", 1.7976931348623157e308),
    ("1e400", UNKNOWN),
    ("nan", UNKNOWN),
    ("inf", UNKNOWN),
    ("-inf", UNKNOWN),
    ("1_000", 1000),
    ("true", True),
    ("false", False),
    ("null", None),
    ("on", UNKNOWN),
    ("yes", UNKNOWN),
    ("'1'", "1"),
    ('"0.1"', "0.1"),
    ("'true'", "true"),
    ("''", ""),
    ("", ""),
    ("' '", " "),
    ("a", "a"),
    ("ä", UNKNOWN),
    ("日本", UNKNOWN),
    ("'\u202e\u0000'", UNKNOWN),
    ("\U0001f600", UNKNOWN),
    ("'a/b'", "a/b"),
    ("../x", UNKNOWN),
    ("a" * 5000, "a" * 5000),
    ("[]", []),
    ("[1]", [1]),
    ("[1,2]", [1, 2]),
    ("[1,2,3]", [1, 2, 3]),
    ("[16,24,32]", [16, 24, 32]),
    ("[0]", [0]),
    ("[-1]", [-1]),
    ("[1e300]", [1e300]),
    ("[null]", [None]),
    ("[[1]]", [[1]]),
    ("[100000,1]", [100000, 1]),
    ("[1000000000,8]", [1000000000, 8]),
    ("[4,100000]", [4, 100000]),
    ("[0.1,0.9]", [0.1, 0.9]),
    ("[a,b]", ["a", "b"]),
    ("{}", {}),
    ("{a:1}", {"a": 1}),
    ("{_target_:os.system}", {"_target_": "os.system"}),
    ("se", "se"),
    ("val_loss", "val_loss"),
    ("cpu", "cpu"),
    ("cuda", "cuda"),
    ("basic_v1", "basic_v1"),
    ("os.system", "os.system"),
    ("resnet_sweep.errors.ConfigError", "resnet_sweep.errors.ConfigError"),
    ("torch.nn.Linear", "torch.nn.Linear"),
    ("torch.optim.Adam", "torch.optim.Adam"),
    ("builtins.eval", "builtins.eval"),
    ("resnet_sweep.os.system", "resnet_sweep.os.system"),
)
# Values that use Hydra's override grammar, or that aren't valid in it.
SPECIAL = (
    "???",
    "${seed}",
    "${optim.lr}",
    "${nope}",
    "${oc.env:HOME}",
    "${oc.env:NOPE_NOT_THERE}",
    "${hydra:runtime.cwd}",
    "${now:%Y}",
    "${hydra:job.num}",
    "${oc.decode:'[1]'}",
    "${eval:1}",
    "choice(1,2)",
    "range(1,3)",
    "interval(0,1)",
    "glob(*)",
    "shuffle(1,2)",
    "sort(3,1)",
    "int(3.0)",
    "float(1)",
    "str(1)",
    "bool(true)",
    "json_str([1])",
    "tag(a,1)",
    "extend_list(1)",
    "1,2",
    "[1,2",
    "{a:",
    "'a",
    "a:b",
    "a=b",
    "$",
    "\\",
    "%",
    "\n",
    "\t",
    "*",
    "@",
    "1 2",
    "a\\,b",
    "!!python/object/apply:os.system ['true']",
    "file:///etc/passwd",
    "{a:{a:{a:{a:1}}}}",
    "[" * 200 + "]" * 200,
    "(" * 50,
)
HYDRA = (
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
    "hydra.job.name",
    "hydra.job.chdir",
    "hydra.output_subdir",
    "hydra.verbose",
    "hydra.mode",
    "hydra.searchpath",
    "hydra.job.num",
    "hydra.job.id",
    "hydra.job.config_name",
    "hydra.job.env_set",
    "hydra.job.override_dirname",
    "hydra.runtime.output_dir",
    "hydra.runtime.cwd",
    "hydra.callbacks",
    "hydra.callbacks.gate",
    "hydra.launcher",
    "hydra.sweeper",
    "hydra.job_logging",
    "hydra.job_logging.version",
    "hydra.job_logging.handlers.file.filename",
    "hydra.hydra_logging",
    "hydra.help.template",
    "hydra/launcher",
    "hydra/sweeper",
    "hydra/job_logging",
    "hydra/hydra_logging",
    "hydra/output",
    "hydra.overrides.task",
    "hydra.env",
    "hydra",
)
PLACES = (
    "run",
    "a/b",
    "'a b'",
    "../x",
    "../../x",
    "/dev/null/x",
    "a/../../x",
    ".",
    "..",
    "''",
    "~",
    "${hydra:runtime.cwd}",
    "'\u0000'",
    "a" * 300,
    "ä",
    "'${nope}'",
    "run.json",
    "-",
    "--",
)
FLAGS = (
    "--cfg",
    "--cfg=job",
    "--resolve",
    "--help",
    "--hydra-help",
    "--version",
    "--info",
    "--config-name",
    "--config-name=nope",
    "--config-name=../x",
    "--config-dir=nope",
    "--config-path=nope",
    "--package=a.b",
    "--nope",
    "-x",
    "--config-dir",
    "--run",
    "--",
    "-p",
    "--shell-completion",
    "--experimental-rerun=nope",
    "--config-name=optim/sgd",
)
ALPHABET = string.ascii_lowercase + string.digits + "=.,:+~@$%{}[]()'\"\\/ -_*?!#&|;\t\n\x00é日😀"


class Generator:
    """Generates command lines from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        # The settings of the small run and their values.
        self.defaults = dict(flatten(composed(*SMALL)))
        self.settings = sorted(
            {*self.defaults, *dict(flatten(composed("optim=adamw", "schedule=plateau")))}
        )
        self.groups = sorted({choice.partition("=")[0] for choice in choices()})
        self.choices = choices()
        self.overrides = [f"{name}={text}" for name in self.settings for text, _ in VALUES[:20]]

    def arguments(self) -> list[Argument]:
        """Return one to three arguments, which may contradict each other."""
        kinds = (
            self.similar_value,
            self.similar_value,
            self.any_value,
            self.any_value,
            self.any_value,
            self.mutated,
            self.grammar,
            self.group_choice,
            self.hydra_setting,
            self.flag,
        )
        return [self.rng.choice(kinds)() for _ in range(self.rng.choice([1, 1, 1, 2, 3]))]

    def similar_value(self) -> Argument:
        """Return a setting with a value near its default, which is probably valid."""
        key = self.rng.choice([*self.defaults])
        value = self.defaults[key]
        if isinstance(value, bool):
            value = not value
        elif isinstance(value, int):
            value = max(value + self.rng.randint(-2, 9), 0)
        elif isinstance(value, float):
            value = value * self.rng.choice([0.5, 1.0, 0.1, 1.1]) + self.rng.choice([0, 1e-3])
        return Argument(f"{key}={format_setting(value)}", key, value)

    def any_value(self) -> Argument:
        """Return a setting with any value."""
        key = self.rng.choice(self.settings)
        text, value = self.rng.choice(VALUES)
        prefix = self.rng.choice(["", "", "", "", "", "+", "++"])
        return Argument(f"{prefix}{key}={text}", key, value)

    def grammar(self) -> Argument:
        """Return a setting, or a similar name, with a value of Hydra's grammar."""
        key = self.rng.choice([*self.settings, *self.groups, "nope", "a.b", "_target_"])
        value = self.rng.choice(SPECIAL)
        prefix = self.rng.choice(["", "", "+", "++", "~", "@", "-"])
        separator = self.rng.choice(["=", "=", "=", "", "==", ":", "@a=", "@a:b=", "=="])
        return Argument(f"{prefix}{key}{separator}{value}")

    def group_choice(self) -> Argument:
        """Return a choice of a group, which may not exist."""
        group = self.rng.choice(self.groups)
        name = self.rng.choice(self.choices).partition("=")[2]
        other = self.rng.choice(self.choices).partition("=")[2]
        text = self.rng.choice(
            [
                name,
                name,
                "null",
                f"[{name}]",
                f"[{name},{other}]",
                "[]",
                "{}",
                "''",
                "1",
                "true",
                f"../{name}",
                f"{name}.yaml",
                "???",
                f"{name},{other}",
                "${seed}",
            ]
        )
        prefix = self.rng.choice(["", "", "", "+", "~", "++"])
        return Argument(f"{prefix}{group}={text}" if prefix != "~" else f"~{group}")

    def hydra_setting(self) -> Argument:
        """Return a setting of Hydra itself."""
        key = self.rng.choice(HYDRA)
        values = PLACES if self.rng.random() < 0.6 else [text for text, _ in VALUES]
        prefix = self.rng.choice(["", "", "", "+", "++", "~"])
        return Argument(f"{prefix}{key}={self.rng.choice(values)}")

    def flag(self) -> Argument:
        """Return a flag, which may not exist, or random characters."""
        if self.rng.random() < 0.5:
            return Argument(self.rng.choice(FLAGS))
        length = self.rng.choice([1, 3, 10, 40])
        return Argument("".join(self.rng.choices(ALPHABET, k=length)).replace("\x00", "0"))

    def mutated(self) -> Argument:
        """Return an override with some characters changed."""
        characters = list(self.rng.choice([*self.choices, *self.overrides]))
        for _ in range(self.rng.choice([1, 1, 2, 5])):
            position = self.rng.randrange(len(characters) + 1)
            change = self.rng.randrange(4)
            if change == 0:
                characters.insert(position, self.rng.choice(ALPHABET[:-4]))
            elif change == 1 and characters:
                del characters[position - 1]
            elif change == 2 and characters:
                characters[position - 1] = self.rng.choice(ALPHABET)
            else:
                characters[position:position] = characters[: self.rng.randrange(6)]
        return Argument("".join(characters).replace("\x00", "0"))
