"""The hooks of a copy that runs without data: what only looks on may look for numbers in vain.

A hook that plots an output, or keeps it as an array, needs numbers that are not there. It is passed
over where it asks for them, as if it returned nothing; what else a hook does or raises holds.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from chimera.decide.explore import DataNeeded, hide
from chimera.paths.hooks import hooks_of

hide(__file__)


def may_need_data(net: nn.Module) -> None:
    """Let the hooks of ``net``, a copy, pass where they need data. A method of the module itself,
    such as that by which a lazy one makes its parameters, is none of them."""
    for module in net.modules():
        for table in hooks_of(module):
            for key, hook in table.items():
                if getattr(hook, "__self__", None) is not module:
                    table[key] = _passing(hook)


def _passing(hook: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook, updated=())
    def passing(*args: Any, **kwargs: Any) -> Any:
        try:
            return hook(*args, **kwargs)
        except DataNeeded:
            return None

    return passing
