"""The optimizer of a run: as given, for some of its members, and as ``torch.optim`` has it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from chimera import optim
from chimera.optim.groups import member_path
from chimera.optim.optimizer import Optimizer
from chimera.paths.patterns import matches

OptimizerClass = Callable[..., Optimizer]


def check_optimizer(optimizer: Any) -> None:
    """Raises TypeError where this is no class of ``ch.optim`` nor a ``functools.partial`` of it."""
    kind = class_of(optimizer)
    if not isinstance(kind, type):
        raise TypeError(
            f"optimizer must be a class of ch.optim, such as ch.optim.AdamW, got {optimizer!r}"
        )
    if not issubclass(kind, Optimizer):
        hint = f"; write ch.optim.{kind.__name__}" if hasattr(optim, kind.__name__) else ""
        raise TypeError(
            "optimizer must be a class of ch.optim, whose settings may differ per member, "
            f"got {kind.__module__}.{kind.__qualname__}{hint}"
        )


def class_of(optimizer: OptimizerClass) -> Any:
    """The class itself, without the arguments that a ``functools.partial`` adds."""
    while isinstance(optimizer, functools.partial):
        optimizer = optimizer.func
    return optimizer


def name_of(optimizer: OptimizerClass) -> str:
    """The name that the class has in ``ch.optim`` and in ``torch.optim``."""
    classes: tuple[type, ...] = class_of(optimizer).__mro__
    return next(c.__name__ for c in classes if c.__module__.startswith(f"{optim.__name__}."))


def own_settings(optimizer: Optimizer) -> dict[str, list[float]]:
    """The hyper-parameters of which every member has its own, by name, in member order.

    Those of a parameter group but the first have its number behind their name.
    """
    return {
        f"{name}_{number}" if number else name: value
        for number, group in enumerate(optimizer.settings)
        for name, value in group.items()
        if isinstance(value, list) and name != "params"
    }


def for_members(
    optimizer: OptimizerClass, positions: Sequence[int], members: int
) -> OptimizerClass:
    """The optimizer for some of ``members`` members alone: settings of one per member keep theirs.

    Raises:
        ValueError: it has parameter groups.
    """
    if not isinstance(optimizer, functools.partial):
        return optimizer
    if "groups" in optimizer.keywords:
        raise ValueError("a loop of plain modules cannot have the parameter groups of a stack")
    kind = class_of(optimizer)
    keywords = {
        name: tuple(_chosen(part, positions, members) for part in value)
        if name in kind.pairs
        else _chosen(value, positions, members)
        for name, value in optimizer.keywords.items()
    }
    return functools.partial(for_members(optimizer.func, positions, members), **keywords)


def for_share(
    optimizer: OptimizerClass, positions: Sequence[int], members: int, names: Sequence[str]
) -> OptimizerClass:
    """The optimizer for the share of a rank: as `for_members`, with the parameter groups.

    Groups of whose parameters the share has none are left out.

    Args:
        optimizer: of all members.
        positions: of the share's members among all.
        members: how many all are.
        names: of the share's stacked parameters, ``groups.<g>.<path>``.

    Raises:
        ValueError: a parameter group names parameters of one group of members.
    """
    if not isinstance(optimizer, functools.partial) or "groups" not in optimizer.keywords:
        return for_members(optimizer, positions, members)
    keywords = dict(optimizer.keywords)
    pairs = class_of(optimizer).pairs
    own = []
    for number, group in enumerate(keywords.pop("groups")):
        selectors = group["params"]
        listed = [selectors] if isinstance(selectors, (str, torch.Tensor)) else list(selectors)
        for one in listed:
            if not isinstance(one, str) or one.startswith("groups."):
                raise ValueError(
                    f"groups[{number}]: over ranks parameters are named by their path in a "
                    f'member, as "**.bias", got {one!r:.60}'
                )
        paths = [member_path(name) for name in names]
        found = [one for one in listed if any(matches(str(one), path) for path in paths)]
        if found:
            values = {
                name: tuple(_chosen(part, positions, members) for part in value)
                if name in pairs
                else _chosen(value, positions, members)
                for name, value in group.items()
                if name != "params"
            }
            own.append({"params": found, **values})
    rest = functools.partial(optimizer.func, **keywords)
    return functools.partial(for_members(rest, positions, members), groups=own)


def _chosen(value: Any, positions: Sequence[int], members: int) -> Any:
    if isinstance(value, (bool, int, float)):
        return value
    values = torch.as_tensor(value, dtype=torch.float64)
    return values[list(positions)] if values.shape == (members,) else values


def of_member(
    optimizer: Optimizer, position: int, module: nn.Module, **options: Any
) -> torch.optim.Optimizer:
    """The optimizer of ``torch.optim`` that does to ``module`` what a stack's does to a member.

    Args:
        optimizer: of the stack, without parameter groups.
        position: of the member in the stack.
        module: the member, alone.
        options: more arguments for ``torch.optim``, such as ``fused``.
    """
    (group,) = optimizer.settings
    values: dict[str, Any] = {
        name: value[position] if isinstance(value, list) else value
        for name, value in group.items()
        if name != "params"
    }
    for pair, names in optimizer.pairs.items():
        values[pair] = tuple(values.pop(name) for name in names)
    kind = getattr(torch.optim, name_of(type(optimizer)))
    made: torch.optim.Optimizer = kind(
        module.parameters(), **values, **optimizer.options, **options
    )
    return made
