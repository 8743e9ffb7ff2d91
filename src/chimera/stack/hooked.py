"""Hooks of members that run one by one: in a backward pass each finds its own member in place.

A hook fires long after the call of its member has gone, when no member stands in the template, and
what it writes there would be of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from chimera.paths.hooks import backward_tables, has_hooks
from chimera.paths.nest import flatten
from chimera.paths.slots import Written
from chimera.paths.walk import join
from chimera.stack.group import Group

Hook = Callable[..., Any]


@contextmanager
def standing_later(modules: Iterable[nn.Module], again: Callable[[Hook], Hook]) -> Iterator[None]:
    """Let backward hooks that calls take up be what ``again`` makes of them, for some time."""
    saved = [(table, dict(table)) for module in modules for table in backward_tables(module)]
    for table, hooks in saved:
        table.update({number: again(hook) for number, hook in hooks.items()})
    try:
        yield
    finally:
        for table, hooks in saved:
            table.update({number: hook for number, hook in hooks.items() if number in table})


def check_left(group: Group, tensors: Iterable[Tensor], written: Written) -> None:
    """Refuse what a later call would find where a module runs alone, and no member can keep.

    Args:
        group: the group.
        tensors: those of the member that ran, one a slot.
        written: what its call wrote.

    Raises:
        TypeError: a parameter has a hook, or a tensor is kept whose gradient it retains.
    """
    for slot, tensor in zip(group.slots, tensors, strict=True):
        if has_hooks(tensor):
            raise TypeError(
                f"{slot.path}: forward leaves a hook on this tensor, where alone it stays for all "
                "later calls; remove it at the end of forward, or hook what is computed from it"
            )
    for (index, name), value in written.attributes.items():
        for leaf in flatten(value, objects=True)[0]:
            if isinstance(leaf, Tensor) and leaf.retains_grad:
                raise TypeError(
                    f"{join(group.reading.modules[index][0], name)}: forward keeps a tensor that "
                    "retains its gradient, and a stack keeps values alone; keep the gradient by a "
                    "hook, as in h.register_hook(lambda grad: self.grad.copy_(grad))"
                )
