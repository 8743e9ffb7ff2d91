"""``verify``: a Stack against the loop of its members, for users and for our own tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from chimera.build.inputs import as_inputs
from chimera.draws.mode import Key, next_evaluation
from chimera.optim.optimizer import Optimizer
from chimera.paths.arguments import as_flag
from chimera.stack.each import Arguments, arguments
from chimera.stack.stack import Stack
from chimera.verify.loop import (
    Taken,
    along,
    gradient,
    input_gradients,
    named_outputs,
    run_loop,
    stacked,
    values,
    watched,
    written,
)
from chimera.verify.measure import Comparison, Runs, real
from chimera.verify.training import compare_training


class VerificationError(AssertionError):
    """A Stack does not compute what its members compute alone."""


@dataclass(frozen=True, slots=True)
class Verification:
    """A stack against its members alone.

    Attributes:
        comparisons: one for every output, gradient, buffer and, after training, parameter.
    """

    comparisons: tuple[Comparison, ...]

    @property
    def ok(self) -> bool:
        """Whether every comparison is within its tolerance."""
        return not self.wrong

    @property
    def wrong(self) -> tuple[Comparison, ...]:
        """The comparisons that are not."""
        return tuple(one for one in self.comparisons if not one.ok)

    def __str__(self) -> str:
        head = f"{len(self.comparisons)} tensors compared, {len(self.wrong)} wrong"
        ranked = sorted(self.comparisons, key=lambda one: one.ok)
        return "\n".join([head, *map(str, ranked)])


def verify(
    stack: Stack,
    inputs: Any,
    *targets: Any,
    loss: Callable[..., Tensor] | None = None,
    optimizer: Optimizer | None = None,
    steps: int = 0,
    raises: bool = False,
) -> Verification:
    """Hold a Stack against the loop over its members.

    One forward and backward is compared in the stack's dtype: outputs, gradients of inputs and
    parameters, buffers. With ``steps``, that many optimizer steps are compared too, in float64.
    Everything runs on copies; the stack stays as it is. Parameters that the
    forward itself changes are compared, too.

    Args:
        stack: the members.
        inputs: one input, or ``ch.inputs(...)``; shared, or one a member under ``ch.each``.
        targets: what the loss takes after the output; likewise.
        loss: ``loss(output, *targets)`` of one member; unless told, a fixed random projection of
            the outputs is differentiated.
        optimizer: a ``ch.optim`` optimizer, whose class and settings the training takes.
        steps: how many steps of training to compare.
        raises: raise where something is wrong.

    Returns:
        Every comparison: the error, what is allowed, the member with the largest error.

    Raises:
        VerificationError: with ``raises``, something is wrong.
        TypeError: ``stack`` is no Stack; ``steps`` is no int, or without ``loss`` and
            ``optimizer``; ``loss`` is no function, ``optimizer`` none of ``ch.optim``.
        ValueError: ``steps`` is negative.
    """
    if not isinstance(stack, Stack):
        raise TypeError(f"stack must be a ch.Stack, got {type(stack).__name__}")
    if not isinstance(steps, int) or isinstance(steps, bool):
        raise TypeError(f"steps must be an int, got {steps!r}")
    raises = as_flag("raises", raises)
    if steps < 0:
        raise ValueError(f"steps must be 0 or more, got {steps}")
    if loss is not None and (isinstance(loss, type) or not callable(loss)):
        raise TypeError(f"loss must be a function, as in loss(output, *targets), got {loss!r}")
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise TypeError(
            "optimizer must be a ch.optim optimizer, such as ch.optim.AdamW(stack, lr=1e-3), got "
            f"{optimizer!r}"
        )
    if steps and (loss is None or optimizer is None):
        raise TypeError("steps needs loss= and optimizer=, which say how to train")
    if targets and loss is None:
        raise TypeError("targets are for a loss: pass loss=, called as loss(output, *targets)")
    known = as_inputs(inputs)
    given = arguments((known.args, known.kwargs, targets), {}, len(stack))
    found = _compare_once(stack, given, loss)
    if steps:
        assert loss is not None
        assert optimizer is not None
        found += compare_training(stack, given, loss, optimizer, steps)
    result = Verification(tuple(found))
    if raises and not result.ok:
        raise VerificationError(str(result))
    return result


def _compare_once(
    stack: Stack, given: Arguments, loss: Callable[..., Tensor] | None
) -> list[Comparison]:
    def objective(output: Any, targets: tuple[Any, ...]) -> Tensor:
        return along(output) if loss is None else loss(output, *targets)

    # Draws of a call that the stack has not made yet.
    key = Key(stack.seed, stack.calls)
    key = key if stack.training else next_evaluation(key, 0)
    ours = _run_stack(stack, given, objective, key)
    modules, members = stack.modules_list(), stack.members
    dtype = _dtype(stack, given)
    loop = run_loop(modules, members, given, objective, key)
    double = dtype is torch.float64
    exact = loop if double else run_loop(modules, members, given, objective, key, torch.float64)
    nudged = run_loop(modules, members, given, objective, key, nudge=True)
    unit = torch.finfo(dtype).eps
    found: list[Comparison] = []
    for kind, field, by_member in (
        ("output", "outputs", True),
        ("input gradient", "inputs", False),
        ("gradient", "gradients", True),
        ("buffer", "buffers", True),
        ("parameter", "parameters", True),
    ):
        theirs = getattr(exact, field)
        mine = getattr(ours, field)
        for name in dict.fromkeys([*theirs, *mine]):
            if field == "parameters" and name not in ours.written | loop.written:
                continue
            four = [getattr(run, field).get(name) for run in (ours, loop, exact, nudged)]
            found.append(_compare(kind, name, four, unit, by_member))
    return found


def _compare(kind: str, name: str, four: list[Any], unit: float, by_member: bool) -> Comparison:
    if any(one is None for one in four):
        return Comparison(kind, f"{name} (missing)", float("inf"), 0.0, None)
    if all(isinstance(one, list) for one in four):
        parts = [
            _compare(kind, f"{name} of member {i}", list(part), unit, False)
            if all(isinstance(one, Tensor) for one in part)
            else _equal(kind, name, part[0], part[2])
            for i, part in enumerate(zip(*four, strict=True))
        ]
        return max(parts, key=lambda one: (not one.ok, one.error))
    if not all(isinstance(one, Tensor) for one in four):
        return _equal(kind, name, four[0], four[2])
    if four[0].dtype != four[1].dtype:
        said = f"{name} ({four[0].dtype} against {four[1].dtype})"
        return Comparison(kind, said, float("inf"), 0.0, None)
    four = [real(one) for one in four]
    if not four[0].dtype.is_floating_point:
        apart = float((four[0] != four[1]).sum()) if four[0].shape == four[1].shape else 1.0
        return Comparison(kind, name, apart, 0.0, None)
    ours, loop, exact, nudged = (one.detach().cpu().double() for one in four)
    runs = Runs(ours, loop, exact, nudged, unit)
    return runs.compare(kind, name, by_member=by_member)


def _equal(kind: str, name: str, one: Any, other: Any) -> Comparison:
    return Comparison(kind, name, 0.0 if repr(one) == repr(other) else float("inf"), 0.0, None)


def _run_stack(stack: Stack, given: Arguments, objective: Any, key: Key) -> Taken:
    ours = copy.deepcopy(stack)
    befores = [values(module) for module in ours.modules_list()]
    known = watched(given)

    def call(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs, named, targets = args
        output = module(*inputs, **named)
        return output, objective(output, targets)

    gave = [
        (position, part.of_member(place))
        for part in ours.run(call, known, key)
        for place, position in enumerate(part.positions)
    ]
    pairs = [pair for _, pair in sorted(gave, key=lambda one: one[0])]
    total = torch.stack([value for _, value in pairs]).sum()
    if total.requires_grad:
        total.backward()
    modules = ours.modules_list()
    rows: dict[str, dict[int, Tensor]] = {}
    for entry in ours.layout():
        mine = rows.setdefault(entry.name.split(".", 2)[2], {})
        mine |= zip(entry.members.tolist(), gradient(entry.parameter).unbind(0), strict=True)
    gradients = {name: [mine[i] for i in sorted(mine)] for name, mine in rows.items()}
    buffers: dict[str, list[Tensor]] = {}
    for module in modules:
        for name, buffer in module.named_buffers():
            buffers.setdefault(name, []).append(buffer)
    return Taken(
        named_outputs([output for output, _ in pairs]),
        input_gradients(known.leaves),
        {name: stacked(found) for name, found in gradients.items()},
        {name: stacked(found) for name, found in buffers.items()},
        *written(befores, modules),
    )


def _dtype(stack: Stack, given: Arguments) -> torch.dtype:
    tensors = [*stack.parameters(), *(leaf for leaf in given.leaves if isinstance(leaf, Tensor))]
    kinds = {tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point}
    return max(kinds, key=lambda kind: torch.finfo(kind).eps, default=torch.float32)
