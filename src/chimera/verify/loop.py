"""The members alone, one after the other: what a Stack is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chimera.draws.mode import Key, randomness
from chimera.paths.nest import flatten, leaf_names
from chimera.paths.slots import with_tensors
from chimera.paths.structure import read
from chimera.stack.each import Arguments
from chimera.verify.measure import real

Objective = Callable[[Any, tuple[Any, ...]], Tensor]


@dataclass(slots=True)
class Taken:
    """What one forward and backward of all members gave, tensors by name.

    Attributes:
        outputs: every tensor of the outputs ``[members, ...]``.
        inputs: gradients of the inputs; those that members share have no member axis.
        gradients: of the parameters, by path ``[members with that path, ...]``; a list where
            shapes differ.
        buffers: by path, likewise.
        parameters: by path, likewise: what they hold after the forward.
        written: paths of the parameters that the forward changed.
    """

    outputs: dict[str, Any]
    inputs: dict[str, Tensor]
    gradients: dict[str, Any]
    buffers: dict[str, Any]
    parameters: dict[str, Any]
    written: frozenset[str]


def directions(output: Any) -> list[Tensor]:
    """For every floating tensor in one member's output a fixed direction to differentiate along.

    A complex one counts as pairs of real numbers.

    The same for every member and dtype; a plain sum would hide what a softmax computes. Numbers
    without a pattern, but not drawn: a draw in the call would change how the stack runs it.
    """
    return [
        torch.cos(1.0 + 1.7 * torch.arange(leaf.numel(), dtype=torch.float64)).view(leaf.shape)
        for leaf in _differentiable(output)
    ]


def _differentiable(output: Any) -> list[Tensor]:
    return [
        real(leaf)
        for leaf in flatten(output)[0]
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
    ]


def along(output: Any) -> Tensor:
    """The output's floating tensors, weighted by ``directions`` and summed."""
    leaves = _differentiable(output)
    parts = [
        (leaf * way.to(leaf)).sum() for leaf, way in zip(leaves, directions(output), strict=True)
    ]
    return torch.stack([part.double() for part in parts]).sum() if parts else torch.zeros(())


def named_outputs(outputs: Sequence[Any]) -> dict[str, Any]:
    """Every leaf of the members' outputs: a stacked tensor, a list where shapes differ."""
    found: dict[str, list[Any]] = {}
    for output in outputs:
        leaves, shape = flatten(output)
        for name, leaf in zip(leaf_names(shape, "output"), leaves, strict=True):
            found.setdefault(name, []).append(leaf)
    return {name: stacked(values) for name, values in found.items()}


def stacked(values: list[Any]) -> Any:
    """Tensors of one shape as one; anything else as it is."""
    if all(isinstance(value, Tensor) for value in values):
        if len({value.shape for value in values}) == 1:
            return torch.stack([value.detach() for value in values])
        return [value.detach() for value in values]
    return values


def run_loop(
    modules: Sequence[nn.Module],
    members: Sequence[int],
    given: Arguments,
    objective: Objective,
    key: Key,
    dtype: torch.dtype | None = None,
    nudge: bool = False,
) -> Taken:
    """One forward and backward of copies of the modules, each alone under its own draws.

    Args:
        modules: the members.
        members: their ids.
        given: arguments ``(inputs, named, targets)`` of all members.
        objective: what to differentiate, of one member's output and targets.
        key: of the draws.
        dtype: to compute in; None leaves the modules' own.
        nudge: move weights and inputs by one unit in the last place, up or down.
    """
    known = watched(given, dtype, nudge)
    leaves = known.leaves
    outputs: list[Any] = []
    gradients: dict[str, list[Tensor]] = {}
    buffers: dict[str, list[Tensor]] = {}
    befores: list[dict[str, Tensor]] = []
    ran: list[nn.Module] = []
    assert isinstance(key.step, int)
    for place, (module, member) in enumerate(zip(modules, members, strict=True)):
        alone = cast(module, dtype)
        if nudge:
            _nudge(alone)
        befores.append(values(alone))
        ran.append(alone)
        args, _ = known.of_member(place)
        inputs, named, targets = args
        with randomness(seed=key.seed, member=member, step=key.step, call=key.call):
            output = alone(*inputs, **named)
            value = objective(output, targets)
        if value.requires_grad:
            value.backward()
        outputs.append(output)
        for name, parameter in alone.named_parameters():
            gradients.setdefault(name, []).append(gradient(parameter))
        for name, buffer in alone.named_buffers():
            buffers.setdefault(name, []).append(buffer)
    return Taken(
        named_outputs(outputs),
        input_gradients(leaves),
        {name: stacked(found) for name, found in gradients.items()},
        {name: stacked(found) for name, found in buffers.items()},
        *written(befores, ran),
    )


def values(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's parameters, by path."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def written(
    befores: Sequence[dict[str, Tensor]], modules: Sequence[nn.Module]
) -> tuple[dict[str, Any], frozenset[str]]:
    """What parameters hold, and which differ from what ``values`` gave before."""
    found: dict[str, list[Tensor]] = {}
    changed: set[str] = set()
    for before, module in zip(befores, modules, strict=True):
        for name, parameter in module.named_parameters():
            found.setdefault(name, []).append(parameter.detach())
            if name not in before or not _same_numbers(before[name], parameter.detach()):
                changed.add(name)
    return {name: stacked(each) for name, each in found.items()}, frozenset(changed)


def _same_numbers(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same; nan is itself."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def cast(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A copy of a module, its plain tensor attributes too, in another floating dtype if told."""
    tensors = []
    for slot in read(module).slots:
        tensor = slot.tensor.detach().clone()
        tensor = _as(dtype, tensor)
        if isinstance(slot.tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=slot.tensor.requires_grad)
        tensors.append(tensor)
    return with_tensors(module, tensors)


def gradient(parameter: Tensor) -> Tensor:
    """The gradient of a parameter, dense; zeros where it has none."""
    if parameter.grad is None:
        return torch.zeros_like(parameter)
    return parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad


def input_gradients(leaves: Sequence[Any]) -> dict[str, Tensor]:
    """The gradients of the inputs that take one, by their place among the arguments."""
    return {
        f"argument {i}": gradient(leaf)
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, Tensor) and leaf.requires_grad
    }


def watched(given: Arguments, dtype: torch.dtype | None = None, nudge: bool = False) -> Arguments:
    """The arguments in tensors of their own, of which some take a gradient.

    Those are the floating tensors that require one; where none does, all that are inputs.
    """
    targets = _targets_from(given)
    chosen = [isinstance(leaf, Tensor) and leaf.requires_grad for leaf in given.leaves]
    if not any(chosen):
        chosen = [
            i < targets
            and isinstance(leaf, Tensor)
            and (leaf.is_floating_point() or leaf.is_complex())
            for i, leaf in enumerate(given.leaves)
        ]
    leaves = [
        _input(leaf, dtype, nudge, takes) for leaf, takes in zip(given.leaves, chosen, strict=True)
    ]
    return Arguments(leaves, given.own, given.shape)


def _targets_from(given: Arguments) -> int:
    """The number of leaves that come before the targets."""
    positional, _ = given.shape.parts
    _, _, targets = positional.parts
    return len(given.leaves) - targets.size


def _input(leaf: Any, dtype: torch.dtype | None, nudge: bool, takes: bool) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach().clone()
    if not (leaf.is_floating_point() or leaf.is_complex()):
        return leaf
    if nudge and takes:
        leaf = _moved(leaf)
    leaf = _as(dtype, leaf)
    return leaf.requires_grad_() if takes else leaf


def _as(dtype: torch.dtype | None, tensor: Tensor) -> Tensor:
    """A floating tensor in a real dtype, a complex one in the complex dtype of its width."""
    if dtype is not None and tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def _nudge(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.copy_(_moved(parameter))


def _moved(tensor: Tensor) -> Tensor:
    """Every number one unit in the last place up or down, by a fixed pattern of coin flips."""
    if tensor.is_complex():
        return torch.view_as_complex(_moved(real(tensor)))
    generator = torch.Generator().manual_seed(0)
    up = torch.randint(0, 2, tensor.shape, generator=generator).to(tensor.device) * 2 - 1
    return torch.nextafter(tensor, up.to(tensor.dtype) * float("inf"))
