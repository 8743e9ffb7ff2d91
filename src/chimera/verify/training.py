"""Whole training runs in float64: the stack's optimizer against ``torch.optim`` on each member."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.inputs import Inputs
from chimera.draws.mode import randomness
from chimera.engine.step import train_step
from chimera.optim.optimizer import Optimizer
from chimera.stack.each import Arguments, Each
from chimera.stack.stack import Stack
from chimera.verify.loop import cast
from chimera.verify.measure import Comparison, relative

RTOL = 1e-6


def compare_training(
    stack: Stack, given: Arguments, loss: Callable[..., Tensor], optimizer: Optimizer, steps: int
) -> list[Comparison]:
    """Train copies of the stack and of its members for ``steps`` steps and compare.

    Args:
        stack: the members.
        given: arguments ``(inputs, named, targets)`` of all members.
        loss: ``loss(output, *targets)`` of one member.
        optimizer: whose class and settings both sides take.
        steps: how many.
    """
    given = Arguments([_double(leaf) for leaf in given.leaves], given.own, given.shape)
    ours = copy.deepcopy(stack).double()
    mine = again(optimizer, ours)
    step = train_step(ours, loss, mine)
    inputs, named, targets = _marked(given)
    known = Inputs(inputs, named)
    losses = torch.stack([step(known, *targets) for _ in range(steps)], 1)
    modules = [cast(module, torch.float64) for module in stack.modules_list()]
    others = [
        _train_alone(stack, place, module, given, loss, optimizer, steps)
        for place, module in enumerate(modules)
    ]
    found = [relative("loss", "over steps", losses, torch.stack(others), RTOL)]
    trained = ours.modules_list()
    for kind, name_of in (("parameter", "named_parameters"), ("buffer", "named_buffers")):
        for name in dict.fromkeys(n for m in modules for n, _ in getattr(m, name_of)()):
            found += _compare(f"trained {kind}", name, name_of, trained, modules)
    return found


def _compare(
    kind: str, name: str, name_of: str, ours: Sequence[nn.Module], theirs: Sequence[nn.Module]
) -> list[Comparison]:
    by_shape: dict[Any, list[tuple[Tensor, Tensor]]] = {}
    for one, other in zip(ours, theirs, strict=True):
        a, b = dict(getattr(one, name_of)()), dict(getattr(other, name_of)())
        if name in b:
            by_shape.setdefault(b[name].shape, []).append((a[name].detach(), b[name].detach()))
    return [
        relative(
            kind, name, torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs]), RTOL
        )
        for pairs in by_shape.values()
    ]


def again(optimizer: Optimizer, stack: Stack) -> Optimizer:
    """An optimizer of the same class and settings over another stack of the same structure."""
    first, *others = optimizer.settings
    groups = [_joined(optimizer, settings) for settings in others]
    settings = _joined(optimizer, first)
    settings.pop("params")
    return type(optimizer)(stack, groups=groups, **settings)


def _joined(optimizer: Optimizer, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the pairs put together again, as constructors take them."""
    joined = dict(settings)
    for pair, (one, other) in optimizer.pairs.items():
        joined[pair] = (joined.pop(one), joined.pop(other))
    return joined


def alone(
    optimizer: Optimizer, stack: Stack, place: int, module: nn.Module
) -> torch.optim.Optimizer:
    """``torch.optim``'s optimizer of the same class for one member, with its own settings."""
    kind = getattr(torch.optim, type(optimizer).__name__)
    paths = _paths(stack, place)
    parameters = dict(module.named_parameters())
    groups = []
    for settings in optimizer.settings:
        names = [paths[name] for name in settings["params"] if name in paths]
        own = {
            name: value[place] if isinstance(value, list) else value
            for name, value in settings.items()
            if name != "params"
        }
        for pair, (one, other) in optimizer.pairs.items():
            own[pair] = (own.pop(one), own.pop(other))
        if names:
            groups.append({"params": [parameters[name] for name in names], **own})
    optimizer_alone: torch.optim.Optimizer = kind(groups)
    return optimizer_alone


def _paths(stack: Stack, place: int) -> dict[str, str]:
    """For the parameters of a member's group: their path in the member, by name in the stack."""
    return {
        entry.name: entry.name.split(".", 2)[2]
        for entry in stack.layout()
        if place in entry.members.tolist()
    }


def _train_alone(
    stack: Stack,
    place: int,
    module: nn.Module,
    given: Arguments,
    loss: Callable[..., Tensor],
    optimizer: Optimizer,
    steps: int,
) -> Tensor:
    theirs = alone(optimizer, stack, place, module)
    losses = []
    for number in range(steps):
        args, _ = given.copies(place)
        inputs, named, targets = args
        with randomness(seed=stack.seed, member=stack.members[place], step=number):
            value = loss(module(*inputs, **named), *targets)
        theirs.zero_grad()
        value.backward()
        theirs.step()
        losses.append(value.detach())
    return torch.stack(losses)


def _marked(given: Arguments) -> tuple[tuple[Any, ...], dict[str, Any], tuple[Any, ...]]:
    """The arguments as ``train_step`` takes them, each member's own under ``each``."""
    args, _ = given.rebuild(
        [Each(leaf) if own else leaf for leaf, own in zip(given.leaves, given.own, strict=True)]
    )
    inputs, named, targets = args
    return inputs, named, targets


def _double(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point:
        return leaf.detach().double()
    if isinstance(leaf, Tensor) and leaf.is_complex():
        return leaf.detach().to(torch.complex128)
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
