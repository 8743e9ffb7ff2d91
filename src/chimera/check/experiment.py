"""Small real runs of a copy of a network, for the rules that need numbers."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from chimera.build.builder import build
from chimera.build.inputs import Inputs
from chimera.build.spec import Spec
from chimera.build.trial import try_shapes
from chimera.build.twin import replica
from chimera.check.tape import Tape
from chimera.draws.seeds import forked
from chimera.paths.nest import flatten

T = TypeVar("T")

LARGEST = 150_000_000
"""The most parameters of a network that is run with numbers."""

FEW = 3
"""The rows of a batch whose size is free."""

_MUCH = 3_000_000
"""Inputs of more numbers are run with two rows."""


class Experiment:
    """Runs of one network, each on a copy of its own, with the same inputs and the same draws.

    Attributes:
        net: the network, built; rules do not run it, but copies of it.
        given: its inputs, tensors.
        free: whether the specification names the first axis of an input.
    """

    def __init__(self, net: nn.Module, inputs: Inputs) -> None:
        self.net = net
        specs = [leaf for leaf in inputs.leaves() if isinstance(leaf, Spec)]
        sizes: dict[str, int] = {}
        names = {size for spec in specs for size in spec.shape if isinstance(size, str)}
        if names:
            trial = _attempt(lambda: try_shapes(net, inputs))
            sizes = trial.sizes if trial is not None else dict.fromkeys(names, FEW)
        self.free = any(spec.shape and isinstance(spec.shape[0], str) for spec in specs)
        with quiet():
            self.given = inputs.map(lambda leaf: _made(leaf, sizes))
        if sum(t.numel() for t in self.tensors if t.is_floating_point()) > _MUCH:
            self.given = _resized(self.given, self.rows, 2)

    @property
    def tensors(self) -> list[Tensor]:
        """The input tensors."""
        return [leaf for leaf in self.given.leaves() if isinstance(leaf, Tensor)]

    @property
    def rows(self) -> int:
        """The size of the first axis of the first input; 0 where there is none."""
        tensors = self.tensors
        return tensors[0].shape[0] if tensors and tensors[0].dim() else 0

    @property
    def batched(self) -> bool:
        """Whether the first axis is the batch beyond doubt: named, or as a matrix or images, and
        not the nodes of a graph, whose edges are a square beside them."""
        tensors = self.tensors
        square = any(t.shape[:2] == (self.rows, self.rows) for t in tensors[1:])
        return self.free or bool(tensors and tensors[0].dim() in (2, 4) and not square)

    def record(self, given: Inputs | None = None, *, train: bool) -> Tape:
        """A run of a copy; what the network raises is raised."""
        return self.recorded(given, train=train)[0]

    def recorded(self, given: Inputs | None = None, *, train: bool) -> tuple[Tape, Any]:
        """A run of a copy, and what it returned."""
        net = replica(self.net).train(train)
        tape = Tape(net)
        with quiet(), torch.enable_grad():
            inputs = (given or self.given).map(_again)
            return tape, tape.run(inputs.args, inputs.kwargs)

    @cached_property
    def training(self) -> Tape | None:
        """A run in training mode; None where it fails."""
        return _attempt(lambda: self._trained[0])

    @cached_property
    def evaluation(self) -> Tape | None:
        """A run in evaluation mode; None where it fails."""
        return _attempt(lambda: self.record(train=False))

    @cached_property
    def gradients(self) -> dict[str, Tensor | None] | None:
        """The gradients of a random sum of the outputs, by path of parameter, of a run in training
        mode; None where nothing has a gradient or the run fails."""

        def differentiated() -> dict[str, Tensor | None] | None:
            tape, output = self._trained
            ends = [t for t in flatten(output, objects=True)[0] if isinstance(t, Tensor)]
            ends = [t for t in ends if t.requires_grad]
            named = {n: p for n, p in tape.root.named_parameters() if p.requires_grad}
            if not named or not ends:
                return None
            with quiet():
                weights = [torch.randn_like(end) for end in ends]
                found = torch.autograd.grad(
                    ends, list(named.values()), weights, allow_unused=True, retain_graph=False
                )
            return dict(zip(named, found, strict=True))

        return _attempt(differentiated)

    @cached_property
    def unmoved(self) -> set[str]:
        """The parameters that three steps of gradient descent leave as they are."""

        def trained() -> set[str]:
            net = replica(self.net).train()
            with quiet(), torch.enable_grad():
                for _ in range(3):
                    inputs = self.given.map(_again)
                    output = net(*inputs.args, **inputs.kwargs)
                    ends = [t for t in flatten(output, objects=True)[0] if isinstance(t, Tensor)]
                    ends = [t for t in ends if t.requires_grad]
                    named = [p for p in net.parameters() if p.requires_grad]
                    weights = [torch.randn_like(end) for end in ends]
                    found = torch.autograd.grad(ends, named, weights, allow_unused=True)
                    with torch.no_grad():
                        for parameter, gradient in zip(named, found, strict=True):
                            if gradient is not None:
                                parameter.sub_(0.1 * gradient)
            before = dict(self.net.named_parameters())
            return {n for n, p in net.named_parameters() if torch.equal(p, before[n])}

        return _attempt(trained) or set()

    @cached_property
    def another_row(self) -> tuple[Tape, Tape] | None:
        """Two runs in evaluation mode whose inputs differ in the first row alone."""
        if self.rows < 2 or not self.tensors:
            return None
        floating = any(t.is_floating_point() for t in self.tensors)

        def changed(leaf: Any) -> Any:
            if not (isinstance(leaf, Tensor) and _has(leaf, self.rows)):
                return leaf
            other = leaf.detach().clone()
            if leaf.is_floating_point():
                other[0] = other[0].roll(1) * 1.5 + 0.25
            elif not floating and leaf.dtype != torch.bool:
                other[0] = 1 - other[0].clamp(0, 1)
            return other

        def both() -> tuple[Tape, Tape] | None:
            one = self.evaluation
            return None if one is None else (one, self.record(self.given.map(changed), train=False))

        return _attempt(both)

    @cached_property
    def response(self) -> float | None:
        """By which part the outputs of a training run change when the inputs do, to first order:
        the size of the gradient times that of the inputs over that of the outputs. None where
        there is no such gradient."""

        def measured() -> float | None:
            net = replica(self.net).train()
            with quiet(), torch.enable_grad():
                inputs = self.given.map(_asking)
                output = net(*inputs.args, **inputs.kwargs)
                leaves = flatten(output, objects=True)[0]
                ends = [t for t in leaves if isinstance(t, Tensor) and t.requires_grad]
                asked = [t for t in inputs.leaves() if isinstance(t, Tensor) and t.requires_grad]
                if not ends or not asked:
                    return None
                weights = [torch.randn_like(end) for end in ends]
                found = torch.autograd.grad(ends, asked, weights, allow_unused=True)
            moved = sum(_size(g) * _size(t) for g, t in zip(found, asked, strict=True))
            return moved / size if (size := sum(map(_size, ends))) > 0 else None

        return _attempt(measured)

    def with_rows(self, rows: int) -> tuple[Tape, Exception | None]:
        """A run in evaluation mode on ``rows`` rows, and what the network raised, if it did."""
        tape = Tape(replica(self.net).eval())
        given = _resized(self.given, self.rows, rows).map(_again)
        try:
            with quiet():
                tape.run(given.args, given.kwargs)
        except Exception as error:  # noqa: BLE001 - whatever a forward raises is the answer
            return tape, error
        return tape, None

    @cached_property
    def _trained(self) -> tuple[Tape, Any]:
        return self.recorded(train=True)


def made(net: nn.Module | Callable[[], nn.Module], inputs: Inputs) -> Experiment | None:
    """Experiments on a network, or on what a factory makes; None where it cannot be run: it is too
    large, has no data, or fails."""

    def prepared() -> Experiment | None:
        with quiet():
            built = replica(net) if isinstance(net, nn.Module) else net()
            if any(map(_waits, (*built.parameters(), *built.buffers()))):
                build(built, inputs.map(_specified), seed=0)
            if count(built) > LARGEST:
                return None
            if any(tensor.is_meta for tensor in (*built.parameters(), *built.buffers())):
                return None
            experiment = Experiment(built, inputs)
            if experiment.free and experiment.rows > FEW:
                few = Experiment(built, inputs)
                few.given = _resized(few.given, few.rows, FEW)
                return few if few.evaluation is not None else experiment
            return experiment

    return _attempt(prepared)


def _attempt(run: Callable[[], T]) -> T | None:
    try:
        return run()
    except Exception:  # noqa: BLE001 - what a forward raises is told by does-not-run
        return None


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, and the same draws each time, the caller's generators left alone."""
    with warnings.catch_warnings(), forked(0):
        warnings.simplefilter("ignore")
        yield


def count(net: nn.Module) -> int:
    """The numbers in the parameters that have a shape."""
    return sum(p.numel() for p in net.parameters() if not _waits(p))


def _waits(tensor: Tensor) -> bool:
    return nn.parameter.is_lazy(tensor)


def _specified(leaf: Any) -> Any:
    return Spec(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _made(leaf: Any, sizes: dict[str, int]) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach()
    if not isinstance(leaf, Spec):
        return leaf
    return example(leaf.sized(sizes), leaf.dtype)


def example(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An input of a shape and dtype: standard normal numbers, masks of both kinds, zeros."""
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=dtype)
    if dtype == torch.bool:
        # Of a mask either value may mean "left out": no row is to be left out as a whole.
        last = torch.arange(shape[-1] if shape else 1) % 2 == 0
        return last.expand(shape).clone() if shape else last[0]
    # Integers are mostly indices: 0 is one everywhere.
    return torch.zeros(shape, dtype=dtype)


def _again(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _asking(leaf: Any) -> Any:
    leaf = _again(leaf)
    floating = isinstance(leaf, Tensor) and leaf.is_floating_point()
    return leaf.requires_grad_() if floating else leaf


def _size(tensor: Tensor | None) -> float:
    """The root of the sum of squares."""
    return 0.0 if tensor is None else float(tensor.detach().abs().double().square().sum().sqrt())


def _has(tensor: Tensor, rows: int) -> bool:
    return tensor.dim() > 0 and tensor.shape[0] == rows


def _resized(given: Inputs, rows: int, wanted: int) -> Inputs:
    """The inputs with ``wanted`` rows in the place of ``rows``, repeated where they do not do."""

    def resized(leaf: Any) -> Any:
        if not (isinstance(leaf, Tensor) and _has(leaf, rows)):
            return leaf
        times = -(-wanted // rows)
        return leaf.repeat(times, *(1 for _ in leaf.shape[1:]))[:wanted]

    return given.map(resized)
