"""The expansion of a command's overrides to the overrides of each job."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Command
from hydra import initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from processes import assert_refused, mentions

from resnet_sweep.__main__ import main
from resnet_sweep.config.command import quote_override
from resnet_sweep.errors import ConfigError
from resnet_sweep.request import hydra_arguments
from resnet_sweep.sweeps.grid import expand, parse_zip, preset_overrides, scale_percentages


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_module("resnet_sweep.conf"):
        yield GlobalHydra.instance().config_loader()


@pytest.mark.parametrize(
    "overrides",
    [
        ["optim.lr=0.1"],
        ["optim.lr=0.1,0.05", "seed=0,1,2"],
        ["optim.lr=choice(0.1,0.05)", "seed=range(0,4)", "model=resnet8v2"],
        ["optim.lr=range(0.1,0.5,step=0.1)"],
        ["model=glob(resnet*)", "optim=sgd,adamw"],
        ["+model.drop_rate=0.1,0.2", "~logger"],
        ["model.widths=[16,32,64],[8,16,32]", "augmentation=[cutmix,color_jitter],none"],
        ["reference='a b','c,d'", "data.root=null,'/tmp/x=y'"],
        ["seed=3,4", "seed=5"],
        ["optim.lr=sort(0.3,0.1,0.2)", "trainer.compile=default,null"],
    ],
)
def test_the_expansion_equals_that_of_hydras_basic_sweeper(
    overrides: list[str], loader: ConfigLoader
) -> None:
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    # The basic sweeper gives a deleted key a value, which is an error.
    not_deleted = [override for override in parsed if not override.is_delete()]
    (expected,) = BasicSweeper.split_arguments(not_deleted, max_batch_size=None)
    expanded = [
        [override for override in job if not override.startswith("~")]
        for job in expand(overrides, [], loader)
    ]
    assert expanded == expected


def test_a_deleted_key_stays_in_every_job(loader: ConfigLoader) -> None:
    jobs = expand(["~logger", "seed=0,1"], [], loader)
    assert jobs == [["~logger", "seed=0"], ["~logger", "seed=1"]]


def test_zipped_values_are_paired(loader: ConfigLoader) -> None:
    overrides = ["optim.lr=0.1,0.2", "seed=0,1", "trainer.batch_size=64,128"]
    assert expand(overrides, [["optim.lr", "trainer.batch_size"]], loader) == [
        ["optim.lr=0.1", "trainer.batch_size=64", "seed=0"],
        ["optim.lr=0.1", "trainer.batch_size=64", "seed=1"],
        ["optim.lr=0.2", "trainer.batch_size=128", "seed=0"],
        ["optim.lr=0.2", "trainer.batch_size=128", "seed=1"],
    ]


def test_several_lists_of_keys_can_be_zipped(loader: ConfigLoader) -> None:
    overrides = ["a=1,2", "b=3,4", "c=5,6", "d=7,8"]
    jobs = expand(overrides, parse_zip([["a", "c"], ["b", "d"]]), loader)
    assert [" ".join(job) for job in jobs] == [
        "a=1 c=5 b=3 d=7",
        "a=1 c=5 b=4 d=8",
        "a=2 c=6 b=3 d=7",
        "a=2 c=6 b=4 d=8",
    ]
    assert parse_zip(["a", "c"]) == [["a", "c"]]
    assert parse_zip([]) == []


@pytest.mark.parametrize(
    ("overrides", "pairs", "facts"),
    [
        (
            ["one_key=4,5", "other_key=6,7,8"],
            ["one_key", "other_key"],
            ["zip", "one_key", "2", "other_key", "3"],
        ),
        (["one_key=1,2"], ["one_key", "other_key"], ["zip", "other_key"]),
        (["one_key=1", "other_key=2"], ["one_key", "other_key"], ["zip", "one_key"]),
        (
            ["one_key=1,2", "other_key=1,2", "third_key=1,2"],
            [["one_key", "other_key"], ["other_key", "third_key"]],
            ["zip", "other_key"],
        ),
        (["one_key=1,2", "other_key=1,2"], ["one_key"], ["zip", "one_key"]),
        (["one_key=interval(0,1)"], [], ["one_key=interval(0,1)", "hydra/sweeper=optuna"]),
    ],
)
def test_a_wrong_combination_is_refused(
    overrides: list[str], pairs: list, facts: list[str], loader: ConfigLoader
) -> None:
    with pytest.raises(ConfigError) as refusal:
        expand(overrides, parse_zip(pairs), loader)
    for fact in facts:
        assert mentions(str(refusal.value), fact), f"no {fact!r} in: {refusal.value}"


def test_the_values_of_a_named_sweep_become_overrides() -> None:
    params = {"optim.lr": "0.1,0.2", "data.root": None, "optim.nesterov": True, "seed": 3}
    assert preset_overrides(params) == [
        "optim.lr=0.1,0.2",
        "data.root=null",
        "optim.nesterov=true",
        "seed=3",
    ]
    assert preset_overrides(None) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.epochs=10%,50%,100%"], ["trainer.epochs=2,10,20"]),
        (["trainer.epochs=10%,12.5%,15%"], ["trainer.epochs=2,3"]),
        (["trainer.epochs=1%,2%"], ["trainer.epochs=1"]),
        # The config contains the value of an override that isn't swept.
        (
            ["trainer.epochs=10%,50%", "seed=1", "trainer.epochs=20"],
            ["trainer.epochs=2,10", "seed=1"],
        ),
        (["trainer.epochs=10%,50%", "trainer.epochs=3,4"], ["trainer.epochs=3,4"]),
        (["trainer.epochs=10%"], ["trainer.epochs=10%"]),
        (["optim.lr=10%,50%", "seed=0,1"], ["optim.lr=10%,50%", "seed=0,1"]),
    ],
)
def test_percentages_are_those_of_the_value_in_the_config(
    overrides: list[str], expected: list[str], loader: ConfigLoader
) -> None:
    config = OmegaConf.create({"trainer": {"epochs": 20}, "optim": {"lr": 0.1}, "seed": 1})
    assert scale_percentages(overrides, config, loader) == expected


@pytest.mark.parametrize("epochs", ["0", "-5"])
def test_percentages_of_an_invalid_value_are_refused(
    call: Command, tmp_path: Path, epochs: str
) -> None:
    result = call(main, "sweep=how_long", "experiment=quickstart", f"trainer.epochs={epochs}")
    assert_refused(result, "trainer.epochs", epochs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("overrides", "is_sweep"),
    [
        (["sweep=recommended"], True),
        (["optim.lr=0.1", "sweep=logged_runs", "--config-dir", "mine"], True),
        (["replicates=3"], True),
        (["replicates=1"], False),
        (["sweep=default"], False),
        (["sweep=recommended", "--cfg", "job"], False),
        (["sweep=recommended", "--multirun"], False),
        (["sweep=recommended", "-m"], False),
        (["sweep=recommended", "--help"], False),
        (["model=resnet8v2"], False),
    ],
)
def test_a_named_sweep_or_replicates_imply_multirun(overrides: list[str], is_sweep: bool) -> None:
    assert hydra_arguments(overrides) == (["--multirun", *overrides] if is_sweep else overrides)


@pytest.mark.parametrize(
    "condition",
    ["optim.lr == 0.1", 'experiment != "a\'b"', "seed < 2 and (x in [1, 2])", r"x == '\'"],
)
def test_a_condition_needs_only_the_quotes_of_the_shell(condition: str) -> None:
    parser = OverridesParser.create()
    for name in ("sweep_filter", "baseline"):
        (override,) = parser.parse_overrides([quote_override(f"{name}={condition}")])
        assert override.value() == condition
        (override,) = parser.parse_overrides([quote_override(f"{name}='seed == 0'")])
        assert override.value() == "seed == 0"


@pytest.mark.parametrize(
    "word", ["baseline=null", "sweep_filter=${x}", "seed=0", "-m", "baseline="]
)
def test_other_arguments_are_not_quoted(word: str) -> None:
    assert quote_override(word) == word
