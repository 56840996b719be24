"""The named runs and sweeps are what the log recommends, and what the documents say of them."""

import itertools
import re

import pytest
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from small_run import CONF, choices, composed

from resnet_sweep.compare.filter_expression import FilterExpression, run_fields
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.config.check import check_config
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import sign, signed_settings
from resnet_sweep.studies.search_space import SearchSpace

EXPERIMENTS = [choice.partition("=")[2] for choice in choices("experiment")]
# Experiments that don't come from the log's recommendations.
OTHERS = {"quickstart", "logged_run_1", "logged_run_2", "best_recipe"}
VARIANTS = [name for name in EXPERIMENTS if name not in OTHERS]
SWEEPS = [choice.partition("=")[2] for choice in choices("sweep") if choice != "sweep=default"]
# A search has corners, and no jobs that could be counted.
SEARCHES = [name for name in SWEEPS if name.startswith("optuna_")]
GRIDS = [name for name in SWEEPS if name not in SEARCHES]
MODELS = ["resnet44v2", pytest.param("resnet8v2", marks=pytest.mark.slow)]
DOCUMENT = (ROOT / "docs" / "reference" / "experiments.md").read_text(encoding="utf-8")
# What a preset of a sweep may set, so that the command of a single job can do without it.
SETTINGS_OF_SWEEPS = {
    "baseline", "defaults", "hydra", "objective", "reference", "replicates", "sweep_filter", "zip"
}  # fmt: skip


def head(path: str) -> str:
    """The comment at the head of a file, as one line."""
    lines = itertools.takewhile(
        lambda line: line.startswith("#"), (CONF / path).read_text(encoding="utf-8").splitlines()
    )
    return " ".join(line.removeprefix("#").strip() for line in lines)


def preset(sweep: str) -> dict:
    return yaml.safe_load((CONF / "sweep" / f"{sweep}.yaml").read_text())


def jobs(sweep: str) -> list[list[str]]:
    """The overrides of each job, by Hydra's own grammar."""
    parameters = preset(sweep)["hydra"]["sweeper"]["params"]
    words = [f"{key}={value}" for key, value in parameters.items()]
    parsed = OverridesParser.create().parse_overrides(words)
    values = [
        [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
        for each in parsed
    ]
    return [list(job) for job in itertools.product(*values)]


def entry(words: list[str]) -> LoadedRun:
    """The run of a job, as its record would have it."""
    with initialize_config_module("resnet_sweep.conf"):
        config = compose("config", overrides=words, return_hydra_config=True)
    chosen = {
        group: choice for group, choice in config.hydra.runtime.choices.items() if choice
    }  # fmt: skip
    settings = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
    )
    return LoadedRun(ROOT, "job", Record("", config=settings, choices=chosen))


# The experiments whose comments quote the training log.
QUOTING = [*VARIANTS, "logged_run_1", "logged_run_2", "best_recipe"]


def quoted(name: str) -> str:
    """What the comment at the head of an experiment quotes from the training log."""
    return re.search(r'The log: "([^"]+)"', head(f"experiment/{name}.yaml"))[1]


@pytest.mark.parametrize("name", QUOTING)
def test_experiment_has_its_quote_in_the_document_and_its_command(name: str) -> None:
    text = head(f"experiment/{name}.yaml")
    assert re.search(r"Expect: \w.*\. +python -m resnet_sweep", text)
    assert text.endswith(f"python -m resnet_sweep experiment={name}")
    row = re.search(rf"^\| `{re.escape(name)}` \|.*$", DOCUMENT, re.MULTILINE)[0]
    assert quoted(name) in row


@pytest.mark.parametrize(
    ("name", "settings"),
    {
        "dropout_0.2": {"model.dropout": 0.2},
        "dropout_0.3": {"model.dropout": 0.3},
        "weight_decay_1e-3": {"optim.weight_decay": 1e-3},
        "lr_0.05": {"optim.lr": 0.05},
        "early_stop_85": {"trainer.early_stopping.epoch": 85},
        "se_attention": {"model.attention": "se"},
        "cbam_attention": {"model.attention": "cbam"},
        "bottleneck": {"model.block": "bottleneck_v2"},
        "progressive_resizing": {"trainer.progressive_resizing": [16, 24, 32]},
        "label_smoothing": {"loss.label_smoothing": 0.1},
        "best_recipe": {"model.attention": "se", "model.dropout": 0.2},
        "logged_run_1": {"seed": 0},
        "logged_run_2": {"seed": 1},
    }.items(),
)
def test_an_experiment_is_the_logs_recipe_but_for_what_it_is_called(
    name: str, settings: dict
) -> None:
    recipe = signed_settings(composed(), "", "")
    assert signed_settings(composed(f"experiment={name}"), "", "") == recipe | settings


@pytest.mark.parametrize(
    ("name", "group"),
    {
        "cutout": "augmentation", "cutmix": "augmentation", "mixup": "augmentation",
        "color_jitter": "augmentation", "plateau": "schedule", "warm_restarts": "schedule",
    }.items(),
)  # fmt: skip
def test_an_experiment_differs_from_the_recipe_in_one_group(name: str, group: str) -> None:
    recipe, config = composed(), composed(f"experiment={name}")
    assert {key for key in recipe if config[key] != recipe[key]} == {group}


def test_every_variant_is_another_run_than_the_baseline() -> None:
    names = ["logged_run_1", "logged_run_2", *VARIANTS]
    signatures = {sign(composed(f"experiment={name}"), "float32", "f") for name in names}
    assert len(signatures) == len(names)
    assert sign(composed(), "float32", "f") == sign(
        composed("experiment=logged_run_1"), "float32", "f"
    )


def test_the_recommended_sweep_has_every_variant() -> None:
    assert sorted(jobs("recommended")) == sorted(
        [f"experiment={name}"] for name in ["logged_run_1", *VARIANTS]
    )


def test_the_readings_of_the_log_are_all_combined() -> None:
    runs = [entry(words) for words in jobs("identify_logged_runs")]
    assert len({run.replicate_key for run in runs}) == 16
    # The recipe as it is here is one of them.
    assert LoadedRun(ROOT, "", Record("", config=composed())).replicate_key in {
        run.replicate_key for run in runs
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sweep", GRIDS)
def test_a_sweep_has_sound_jobs_and_one_baseline(sweep: str, model: str) -> None:
    # A sweep over models has the last word on them.
    runs = [entry([f"model={model}", *words]) for words in jobs(sweep)]
    for run in runs:
        check_config(run.record.config)
    assert len({sign(run.record.config, "float32", "f") for run in runs}) == len(runs)
    baseline = composed(f"sweep={sweep}")["baseline"]
    if baseline is not None:
        assert sum(FilterExpression(baseline).matches(run_fields(run)) for run in runs) == 1
    count = re.search(r"\b(\d+) jobs\b", head(f"sweep/{sweep}.yaml"))[1]
    assert int(count) == len(runs)
    assert re.search(rf"^\| `{sweep}` \| {count} \|", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sweep", SEARCHES)
def test_a_search_has_sound_corners_and_holds_images_out(sweep: str, model: str) -> None:
    settings = preset(sweep)["hydra"]["sweeper"]
    space = SearchSpace([f"{key}={value}" for key, value in settings["params"].items()])
    for corner in space.corners():
        run = entry([f"model={model}", *space.overrides(corner)])
        check_config(run.record.config)
        assert run.record.config["data"]["holdout"] == 5000
    count = re.search(r"\b(\d+) trials\b", head(f"sweep/{sweep}.yaml"))[1]
    assert int(count) == settings["n_trials"]
    assert re.search(rf"^\| `{sweep}` \| {count} \|", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_job_is_what_it_is_without_the_sweeps_preset(sweep: str) -> None:
    assert preset(sweep).keys() <= SETTINGS_OF_SWEEPS
    assert preset(sweep)["hydra"].keys() == {"sweeper"}
    assert sign(composed(f"sweep={sweep}"), "float32", "f") == sign(composed(), "float32", "f")
