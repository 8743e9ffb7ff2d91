"""The table of stack rules.

A rule is a ``forward(module, ...)`` that runs inside ``torch.vmap`` instead of the layer's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from chimera.paths.structure import Reading

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one kind of layer runs with a member axis.

    Attributes:
        name: as ``explain`` shows it.
        forward: runs instead of the layer's own ``forward``.
        casts: whether it computes under autocast as the layer does.
    """

    name: str
    forward: Forward
    casts: bool = False


RULES: dict[type[nn.Module], Rule] = {}


def rule(kind: type[nn.Module], name: str, *, casts: bool = False) -> Callable[[Forward], Forward]:
    """Register a function as the rule of a class of layers."""

    def register(forward: Forward) -> Forward:
        RULES[kind] = Rule(name, forward, casts)
        return forward

    return register


def rule_of(module: nn.Module) -> Rule | None:
    """The rule that runs a module.

    Only its very class counts: a subclass may differ, and so may a forward of the instance's own.
    """
    return None if "forward" in module.__dict__ else RULES.get(type(module))


def forwards_of(reading: Reading, *, casts: bool = False) -> dict[int, Forward]:
    """The rules that run modules of a tree, by index; with ``casts`` those that autocast allows."""
    found = {index: rule_of(module) for index, (_, module) in enumerate(reading.modules)}
    return {
        index: known.forward
        for index, known in found.items()
        if known is not None and (known.casts or not casts)
    }
