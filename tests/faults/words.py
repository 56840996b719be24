"""Words of a command line: right, wrong, mutated, and of Hydra's grammar."""

import random
import string
from dataclasses import dataclass
from typing import Any

from small_run import choices, composed

from faults.recipes import SMALL
from resnet_sweep.runs.signature import flatten, format_setting

UNKNOWN = object()


@dataclass(frozen=True)
class Word:
    """A word of a command line.

    Attributes:
        text: as typed.
        key: the setting that it is for, if that is known.
        value: what that setting must be if the run starts; UNKNOWN if it can't be told.
    """

    text: str
    key: str = ""
    value: Any = UNKNOWN


VALUES: tuple[tuple[str, Any], ...] = (
    ("0", 0), ("1", 1), ("2", 2), ("3", 3), ("7", 7), ("-1", -1), ("16", 16), ("32", 32),
    ("1000000", 10**6), ("1000000000000", 10**12), ("9223372036854775807", 2**63 - 1),
    ("9223372036854775808", 2**63), ("1" + "0" * 30, 10**30), ("1" + "0" * 400, 10**400),
    ("0.1", 0.1), ("0.5", 0.5), ("0.999", 0.999), ("1.0", 1.0), ("-0.0", -0.0), ("1e-3", 1e-3),
    ("1e-45", 1e-45), ("5e-324", 5e-324), ("1e10", 1e10), ("1e38", 1e38), ("1e39", 1e39),
    ("1e300", 1e300), ("1.7976931348623157e308", 1.7976931348623157e308), ("1e400", UNKNOWN),
    ("nan", UNKNOWN), ("inf", UNKNOWN), ("-inf", UNKNOWN), ("1_000", 1000),
    ("true", True), ("false", False), ("null", None), ("on", UNKNOWN), ("yes", UNKNOWN),
    ("'1'", "1"), ('"0.1"', "0.1"), ("'true'", "true"), ("''", ""), ("", ""), ("' '", " "),
    ("a", "a"), ("ä", UNKNOWN), ("日本", UNKNOWN), ("'\u202e\u0000'", UNKNOWN),
    ("\U0001f600", UNKNOWN), ("'a/b'", "a/b"), ("../x", UNKNOWN), ("a" * 5000, "a" * 5000),
    ("[]", []), ("[1]", [1]), ("[1,2]", [1, 2]), ("[1,2,3]", [1, 2, 3]),
    ("[16,24,32]", [16, 24, 32]),
    ("[0]", [0]), ("[-1]", [-1]), ("[1e300]", [1e300]), ("[null]", [None]), ("[[1]]", [[1]]),
    ("[100000,1]", [100000, 1]), ("[1000000000,8]", [1000000000, 8]), ("[4,100000]", [4, 100000]),
    ("[0.1,0.9]", [0.1, 0.9]), ("[a,b]", ["a", "b"]), ("{}", {}), ("{a:1}", {"a": 1}),
    ("{_target_:os.system}", {"_target_": "os.system"}), ("se", "se"), ("val_loss", "val_loss"),
    ("cpu", "cpu"), ("cuda", "cuda"), ("basic_v1", "basic_v1"), ("os.system", "os.system"),
    ("resnet_sweep.errors.ConfigError", "resnet_sweep.errors.ConfigError"),
    ("torch.nn.Linear", "torch.nn.Linear"), ("torch.optim.Adam", "torch.optim.Adam"),
    ("builtins.eval", "builtins.eval"), ("resnet_sweep.os.system", "resnet_sweep.os.system"),
)  # fmt: skip
# Hydra's grammar beyond plain values.
SPECIAL = (
    "???", "${seed}", "${optim.lr}", "${nope}", "${oc.env:HOME}", "${oc.env:NOPE_NOT_THERE}",
    "${hydra:runtime.cwd}", "${now:%Y}", "${hydra:job.num}", "${oc.decode:'[1]'}", "${eval:1}",
    "choice(1,2)", "range(1,3)", "interval(0,1)", "glob(*)", "shuffle(1,2)", "sort(3,1)",
    "int(3.0)", "float(1)", "str(1)", "bool(true)", "json_str([1])", "tag(a,1)", "extend_list(1)",
    "1,2", "[1,2", "{a:", "'a", "a:b", "a=b", "$", "\\", "%", "\n", "\t", "*", "@", "1 2", "a\\,b",
    "!!python/object/apply:os.system ['true']", "file:///etc/passwd", "{a:{a:{a:{a:1}}}}",
    "[" * 200 + "]" * 200, "(" * 50,
)  # fmt: skip
HYDRA = (
    "hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name", "hydra.job.chdir",
    "hydra.output_subdir", "hydra.verbose", "hydra.mode", "hydra.searchpath", "hydra.job.num",
    "hydra.job.id", "hydra.job.config_name", "hydra.job.env_set", "hydra.job.override_dirname",
    "hydra.runtime.output_dir", "hydra.runtime.cwd", "hydra.callbacks", "hydra.callbacks.gate",
    "hydra.launcher", "hydra.sweeper", "hydra.job_logging", "hydra.job_logging.version",
    "hydra.job_logging.handlers.file.filename", "hydra.hydra_logging", "hydra.help.template",
    "hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra/hydra_logging", "hydra/output",
    "hydra.overrides.task", "hydra.env", "hydra",
)  # fmt: skip
PLACES = (
    "run", "a/b", "'a b'", "../x", "../../x", "/dev/null/x", "a/../../x", ".", "..", "''", "~",
    "${hydra:runtime.cwd}", "'\u0000'", "a" * 300, "ä", "'${nope}'", "run.json", "-", "--",
)  # fmt: skip
FLAGS = (
    "--cfg", "--cfg=job", "--resolve", "--help", "--hydra-help", "--version", "--info",
    "--config-name", "--config-name=nope", "--config-name=../x", "--config-dir=nope",
    "--config-path=nope", "--package=a.b", "--nope", "-x", "--config-dir", "--run", "--", "-p",
    "--shell-completion", "--experimental-rerun=nope", "--config-name=optim/sgd",
)  # fmt: skip
ALPHABET = string.ascii_lowercase + string.digits + "=.,:+~@$%{}[]()'\"\\/ -_*?!#&|;\t\n\x00é日😀"


class Generator:
    """Makes words by a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        # What a run has by itself.
        self.defaults = dict(flatten(composed(*SMALL)))
        self.settings = sorted(
            {*self.defaults, *dict(flatten(composed("optim=adamw", "schedule=plateau")))}
        )
        self.groups = sorted({choice.partition("=")[0] for choice in choices()})
        self.choices = choices()
        self.real = [f"{name}={text}" for name in self.settings for text, _ in VALUES[:20]]

    def words(self) -> list[Word]:
        """One to three words that may contradict each other."""
        kinds = (self.right, self.right, self.typed, self.typed, self.typed, self.mutated,
                 self.special, self.choice, self.hydra, self.flag)  # fmt: skip
        return [self.chance.choice(kinds)() for _ in range(self.chance.choice([1, 1, 1, 2, 3]))]

    def right(self) -> Word:
        """A setting with a value that is near the one it has, and so likely to be right."""
        key = self.chance.choice([*self.defaults])
        value = self.defaults[key]
        if isinstance(value, bool):
            value = not value
        elif isinstance(value, int):
            value = max(value + self.chance.randint(-2, 9), 0)
        elif isinstance(value, float):
            value = value * self.chance.choice([0.5, 1.0, 0.1, 1.1]) + self.chance.choice([0, 1e-3])
        return Word(f"{key}={format_setting(value)}", key, value)

    def typed(self) -> Word:
        """A setting with some value."""
        key = self.chance.choice(self.settings)
        text, value = self.chance.choice(VALUES)
        prefix = self.chance.choice(["", "", "", "", "", "+", "++"])
        return Word(f"{prefix}{key}={text}", key, value)

    def special(self) -> Word:
        """A setting, or something like one, with a value of Hydra's grammar."""
        key = self.chance.choice([*self.settings, *self.groups, "nope", "a.b", "_target_"])
        value = self.chance.choice(SPECIAL)
        prefix = self.chance.choice(["", "", "+", "++", "~", "@", "-"])
        middle = self.chance.choice(["=", "=", "=", "", "==", ":", "@a=", "@a:b=", "=="])
        return Word(f"{prefix}{key}{middle}{value}")

    def choice(self) -> Word:
        """A choice of a group, there or not."""
        group = self.chance.choice(self.groups)
        some = self.chance.choice(self.choices).partition("=")[2]
        other = self.chance.choice(self.choices).partition("=")[2]
        text = self.chance.choice(
            [some, some, "null", f"[{some}]", f"[{some},{other}]", "[]", "{}", "''", "1", "true",
             f"../{some}", f"{some}.yaml", "???", f"{some},{other}", "${seed}"]
        )  # fmt: skip
        prefix = self.chance.choice(["", "", "", "+", "~", "++"])
        return Word(f"{prefix}{group}={text}" if prefix != "~" else f"~{group}")

    def hydra(self) -> Word:
        """One of Hydra's own settings."""
        key = self.chance.choice(HYDRA)
        values = PLACES if self.chance.random() < 0.6 else [text for text, _ in VALUES]
        prefix = self.chance.choice(["", "", "", "+", "++", "~"])
        return Word(f"{prefix}{key}={self.chance.choice(values)}")

    def flag(self) -> Word:
        """A flag, there or not; or a word without any sense."""
        if self.chance.random() < 0.5:
            return Word(self.chance.choice(FLAGS))
        length = self.chance.choice([1, 3, 10, 40])
        return Word("".join(self.chance.choices(ALPHABET, k=length)).replace("\x00", "0"))

    def mutated(self) -> Word:
        """A right word with some characters changed."""
        characters = list(self.chance.choice([*self.choices, *self.real]))
        for _ in range(self.chance.choice([1, 1, 2, 5])):
            place = self.chance.randrange(len(characters) + 1)
            what = self.chance.randrange(4)
            if what == 0:
                characters.insert(place, self.chance.choice(ALPHABET[:-4]))
            elif what == 1 and characters:
                del characters[place - 1]
            elif what == 2 and characters:
                characters[place - 1] = self.chance.choice(ALPHABET)
            else:
                characters[place:place] = characters[: self.chance.randrange(6)]
        return Word("".join(characters).replace("\x00", "0"))
