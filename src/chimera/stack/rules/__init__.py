"""How one kind of layer runs with a member axis, where torch's own batching does not do it well.

A rule is a ``forward(module, ...)`` that runs inside ``torch.vmap`` instead of the layer's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from chimera.paths.structure import Reading

Forward = Callable[..., Any]
RULES: dict[type[nn.Module], tuple[str, Forward]] = {}


def forwards_of(reading: Reading) -> dict[int, Forward]:
    """The rules that run modules of a tree, by index. Only the very class counts: a subclass may
    compute something else."""
    return {
        index: RULES[type(module)][1]
        for index, (_, module) in enumerate(reading.modules)
        if type(module) in RULES
    }
