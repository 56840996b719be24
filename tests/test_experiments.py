"""The named experiments and sweeps agree with the training log and with the documents."""

import itertools
import re

import pytest
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from small_run import CONF, choices, composed

from resnet_sweep.compare.filter_expression import FilterExpression, run_fields
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.config.check import check_config
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import sign, signed_settings
from resnet_sweep.studies.search_space import SearchSpace
from resnet_sweep.sweeps.grid import scale_percentages

EXPERIMENTS = [choice.partition("=")[2] for choice in choices("experiment")]
# Experiments that aren't recommendations of the training log.
NOT_RECOMMENDED = {"quickstart", "logged_run_1", "logged_run_2", "best_recipe"}
VARIANTS = [name for name in EXPERIMENTS if name not in NOT_RECOMMENDED]
SWEEPS = [choice.partition("=")[2] for choice in choices("sweep") if choice != "sweep=default"]
# A search has ranges instead of a list of jobs.
SEARCHES = [name for name in SWEEPS if name.startswith("optuna_")]
GRIDS = [name for name in SWEEPS if name not in SEARCHES]
MODELS = ["resnet44v2", pytest.param("resnet8v2", marks=pytest.mark.slow)]
DOCUMENT = (ROOT / "docs" / "reference" / "experiments.md").read_text(encoding="utf-8")
# The keys that a preset of a sweep may set. They don't change the training of a job, so the command
# of a single job doesn't need the preset.
SETTINGS_OF_SWEEPS = {
    "baseline",
    "defaults",
    "hydra",
    "objective",
    "reference",
    "replicates",
    "sweep_filter",
    "zip",
}


def head_comment(path: str) -> str:
    """Return the comment at the head of a config file, as one line."""
    lines = itertools.takewhile(
        lambda line: line.startswith("#"), (CONF / path).read_text(encoding="utf-8").splitlines()
    )
    return " ".join(line.removeprefix("#").strip() for line in lines)


def sweep_preset(sweep: str) -> dict:
    return yaml.safe_load((CONF / "sweep" / f"{sweep}.yaml").read_text())


def job_overrides(sweep: str, *others: str) -> list[list[str]]:
    """Return the overrides of each job of a sweep, expanded with Hydra's parser."""
    parameters = sweep_preset(sweep)["hydra"]["sweeper"]["params"]
    overrides = [f"{key}={value}" for key, value in parameters.items()]
    config = OmegaConf.create(composed(*others))
    with initialize_config_module("resnet_sweep.conf"):
        loader = GlobalHydra.instance().config_loader()
        overrides = scale_percentages(overrides, config, loader)
    values = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line]
        for override in OverridesParser.create().parse_overrides(overrides)
    ]
    return [list(job) for job in itertools.product(*values)]


def planned_job(overrides: list[str]) -> LoadedRun:
    """Return a job as a run with the record that its training would write."""
    with initialize_config_module("resnet_sweep.conf"):
        config = compose("config", overrides=overrides, return_hydra_config=True)
    group_choices = {
        group: choice for group, choice in config.hydra.runtime.choices.items() if choice
    }
    settings = OmegaConf.to_container(
        OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), resolve=True
    )
    return LoadedRun(ROOT, "job", Record("", config=settings, choices=group_choices))


# The experiments whose comments quote the training log.
QUOTED = [*VARIANTS, "logged_run_1", "logged_run_2", "best_recipe"]


def quoted(name: str) -> str:
    """Return the quotation from the training log in the head comment of an experiment."""
    return re.search(r'The log: "([^"]+)"', head_comment(f"experiment/{name}.yaml"))[1]


@pytest.mark.parametrize("name", QUOTED)
def test_the_document_and_the_head_comment_of_an_experiment_have_its_quotation(name: str) -> None:
    text = head_comment(f"experiment/{name}.yaml")
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
def test_an_experiment_is_the_recipe_with_the_settings_of_its_name(
    name: str, settings: dict
) -> None:
    recipe = signed_settings(composed(), "", {})
    assert signed_settings(composed(f"experiment={name}"), "", {}) == recipe | settings


@pytest.mark.parametrize(
    ("name", "group"),
    {
        "cutout": "augmentation",
        "cutmix": "augmentation",
        "mixup": "augmentation",
        "color_jitter": "augmentation",
        "plateau": "schedule",
        "warm_restarts": "schedule",
    }.items(),
)
def test_an_experiment_differs_from_the_recipe_in_one_group(name: str, group: str) -> None:
    recipe, config = composed(), composed(f"experiment={name}")
    assert {key for key in recipe if config[key] != recipe[key]} == {group}


def test_every_variant_has_its_own_signature() -> None:
    names = ["logged_run_1", "logged_run_2", *VARIANTS]
    signatures = {sign(composed(f"experiment={name}"), "float32", {"data": "f"}) for name in names}
    assert len(signatures) == len(names)
    assert sign(composed(), "float32", {"data": "f"}) == sign(
        composed("experiment=logged_run_1"), "float32", {"data": "f"}
    )


def test_the_recommended_sweep_has_every_variant() -> None:
    assert sorted(job_overrides("recommended")) == sorted(
        [f"experiment={name}"] for name in ["logged_run_1", *VARIANTS]
    )


@pytest.mark.parametrize("longest", [100, 20, 3])
def test_how_long_has_lengths_up_to_the_epochs_of_the_config(longest: int) -> None:
    overrides = job_overrides("how_long", f"trainer.epochs={longest}")
    lengths = [planned_job(job).record.config["trainer"]["epochs"] for job in overrides]
    assert lengths == sorted({*lengths})
    assert (lengths[0], lengths[-1]) == (max(1, longest // 10), longest)


def test_identify_logged_runs_has_every_combination_of_the_readings() -> None:
    runs = [planned_job(overrides) for overrides in job_overrides("identify_logged_runs")]
    assert len({run.replicate_key for run in runs}) == 48
    # The default recipe is one of the combinations.
    assert LoadedRun(ROOT, "", Record("", config=composed())).replicate_key in {
        run.replicate_key for run in runs
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sweep", GRIDS)
def test_a_sweep_has_valid_jobs_and_one_baseline(sweep: str, model: str) -> None:
    # A sweep over models overrides the model.
    runs = [planned_job([f"model={model}", *overrides]) for overrides in job_overrides(sweep)]
    for run in runs:
        check_config(run.record.config)
    assert len({sign(run.record.config, "float32", {"data": "f"}) for run in runs}) == len(runs)
    baseline = composed(f"sweep={sweep}")["baseline"]
    if baseline is not None:
        assert sum(FilterExpression(baseline).matches(run_fields(run)) for run in runs) == 1
    count = re.search(r"\b(\d+) jobs\b", head_comment(f"sweep/{sweep}.yaml"))[1]
    assert int(count) == len(runs)
    assert re.search(rf"^\| `{sweep}` \| {count} \|", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("sweep", SEARCHES)
def test_a_search_has_valid_corners_and_a_holdout(sweep: str, model: str) -> None:
    settings = sweep_preset(sweep)["hydra"]["sweeper"]
    space = SearchSpace([f"{key}={value}" for key, value in settings["params"].items()])
    for corner in space.corners():
        run = planned_job([f"model={model}", *space.overrides(corner)])
        check_config(run.record.config)
        assert run.record.config["data"]["holdout"] == 5000
    count = re.search(r"\b(\d+) trials\b", head_comment(f"sweep/{sweep}.yaml"))[1]
    assert int(count) == settings["n_trials"]
    assert re.search(rf"^\| `{sweep}` \| {count} \|", DOCUMENT, re.MULTILINE)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_the_preset_of_a_sweep_does_not_change_its_jobs(sweep: str) -> None:
    assert sweep_preset(sweep).keys() <= SETTINGS_OF_SWEEPS
    assert sweep_preset(sweep)["hydra"].keys() == {"sweeper"}
    assert sign(composed(f"sweep={sweep}"), "float32", {"data": "f"}) == sign(
        composed(), "float32", {"data": "f"}
    )
