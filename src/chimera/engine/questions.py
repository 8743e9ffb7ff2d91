"""Refuses to tell a recording what a tensor holds as a Python value.

torch answers for tensors that stand outside of what is recorded, and the recording would hold the
answer for good, whatever is written into the tensor later. Contract: only what was made inside of
numbers alone is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from chimera.decide.watch import CONVERSIONS

_QUESTIONS = {
    *(function for function, name in CONVERSIONS.items() if name != "requires_grad"),
    *(Tensor.numpy, Tensor.__array__, Tensor.__contains__),
    *(torch.equal, Tensor.equal, torch.allclose, Tensor.allclose),
}


class Asked(Exception):
    """A recording asked a tensor for a Python value."""


@contextmanager
def unasked() -> Iterator[None]:
    """Refuse questions to tensors that are not made inside from numbers.

    Raises:
        Asked: one was asked, whether or not the module caught that.
    """
    mode = _Unasked()
    with mode:
        yield
    if mode.refused is not None:
        raise mode.refused


class _Unasked(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, Tensor] = {}  # kept alive, so that ids stay theirs
        self.refused: Asked | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        options = kwargs or {}
        from_numbers = all(id(t) in self._made for t in _tensors((*args, *options.values())))
        if func in _QUESTIONS and not from_numbers:
            self.refused = Asked("it asks a tensor for a Python value")
            raise self.refused
        found = func(*args, **options)
        if from_numbers:
            self._made.update((id(tensor), tensor) for tensor in _tensors([found]))
        return found


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
