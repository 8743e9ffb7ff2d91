"""One module of a summary, with its figures and what stands below it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from chimera.build.spec import Spec
from chimera.check.finding import Finding


@dataclass(frozen=True)
class TensorRow:
    """A parameter or buffer of a module.

    Attributes:
        name: its name in the module.
        path: its path in the network.
        kind: ``"parameter"`` or ``"buffer"``.
        shape: its axes.
        dtype: its dtype.
        trains: whether it takes gradients.
        tied_to: the path at which the same tensor stands first; None where this is the first.
        waits: whether the network itself has no values for it yet.
    """

    name: str
    path: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    trains: bool
    tied_to: str | None
    waits: bool

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return torch.Size(self.shape).numel()


@dataclass(frozen=True)
class Node:
    """A module at one path.

    A tensor or module that stands at several paths is counted at the first, so that the figures of
    children add up to no more than their parent's. Figures are of one forward call of the network.

    Attributes:
        path: the path; ``""`` is the root's.
        kind: the name of its class.
        settings: what its ``extra_repr`` says.
        calls: how often one run calls it.
        inputs: the first call's inputs, a ``Spec`` for each tensor, one alone as it is, several as
            ``Inputs``; None if it was not called.
        output: the first call's output, likewise.
        own: the numbers in parameters of its own, those of its children left out.
        parameters: the numbers in its parameters and those below it.
        frozen: as many of them take no gradient.
        shared: the numbers in parameters at or below it that are counted at an earlier path.
        buffers: the numbers in its buffers and those below it.
        multiply_adds: of its forward and of what it calls below it.
        activations: bytes that autograd keeps of them for the backward pass.
        seconds: what its forward took, all calls together; None if that was not measured.
        tied_to: the first path of the same module; None where this is the first.
        tensors: its own parameters and buffers.
        findings: what ``check`` found here.
        children: the modules below, in order.
    """

    path: str
    kind: str
    settings: str
    calls: int
    inputs: Any
    output: Any
    own: int
    parameters: int
    frozen: int
    shared: int
    buffers: int
    multiply_adds: int
    activations: int
    seconds: float | None
    tied_to: str | None
    tensors: tuple[TensorRow, ...] = ()
    findings: tuple[Finding, ...] = ()
    children: tuple["Node", ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """The last name of the path."""
        return self.path.rpartition(".")[2]

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    @cached_property
    def look(self) -> tuple[Any, ...]:
        """What two nodes have in common that are shown as one, repeated."""
        tensors = tuple(
            (row.name, row.shape, row.dtype, row.trains, row.tied_to is None)
            for row in self.tensors
        )
        findings = tuple((found.rule, found.severity) for found in self.findings)
        return (
            self.kind,
            self.settings,
            self.calls,
            _key(self.inputs),
            _key(self.output),
            self.tied_to is None,
            tensors,
            findings,
            tuple(child.look for child in self.children),
        )


def _key(value: Any) -> str:
    return repr(value) if not isinstance(value, Spec) else f"{value.shape} {value.dtype}"
