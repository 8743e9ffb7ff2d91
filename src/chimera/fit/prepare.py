"""From what ``fit`` was given to what it trains: a Stack on its device, and the data beside it."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from chimera.build import build
from chimera.draws.seeds import derive
from chimera.fit.data import Data
from chimera.optim.groups import member_path
from chimera.paths.arguments import as_device
from chimera.stack import Stack

Members = Sequence[nn.Module] | Stack


def prepare(modules: Members, data: Data, seed: int, device: str | torch.device | None) -> Stack:
    """A Stack of copies of ``modules`` on ``device``; a Stack is taken as it is, moved in place.

    Members that wait for their first input (lazy layers) are built from the data's shape.

    Raises:
        TypeError: ``modules`` is no sequence of modules and no Stack.
        ValueError: there is no member, or ``device`` is none of this machine.
    """
    place = None if device is None else as_device("device", device)
    if place is not None and place.type == "meta":
        raise ValueError("device: 'meta' holds no numbers, and nothing trains there; 'cpu' does")
    if isinstance(modules, Stack):
        stack = modules
    else:
        stack = Stack(_members(modules, data, seed), seed=seed)
    return stack if place is None else stack.to(place)


def check_writable(stack: Stack) -> None:
    """Refuse members that no file of a run can hold.

    Raises:
        ValueError: a buffer of theirs is sparse.
    """
    for entry, buffer in stack.named_buffers():
        if buffer.layout != torch.strided:
            raise ValueError(
                f"out= writes the members down, and {member_path(entry)} is sparse, which no file "
                "holds; keep it dense and make it sparse in forward by .to_sparse(), or leave out "
                "out="
            )


def float_dtype(stack: nn.Module) -> torch.dtype | None:
    """The one dtype of the stack's floating parameters; None where there is none or several."""
    dtypes = {p.dtype for p in stack.parameters() if p.dtype.is_floating_point}
    return dtypes.pop() if len(dtypes) == 1 else None


def _members(modules: Sequence[nn.Module], data: Data, seed: int) -> Sequence[nn.Module]:
    """The modules, those that wait for their first input built; a Stack refuses what is none."""
    given: Any = modules
    if not isinstance(given, Iterable):
        return modules
    return [
        _built(member, data, derive(seed, "instance", index)) if _waits(member) else member
        for index, member in enumerate(given)
    ]


def _waits(member: object) -> bool:
    """Whether this is a module of which a parameter or buffer has no shape yet."""
    if not isinstance(member, nn.Module):
        return False
    return any(map(is_lazy, [*member.parameters(), *member.buffers()]))


def _built(module: nn.Module, data: Data, seed: int) -> nn.Module:
    dtypes = {p.dtype for p in module.parameters() if p.dtype.is_floating_point}
    dtype = dtypes.pop() if len(dtypes) == 1 else None
    return build(copy.deepcopy(module), data.to(data.device, dtype).spec(), seed=seed)
