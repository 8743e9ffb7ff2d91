"""What a run writes with ``out=``, each file whole or not at all.

``config.json``         what the run was told, and a hash of its data
``environment.json``    versions, platform, device, threads
``metrics.jsonl``       one whole line an epoch: for each figure the list over members
``members.csv``         one row a member: group, hyper-parameters, final figures
``members.safetensors`` the stack, as ``ch.save`` writes it: ``groups.<g>.<path>``, members first

JSON has no NaN: a figure that is not finite is null there, and nan or inf in ``members.csv``.
"""

import csv
import io
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from chimera.fit.optimizers import name_of
from chimera.fit.result import Result, Row
from chimera.fit.settings import Settings
from chimera.optim.optimizer import Optimizer
from chimera.stack import save
from chimera.store.atomic import write_atomic
from chimera.store.claim import claim_empty
from chimera.store.lines import JsonLines

_PACKAGES = ("chimera-nn", "torch", "numpy", "safetensors")


class RunDirectory:
    """The directory of one run; refused unless it is new or empty, and writable.

    Raises:
        ValueError: ``out`` is a file, holds something, or cannot be written to.
    """

    def __init__(self, out: str | os.PathLike[str]) -> None:
        self.path: Path = claim_empty(out)

    def start(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Writes what is known before training, and opens ``metrics.jsonl``."""
        for name, content in (("config", config), ("environment", environment)):
            write_atomic(self.path / f"{name}.json", json.dumps(content, indent=2) + "\n")
        self._lines = JsonLines(self.path / "metrics.jsonl")

    def add_epoch(self, record: Row) -> None:
        """Appends one epoch's line."""
        self._lines.append(record)

    def finish(self, result: Result) -> None:
        """Writes the members' table and weights."""
        self._lines.close()
        write_atomic(self.path / "members.csv", as_csv(result.table))
        save(result.stack, self.path / "members.safetensors")

    def close(self) -> None:
        """Closes ``metrics.jsonl``, wherever the run stopped."""
        if hasattr(self, "_lines"):
            self._lines.close()


def config_of(
    settings: Settings, members: int, optimizer: Optimizer, extra: Mapping[str, Any]
) -> Row:
    """What the run was told, as JSON can say it."""
    data = settings.data
    return {
        **extra,
        "data": {
            "name": data.name,
            "task": data.task,
            "classes": data.classes,
            "samples": [len(data.train), len(data.validation), len(data.test)],
            "sample_shape": list(data.train.x.shape[1:]),
            "split": list(data.split),
            "seed": data.seed,
            "sha256": data.sha256(),
        },
        "members": members,
        "optimizer": {
            "name": name_of(settings.optimizer),
            "groups": optimizer.settings,
            **optimizer.options,
        },
        "loss": _name(settings.loss),
        "metric": settings.metric.name,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
    }


def environment_of(device: torch.device) -> Row:
    """Versions, platform, device and threads: what figures and times depend on besides config."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": device_name(device),
    }


def device_name(device: torch.device) -> str:
    """What the device is, in words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine()


def as_csv(table: list[Row]) -> str:
    """The table as CSV, one line a member below the names of the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _name(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)
