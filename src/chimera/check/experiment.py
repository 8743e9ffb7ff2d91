"""Small real runs of a copy of a network, for the rules that need numbers."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from chimera.build.inputs import Inputs
from chimera.build.twin import replica
from chimera.check.given import again, asking, has, resized, rows
from chimera.check.tape import Tape
from chimera.decide.ending import Ending, not_exiting
from chimera.decide.explore import DidNotEnd
from chimera.draws.outside import drew, states
from chimera.draws.seeds import forked
from chimera.paths.hooks import without_hooks_of_all
from chimera.paths.nest import tensors_in
from chimera.paths.notes import point

T = TypeVar("T")

LARGEST = 150_000_000
"""The most parameters of a network that is run with numbers."""


class Experiment:
    """Runs of one network, each on a copy of its own, with the same inputs and the same draws.

    Attributes:
        net: the network, built; rules do not run it, but copies of it.
        given: its inputs, tensors.
        free: whether the specification names the first axis of an input.
        numbers: what was put in the places of specifications, in words; empty for examples.
        failure: what a run raised that failed, once it was asked for.
        backward: what the backward pass of ``gradients`` raised.
        usual: the experiment on the numbers that are tried first, where those of this one were
            taken because the network is not finite, or does not run, on them.
    """

    def __init__(
        self, net: nn.Module, given: Inputs, free: bool, numbers: tuple[str, ...] = ()
    ) -> None:
        self.net = net
        self.given = given
        self.free = free
        self.numbers = numbers
        self.failure: Exception | None = None
        self.usual: Experiment | None = None
        self.backward: Exception | None = None
        self._endless: DidNotEnd | None = None
        self._of_rows: dict[int, tuple[Tape, Exception | None]] = {}

    @property
    def tensors(self) -> list[Tensor]:
        """The input tensors."""
        return [leaf for leaf in self.given.leaves() if isinstance(leaf, Tensor)]

    @property
    def rows(self) -> int:
        """The size of the first axis of the first input; 0 where there is none."""
        return rows(self.given)

    @property
    def batched(self) -> bool:
        """Whether the first axis is the batch beyond doubt: named, or as a matrix or images, and
        not the nodes of a graph, whose edges are a square beside them."""
        tensors = self.tensors
        square = any(t.shape[:2] == (self.rows, self.rows) for t in tensors[1:])
        return self.free or bool(tensors and tensors[0].dim() in (2, 4) and not square)

    def record(self, given: Inputs | None = None, *, train: bool) -> tuple[Tape, Any]:
        """A run of a copy, and what it returned; what the network raises is raised."""
        tape = Tape(replica(self.net).train(train))
        with quiet(), torch.enable_grad():
            inputs, before = (given or self.given).map(again), states()
            try:
                return tape, self._run(tape, inputs)
            except Exception as error:
                point(error, tape.root)
                raise
            finally:
                tape.outside = drew(before)

    def _run(self, tape: Tape, inputs: Inputs) -> Any:
        """One run that is recorded; after one without an end no other begins."""
        if self._endless is not None:
            raise self._endless
        try:
            return tape.run(inputs.args, inputs.kwargs)
        except DidNotEnd as error:
            self._endless = error
            raise

    @cached_property
    def finite(self) -> bool:
        """Whether it runs, in both modes, and every number that it returns is finite."""
        tapes = (self.evaluation, self.training)
        return all(tape is not None and all(v.finite for v in tape.outputs) for tape in tapes)

    @cached_property
    def training(self) -> Tape | None:
        """A run in training mode; None where it fails."""
        return self._kept(lambda: self._trained[0])

    @cached_property
    def evaluation(self) -> Tape | None:
        """A run in evaluation mode; None where it fails."""
        return self._kept(lambda: self._evaluated[0])

    def _kept(self, run: Callable[[], Tape]) -> Tape | None:
        try:
            return run()
        except Exception as error:  # noqa: BLE001 - what a forward raises is told by does-not-run
            self.failure = self.failure or error
            return None

    @cached_property
    def predicted(self) -> list[Tensor] | None:
        """The tensors that the run in evaluation mode returned."""
        return None if self.evaluation is None else self._evaluated[1]

    @cached_property
    def gradients(self) -> dict[str, Tensor | None] | None:
        """The gradients of a random sum of the outputs, by path of parameter, of a run in training
        mode; None where nothing has a gradient or the run fails."""

        def differentiated() -> dict[str, Tensor | None] | None:
            tape, output = self._trained
            ends = trained_by(output)
            named = {n: p for n, p in tape.root.named_parameters() if p.requires_grad}
            if not named or not ends:
                return None
            with quiet():
                weights = [torch.randn_like(end) for end in ends]
                try:
                    found = torch.autograd.grad(
                        ends, list(named.values()), weights, allow_unused=True, retain_graph=False
                    )
                except Exception as error:
                    self.backward = error
                    raise
            return dict(zip(named, found, strict=True))

        return attempted(differentiated)

    @cached_property
    def unmoved(self) -> set[str]:
        """The parameters that three steps of gradient descent leave as they are."""

        def trained() -> set[str]:
            net = replica(self.net).train()
            with quiet(), torch.enable_grad():
                for _ in range(3):
                    inputs = self.given.map(again)
                    output = called(net, inputs)
                    ends = trained_by(output)
                    named = [p for p in net.parameters() if p.requires_grad]
                    weights = [torch.randn_like(end) for end in ends]
                    found = torch.autograd.grad(ends, named, weights, allow_unused=True)
                    with torch.no_grad():
                        for parameter, gradient in zip(named, found, strict=True):
                            if gradient is not None:
                                parameter.sub_(0.1 * gradient)
            before = dict(self.net.named_parameters())
            return {n for n, p in net.named_parameters() if torch.equal(p, before[n])}

        return attempted(trained) or set()

    @cached_property
    def another_row(self) -> tuple[Tape, Tape] | None:
        """Two runs in evaluation mode whose inputs differ in the first row alone."""
        if self.rows < 2 or not self.tensors:
            return None
        floating = any(t.is_floating_point() for t in self.tensors)

        def changed(leaf: Any) -> Any:
            if not (isinstance(leaf, Tensor) and has(leaf, self.rows)):
                return leaf
            other = leaf.detach().clone()
            if leaf.is_floating_point():
                other[0] = other[0].roll(1) * 1.5 + 0.25
            elif not floating and leaf.dtype != torch.bool:
                other[0] = 1 - other[0].clamp(0, 1)
            return other

        def both() -> tuple[Tape, Tape] | None:
            if self.evaluation is None:
                return None
            return self.evaluation, self.record(self.given.map(changed), train=False)[0]

        return attempted(both)

    @cached_property
    def response(self) -> float | None:
        """By which part the outputs of a training run change when the inputs do, to first order:
        the size of the gradient times that of the inputs over that of the outputs. None where
        there is no such gradient."""

        def measured() -> float | None:
            net = replica(self.net).train()
            with quiet(), torch.enable_grad():
                inputs = self.given.map(asking)
                output = called(net, inputs)
                ends = trained_by(output)
                asked = [t for t in inputs.leaves() if isinstance(t, Tensor) and t.requires_grad]
                if not ends or not asked:
                    return None
                weights = [torch.randn_like(end) for end in ends]
                found = torch.autograd.grad(ends, asked, weights, allow_unused=True)
            moved = sum(_size(g) * _size(t) for g, t in zip(found, asked, strict=True))
            return moved / size if (size := sum(map(_size, ends))) > 0 else None

        return attempted(measured)

    def with_rows(self, rows: int) -> tuple[Tape, Exception | None]:
        """A run in evaluation mode on ``rows`` rows, recorded without numbers, and what the network
        raised, if it did."""
        if rows not in self._of_rows:
            self._of_rows[rows] = self._resized(rows)
        return self._of_rows[rows]

    def _resized(self, rows: int) -> tuple[Tape, Exception | None]:
        tape = Tape(replica(self.net).eval(), numbers=False)
        given = resized(self.given, self.rows, rows).map(again)
        try:
            with quiet():
                self._run(tape, given)
        except Exception as error:  # noqa: BLE001 - whatever a forward raises is the answer
            return tape, error
        return tape, None

    @cached_property
    def _trained(self) -> tuple[Tape, Any]:
        return self.record(train=True)

    @cached_property
    def _evaluated(self) -> tuple[Tape, list[Tensor]]:
        tape, output = self.record(train=False)
        return tape, [tensor.detach() for tensor in tensors_in(output, objects=True)]


def attempted(run: Callable[[], T]) -> T | None:
    """What ``run`` returns; None where it raises."""
    try:
        return run()
    except Exception:  # noqa: BLE001 - what a forward raises is told by does-not-run
        return None


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, and the same draws each time, the caller's generators left alone."""
    with warnings.catch_warnings(), forked(0), not_exiting(), without_hooks_of_all():
        warnings.simplefilter("ignore")
        yield


def called(net: nn.Module, inputs: Inputs) -> Any:
    """What a run returns that is not recorded; it may not go on without an end."""
    with Ending():
        return net(*inputs.args, **inputs.kwargs)


def count(net: nn.Module) -> int:
    """The numbers in the parameters that have a shape."""
    return sum(p.numel() for p in net.parameters() if not waits(p))


def waits(tensor: Tensor) -> bool:
    """Whether it has no shape yet."""
    return nn.parameter.is_lazy(tensor)


def trained_by(output: Any) -> list[Tensor]:
    """The tensors of an output from which gradients come."""
    return [tensor for tensor in tensors_in(output, objects=True) if tensor.requires_grad]


def _size(tensor: Tensor | None) -> float:
    """The root of the sum of squares."""
    return 0.0 if tensor is None else float(tensor.detach().abs().double().square().sum().sqrt())
