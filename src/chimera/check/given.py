"""What a network is given to run with numbers: tensors in the places of specifications."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.build.inputs import Inputs
from chimera.build.spec import Spec

FEW = 3
"""The rows of a batch whose size is free."""

_MUCH = 3_000_000
"""Inputs of more numbers are run with two rows."""


@dataclass(frozen=True)
class Numbers:
    """What stands for open numbers: ``"normal"`` or ``"unit"`` floats (between 0 and 1), and one
    integer everywhere."""

    floats: str = "normal"
    integer: int = 0

    def told(self, inputs: Inputs) -> tuple[str, ...]:
        """In words, as far as the specifications among ``inputs`` ask for them."""
        specs = [leaf for leaf in inputs.leaves() if isinstance(leaf, Spec)]
        said = []
        if any(map(_is_floating, specs)):
            said.append(
                "standard normal numbers" if self.floats == "normal" else "numbers between 0 and 1"
            )
        if any(map(_is_integer, specs)):
            said.append(f"integers of {self.integer}")
        return tuple(said)


TWOS = Numbers(integer=2)


def plausible(inputs: Inputs) -> list[Numbers]:
    """Numbers for the specifications among ``inputs``, the usual ones first."""
    specs = [leaf for leaf in inputs.leaves() if isinstance(leaf, Spec)]
    floats = ("normal", "unit") if any(map(_is_floating, specs)) else ("normal",)
    integers = (0, 1) if any(map(_is_integer, specs)) else (0,)
    return [Numbers(kind, number) for kind in floats for number in integers]


def _is_floating(spec: Spec) -> bool:
    return spec.dtype.is_floating_point or spec.dtype.is_complex


def _is_integer(spec: Spec) -> bool:
    return not _is_floating(spec) and spec.dtype != torch.bool


def specified(leaf: Any) -> Any:
    """A specification in the place of a tensor."""
    return Spec(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def filled(
    inputs: Inputs, sizes: Mapping[str, int] | None, numbers: Numbers
) -> tuple[Inputs, bool]:
    """Tensors in the places of specifications, the same each time; and whether the first axis of
    one of them is free.

    Args:
        sizes: of the free axes; where they are not known each is ``FEW``.
        numbers: what stands there.
    """
    specs = [leaf for leaf in inputs.leaves() if isinstance(leaf, Spec)]
    names = {size for spec in specs for size in spec.shape if isinstance(size, str)}
    known = dict.fromkeys(names, FEW) if sizes is None else dict(sizes)
    given = inputs.map(lambda leaf: _tensor(leaf, known, numbers))
    floating = [t for t in given.leaves() if isinstance(t, Tensor) and t.is_floating_point()]
    if sum(t.numel() for t in floating) > _MUCH:
        given = resized(given, rows(given), 2)
    return given, any(spec.shape and isinstance(spec.shape[0], str) for spec in specs)


def rows(given: Inputs) -> int:
    """The size of the first axis of the first tensor; 0 where there is none."""
    tensors = [leaf for leaf in given.leaves() if isinstance(leaf, Tensor)]
    return tensors[0].shape[0] if tensors and tensors[0].dim() else 0


def _tensor(leaf: Any, sizes: dict[str, int], numbers: Numbers) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach()
    if not isinstance(leaf, Spec):
        return leaf
    shape, dtype = leaf.sized(sizes), leaf.dtype
    if _is_floating(leaf):
        if numbers.floats == "normal":
            return torch.randn(shape, dtype=dtype)
        return torch.rand(shape, dtype=dtype) * 0.98 + 0.01
    if dtype == torch.bool:
        # Of a mask either value may mean "left out": no row is to be left out as a whole.
        last = torch.arange(shape[-1] if shape else 1) % 2 == 0
        return last.expand(shape).clone() if shape else last[0]
    # Integers are mostly indices: 0 is one everywhere.
    return torch.full(shape, numbers.integer, dtype=dtype)


def again(leaf: Any) -> Any:
    """A copy of a tensor."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def asking(leaf: Any) -> Any:
    """A copy of a tensor that takes a gradient, where it can."""
    leaf = again(leaf)
    floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.requires_grad_() if floating else leaf


def has(tensor: Tensor, rows: int) -> bool:
    """Whether the first axis has that size."""
    return tensor.dim() > 0 and tensor.shape[0] == rows


def resized(given: Inputs, rows: int, wanted: int) -> Inputs:
    """The inputs with ``wanted`` rows in the place of ``rows``, repeated where they do not do."""

    def one(leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and has(leaf, rows)):
            return leaf
        times = -(-wanted // rows)
        return leaf.repeat(times, *(1 for _ in leaf.shape[1:]))[:wanted]

    return given.map(one)
