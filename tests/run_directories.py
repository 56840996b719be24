"""Run directories that are written without the code that reads them."""

import json
from pathlib import Path
from typing import Any

COLUMNS = "epoch,lr,train_loss,train_acc,val_loss,val_acc,grad_norm,seconds,images_per_second"


def write_run(
    directory: Path, settings: dict[str, Any] | None = None, accuracy: float = 70.0, **changes: Any
) -> Path:
    """Write a run of two epochs.

    Args:
        directory: the run directory; it is made if it doesn't exist.
        settings: settings to change, with dotted names as keys; the value `...` removes a setting.
        accuracy: the validation accuracy of the second epoch, which is the best, in percent.
        changes: values to change in `run.json`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "seed": 0,
        "model": {"_target_": "resnet_sweep.models.ResNet", "widths": [16, 32], "dropout": 0.1},
        "data": {"_target_": "resnet_sweep.data.Digits"},
        "optim": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
        "trainer": {"epochs": 2, "device": "auto", "threads": None},
        "logger": {},
    }
    for name, value in (settings or {}).items():
        *groups, key = name.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        if value is ...:
            node.pop(key, None)
        else:
            node[key] = value
    record = {
        "signature": "0123456789abcdef",
        "state": "finished",
        "reason": "",
        "config": config,
        "choices": {"model": "resnet8v2", "data": "digits", "optim": "sgd"},
        "overrides": [],
        "hydra_flags": [],
        "parameters": 77850,
        "best": {"epoch": 2, "val_acc": accuracy, "val_loss": 1.5},
        "final": {
            "epoch": 2,
            "train_acc": 80.0,
            "train_loss": 1.0,
            "val_acc": accuracy,
            "val_loss": 1.5,
        },
        "gap": 80.0 - accuracy,
        "seconds": 12.5,
        "started": "2026-01-02T03:04:05+00:00",
        "ended": "2026-01-02T03:05:05+00:00",
        "host": "here",
        "device": "cpu",
        "threads": 1,
        "precision": "float32",
        "versions": {"python": "3.11.7", "torch": "2.7.0"},
        "git_commit": None,
        "seed": config["seed"],
        "inputs": {"data": "f"},
        "notes": [],
        "heartbeat": None,
    }
    (directory / "run.json").write_text(json.dumps(record | changes))
    rows = [
        f"1,0.1,2.0,50.0,2.5,{accuracy - 10},1.0,6.0,100.0",
        f"2,0.05,1.0,80.0,1.5,{accuracy},1.0,6.5,100.0",
    ]
    (directory / "metrics.csv").write_text("\n".join([COLUMNS, *rows, ""]))
    return directory
