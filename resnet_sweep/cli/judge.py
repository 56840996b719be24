"""Judge whether a change of settings is an improvement.

Two variants are trained: the baseline, and the baseline with the change. Both get the same seeds,
and they get more seeds until the verdict is decided. Finished runs of the same settings are reused.
The same command again resumes after an interruption.

The exit status is 0 if the change is better, 1 if it isn't (worse, within the margin, or unstable),
3 if the verdict is still undecided with the largest number of seeds, and 4 if there is no verdict,
because a run failed or all runs of the baseline diverged. It is 2 if the question was refused.
"""

import argparse
import math
import shlex
from collections.abc import Sequence

from resnet_sweep.compare.replication import FIRST, MAX_REPLICATES
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError

# The exit status if there is no verdict.
FAILED = 4
# Maps the settings that the subcommand chooses to the advice in an error message.
OWN_SETTINGS = {
    "replicates": "use --max-replicates",
    "max_replicates": "use --max-replicates",
    "margin": "use --margin",
    "baseline": "leave it out",
    "sweep": "leave it out",
    "sweep_filter": "leave it out",
    "zip": "leave it out",
    "hydra/sweeper": "leave it out",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `judge`."""
    parser.add_argument(
        "change",
        metavar="OVERRIDE",
        nargs="+",
        help="the change, for example optim.lr=0.05; several overrides are applied together",
    )
    parser.add_argument(
        "--baseline",
        metavar="OVERRIDES",
        default="",
        help="overrides that both variants have, in one argument, for example "
        "'experiment=quickstart trainer.epochs=5' (default: none)",
    )
    parser.add_argument(
        "--margin",
        metavar="POINTS",
        type=float,
        help="the smallest difference that matters; a smaller one is within the margin",
    )
    parser.add_argument(
        "--max-replicates",
        metavar="N",
        type=int,
        default=8,
        help="the largest number of seeds of each variant (default: 8)",
    )
    parser.add_argument(
        "--questions",
        metavar="N",
        type=int,
        default=1,
        help="the number of questions that you will ask; the error probability of 5%% is divided "
        "by N (default: 1)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the runs and the largest cost; train nothing"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object; all other text is printed on standard error",
    )


def run(arguments: argparse.Namespace) -> None:
    """Answer the question, and exit with the status of the answer."""
    try:
        base = shlex.split(arguments.baseline)
    except ValueError as error:
        raise ConfigError(
            f"--baseline {arguments.baseline} can't be split into overrides ({error}): correct its "
            "quotes"
        ) from error
    _check_overrides(base, arguments.change)
    if not FIRST <= arguments.max_replicates <= MAX_REPLICATES:
        raise ConfigError(
            f"--max-replicates is {arguments.max_replicates}: it must be from {FIRST} to "
            f"{MAX_REPLICATES:,}"
        )
    if arguments.margin is not None and not 0 < arguments.margin < math.inf:
        raise ConfigError(f"--margin is {arguments.margin:g}: it must be a number above 0")
    if arguments.questions < 1:
        raise ConfigError(f"--questions is {arguments.questions}: it must be at least 1")
    if arguments.dry_run and arguments.json:
        raise ConfigError("--dry-run gives no answer that could be printed: leave out --json")
    # Importing Hydra takes a second, and --help doesn't need it.
    from resnet_sweep.cli.train import main
    from resnet_sweep.config.command import quote_override, quote_text

    change = ",".join(quote_text(quote_override(text)) for text in arguments.change)
    overrides = ["replicates=auto", f"max_replicates={arguments.max_replicates}"]
    if arguments.margin is not None:
        overrides.append(f"margin={arguments.margin}")
    overrides += ["dry_run=true"] if arguments.dry_run else []
    own = [
        "hydra/sweeper=judge",
        f"hydra.sweeper.change=[{change}]",
        f"hydra.sweeper.questions={arguments.questions}",
        f"hydra.sweeper.json={str(arguments.json).lower()}",
    ]
    console.stderr = arguments.json
    try:
        main(["--multirun", *base, *overrides], failed=FAILED, own=own)
    finally:
        console.stderr = False


def _check_overrides(base: Sequence[str], change: Sequence[str]) -> None:
    """Raise ConfigError for an argument that can't be a part of a question."""
    values = iter(base)
    for text in values:
        if text.startswith("--config-"):
            if "=" not in text:
                next(values, None)
        elif text.startswith("-"):
            raise ConfigError(
                f"--baseline has the flag {text}: it may only have overrides, --config-dir, "
                "--config-path and --config-name"
            )
        key = text.lstrip("+~").partition("=")[0]
        if key.startswith("hydra.sweeper."):
            key = "hydra/sweeper"
        if key in OWN_SETTINGS:
            raise ConfigError(
                f"--baseline has {text}, which the subcommand judge sets itself: "
                f"{OWN_SETTINGS[key]}"
            )
    for text in change:
        if text.startswith("-"):
            raise ConfigError(f"{text} isn't an override: write GROUP=CHOICE or KEY=VALUE")
        if (key := text.lstrip("+~").partition("=")[0]) in OWN_SETTINGS:
            raise ConfigError(
                f"{text} is a setting of a sweep, and not a change: {OWN_SETTINGS[key]}"
            )
        if text.lstrip("+~").startswith(("hydra.", "hydra/")):
            raise ConfigError(
                f"{text} changes nothing that is trained: put it into --baseline, which both "
                "variants have"
            )
