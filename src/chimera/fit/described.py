"""What is written of a run before it starts: what it was told, and where it runs."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from chimera.fit.code import code_of, said_of
from chimera.fit.data import add_to
from chimera.fit.optimizers import name_of
from chimera.fit.result import Row
from chimera.fit.same_run import network_of
from chimera.fit.settings import Settings
from chimera.fit.table import plain
from chimera.optim.optimizer import Optimizer
from chimera.stack import Stack

OWN_KEYS = frozenset(
    {
        *("run", "data", "members", "weights_sha256", "network", "optimizer"),
        *("loss", "loss_sha256", "metric", "metric_sha256", "epochs", "batch_size", "seed"),
        *("hyperparameters", "clip", "engine", "memory", "writing", "choices"),
    }
)
"""What a run says of itself in its config."""

_COMMAND = "command"
_PACKAGES = ("chimera-nn", "torch", "numpy", "safetensors")


def as_config(config: Any, *, commanded: bool) -> Mapping[str, Any]:
    """What a caller adds to the config, looked at before anything runs.

    Args:
        config: what is added.
        commanded: whether the caller is the command line, which adds what it was told.

    Raises:
        TypeError: it is no dict, or holds what JSON cannot say.
        ValueError: it has a key that a run says of itself.
    """
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be a dict of what JSON can say, got {config!r:.60}")
    own = OWN_KEYS if commanded else OWN_KEYS | {_COMMAND}
    for key in sorted(own.intersection(config)):
        raise ValueError(
            f"config: {key!r} is what the run says of itself in config.json, and would be lost; "
            "give it another name"
        )
    for key, value in config.items():
        try:
            json.dumps({key: value})
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"config: {key!r} is {value!r:.60}, which JSON cannot say ({error}); give numbers, "
                "text, lists and dicts of them"
            ) from None
    return config


def config_of(
    settings: Settings,
    stack: Stack,
    optimizer: Optimizer,
    columns: Mapping[str, Sequence[Any]],
    writing: Row,
    extra: Mapping[str, Any],
) -> Row:
    """What the run was told, as JSON can say it, beside ``extra``.

    Args:
        settings: of the run.
        stack: of all members, as they start.
        optimizer: of all members.
        columns: hyper-parameters of the modules, one value a member.
        writing: how often the run is written down.
        extra: what the caller adds.
    """
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
        "members": len(stack),
        "weights_sha256": weights_of(stack),
        "network": network_of(stack),
        "optimizer": {
            "name": name_of(settings.optimizer),
            "groups": optimizer.settings,
            **optimizer.options,
        },
        "loss": _name(settings.loss),
        "loss_sha256": code_of(settings.loss),
        "metric": settings.metric.name,
        "metric_sha256": code_of(getattr(settings.metric, "function", None)),
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "hyperparameters": {
            name: [said_of(value) for value in own] for name, own in columns.items()
        },
        "clip": plain(settings.clip),
        "engine": settings.engine,
        "memory": settings.memory,
        "writing": writing,
    }


def weights_of(stack: Stack) -> str:
    """A hash of the parameters and buffers of all members."""
    digest = hashlib.sha256()
    for name, tensor in (*stack.named_parameters(), *stack.named_buffers()):
        if tensor.layout is torch.strided:
            add_to(digest, name, tensor.detach())
    return digest.hexdigest()


def environment_of(device: torch.device, ranks: int = 1) -> Row:
    """Versions, platform, device, threads, ranks: on what figures and times depend, too."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES} | {"torch": torch.__version__},
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "device_name": device_name(device),
        "ranks": ranks,
    }


def device_name(device: torch.device) -> str:
    """What the device is, in words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _name(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)
