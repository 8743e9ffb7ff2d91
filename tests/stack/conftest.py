"""``agree``: a Stack against the loop of the same modules, each alone.

It trusts nothing of the stack but its public face: outputs, gradients of inputs and parameters,
and the members taken out of it, after every one of several steps of gradient descent.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chimera as ch
from chimera.build.inputs import as_inputs
from chimera.paths.describe import Opaque, same
from chimera.paths.nest import Shape, flatten
from chimera.paths.structure import read
from chimera.stack.each import Each

FLOOR = 1e-2  # what is smaller than this, such as a bias before a norm, is held against it


def members_of(factory: Callable[..., nn.Module], n: int, *args: Any, dtype=torch.float64):
    """``n`` modules of a factory, each drawn from its own seed."""
    modules = []
    for index in range(n):
        torch.manual_seed(1000 + index)
        modules.append(factory(*args).to(dtype))
    return modules


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference, in units of the largest value; inf where they are unlike."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    one, other = one.detach(), other.detach()
    if one.is_sparse or other.is_sparse:
        one, other = one.to_dense(), other.to_dense()
    if not (one.is_floating_point() or one.is_complex()):
        return 0.0 if torch.equal(one, other) else float("inf")
    strange = ~(one.isfinite() & other.isfinite())
    if not torch.equal(strange & one.isnan(), strange & other.isnan()):
        return float("inf")
    finite = ~strange
    if not ((one == other) | finite | one.isnan()).all():
        return float("inf")
    if not finite.any():
        return 0.0
    scale = other[finite].abs().max().clamp_min(FLOOR)
    return float(((one - other)[finite].abs().max() / scale).item())


def _children(shape: Shape, value: Any) -> list[Any]:
    if not shape.parts:
        return []
    if dataclasses.is_dataclass(value):
        return [getattr(value, key) for key in shape.keys]
    return [value[key] for key in shape.keys or range(len(shape.parts))]


def _leaves(shape: Shape, value: Any) -> list[Any]:
    """The parts of a stack's output where the members' have leaves."""
    if shape.kind is None:
        return [value]
    assert type(value) is shape.kind, f"{type(value)} where members give {shape.kind}"
    inner = zip(shape.parts, _children(shape, value), strict=True)
    return [leaf for part, child in inner for leaf in _leaves(part, child)]


def split_output(output: Any, alone: Sequence[Any]) -> list[list[Any]]:
    """For every member the leaves of its output, as the stack gave them."""
    shapes = [flatten(value)[1] for value in alone]
    if any(shape != shapes[0] for shape in shapes):
        assert isinstance(output, list)
        assert len(output) == len(alone)
        return [flatten(value)[0] for value in output]
    leaves = _leaves(shapes[0], output)
    found: list[list[Any]] = []
    for index, value in enumerate(alone):
        mine = []
        for leaf, was in zip(leaves, flatten(value)[0], strict=True):
            if isinstance(was, Tensor):
                assert len(leaf) == len(alone), f"{len(leaf)} rows for {len(alone)} members"
                mine.append(leaf[index])
            elif isinstance(leaf, list) and not isinstance(was, list):
                mine.append(leaf[index])
            else:
                mine.append(leaf)
        found.append(mine)
    return found


def state_differences(mine: nn.Module, alone: nn.Module, tolerance: float) -> list[str]:
    """In what a member taken out of a stack differs from the module alone; the order is free."""
    one, other = read(mine), read(alone)
    facts = {(fact.path, fact.name): fact.value for fact in one.facts}
    others = {(fact.path, fact.name): fact.value for fact in other.facts}
    found = [f"state {key}" for key in facts.keys() ^ others.keys()]
    for key in facts.keys() & others.keys():
        a, b = facts[key], others[key]
        if isinstance(a, tuple) and a[:1] in (("same as",), ("module",), ("tensor",)):
            continue  # indices: which depend on the order of attributes
        opaque = isinstance(a, Opaque) and isinstance(b, Opaque) and type(a.value) is type(b.value)
        if not same(a, b) and not opaque and not _has_index(a):
            found.append(f"state {key}: {a!r:.80} against {b!r:.80}")
    tensors = {slot.path: slot for slot in one.slots}
    for slot in other.slots:
        if slot.path in tensors:
            away = distance(tensors[slot.path].tensor, slot.tensor)
            if away > tolerance:
                found.append(f"state {slot.path}: {away:.1e}")
            if isinstance(slot.tensor, nn.Parameter) and (
                tensors[slot.path].tensor.requires_grad != slot.tensor.requires_grad
            ):
                found.append(f"state {slot.path}: requires_grad")
    return found


def _has_index(value: Any) -> bool:
    return isinstance(value, tuple) and (
        value[:1] in (("module",), ("tensor",), ("nested",), ("function",), ("weak",))
    )


def _own_leaves(leaves: Sequence[Any], gradients: bool) -> list[Any]:
    return [
        leaf.detach().clone().requires_grad_(gradients and leaf.is_floating_point())
        if isinstance(leaf, Tensor)
        else leaf
        for leaf in leaves
    ]


class _Given:
    """Inputs of a stack, and of each member alone."""

    def __init__(self, inputs: Any) -> None:
        given = as_inputs(inputs)
        marked, self.shape = flatten((given.args, given.kwargs))
        self.marks = [isinstance(leaf, Each) for leaf in marked]
        self.values = [leaf.value if isinstance(leaf, Each) else leaf for leaf in marked]

    def of_stack(self, gradients: bool) -> tuple[list[Any], tuple[Any, Any]]:
        nested = []
        flat: list[Any] = []
        for value, own in zip(self.values, self.marks, strict=True):
            leaves, shape = flatten(value)
            leaves = _own_leaves(leaves, gradients)
            flat += leaves
            nested.append(ch.each(shape.rebuild(leaves)) if own else shape.rebuild(leaves))
        return flat, self.shape.rebuild(nested)

    def of_member(self, index: int, gradients: bool) -> tuple[list[Any], tuple[Any, Any]]:
        nested = []
        flat: list[Any] = []
        for value, own in zip(self.values, self.marks, strict=True):
            leaves, shape = flatten(value)
            mine = [leaf[index] if own and isinstance(leaf, Tensor) else leaf for leaf in leaves]
            mine = _own_leaves(mine, gradients)
            flat += mine
            nested.append(shape.rebuild(mine))
        return flat, self.shape.rebuild(nested)

    def owned(self) -> list[bool]:
        return [
            own
            for value, own in zip(self.values, self.marks, strict=True)
            for _ in flatten(value)[0]
        ]


def scalar(leaves: Sequence[Any]) -> Tensor | None:
    """A number that every differentiable leaf has a part in, each entry another weight."""
    total: Tensor | None = None
    for place, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or not leaf.requires_grad:
            continue
        real = torch.view_as_real(leaf) if leaf.is_complex() else leaf
        weights = torch.arange(1.0, real.numel() + 1).add(place).mul(0.7).sin().view(real.shape)
        part = (real * weights.to(real.dtype)).sum()
        total = part.double() if total is None else total + part.double()
    return total


def _descend(parameters: Sequence[nn.Parameter], rate: float) -> None:
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad.to_dense() * rate)
                parameter.grad = None


def parameter_grads(stack: ch.Stack, modules: Sequence[nn.Module]) -> list[tuple[str, Any, Any]]:
    """(name, the stack's gradient, the module's) for every member and parameter; None for none."""
    found = []
    seen: set[tuple[int, str]] = set()
    for entry in stack.layout():
        path = entry.name.split(".", 2)[2]
        for row, index in enumerate(entry.members.tolist()):
            named = dict(modules[index].named_parameters())
            if path not in named:  # a name that a container has itself gained an underscore
                path = ".".join(piece.removesuffix("_") for piece in path.split("."))
            grad = entry.parameter.grad
            mine = None if grad is None else grad.to_dense()[row]
            alone = named[path].grad
            seen.add((index, path))
            found.append((f"{index}:{path}", mine, None if alone is None else alone.to_dense()))
    for index, module in enumerate(modules):
        assert {(index, name) for name, _ in module.named_parameters()} <= seen
    return found


def compare(
    modules: Sequence[nn.Module],
    inputs: Any,
    *,
    steps: int = 3,
    seed: int = 7,
    rate: float = 0.05,
    tolerance: float = 1e-9,
    gradients: bool = True,
    stack: ch.Stack | None = None,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> ch.Stack:
    """Run a Stack of ``modules`` and the modules themselves side by side.

    Args:
        modules: they are the loop, so they change.
        inputs: one input or ``ch.inputs``; ``ch.each`` as for a stack.
        steps: of forward, backward and gradient descent.
        seed: of the stack.
        rate: of the descent.
        tolerance: relative to the largest value of each tensor.
        gradients: go backward and descend.
        stack: made already, of the same modules.
        around: entered for every call.

    Returns:
        The stack.

    Raises:
        AssertionError: they differ; the message says where.
    """
    stack = ch.Stack(modules, seed=seed) if stack is None else stack
    training = any(module.training for module in modules)
    given = _Given(inputs)
    wrong: list[str] = []
    for step in range(steps):
        flat, (args, kwargs) = given.of_stack(gradients)
        before = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in flat]
        with around():
            output = stack(*args, **kwargs)
        for leaf, was in zip(flat, before, strict=True):
            if isinstance(leaf, Tensor) and not torch.equal(leaf.detach(), was):
                wrong.append(f"step {step}: an input was changed")
        alone, fed = [], []
        for index, module in enumerate(modules):
            mine, (my_args, my_kwargs) = given.of_member(index, gradients)
            # An in-place operation is refused for a leaf; alone it gets what a layer would give.
            key = {"step": step} if training else {"step": 0, "call": (step + 1) << 32}
            with ch.randomness(seed=seed, member=index, **key), around():
                alone.append(module(*_fresh(my_args), **_fresh(my_kwargs)))
            fed.append(mine)
        for index, mine in enumerate(split_output(output, alone)):
            for place, (a, b) in enumerate(zip(mine, flatten(alone[index])[0], strict=True)):
                if isinstance(b, Tensor):
                    away = distance(a, b) if isinstance(a, Tensor) else float("inf")
                    if away > tolerance:
                        wrong.append(f"step {step}: output {place} of {index}: {away:.1e}")
                elif isinstance(b, (int, float, str, bool, type(None))) and a != b:
                    wrong.append(f"step {step}: output {place} of {index}: {a!r} against {b!r}")
        if gradients:
            wrong += [
                f"step {step}: {text}"
                for text in _gradients_differ(
                    stack, modules, output, alone, flat, fed, given.owned(), tolerance
                )
            ]
            _descend([entry.parameter for entry in stack.layout()], rate)
            _descend([p for module in modules for p in module.parameters()], rate)
        for index, module in enumerate(modules):
            found = state_differences(stack[index], module, tolerance)
            wrong += [f"step {step}: member {index}: {text}" for text in found]
        if wrong:
            raise AssertionError("\n".join(wrong[:12]))
    return stack


def _fresh(value: Any) -> Any:
    leaves, shape = flatten(value)
    return shape.rebuild([x.clone() if isinstance(x, Tensor) else x for x in leaves])


def _gradients_differ(stack, modules, output, alone, flat, fed, owned, tolerance) -> list[str]:
    wrong = []
    parts = [scalar(leaves) for leaves in split_output(output, alone)]
    sums = [scalar(flatten(value)[0]) for value in alone]
    for index, (a, b) in enumerate(zip(parts, sums, strict=True)):
        if (a is None) != (b is None):
            wrong.append(f"output of {index}: only one of the two has a graph")
    if wrong or all(part is None for part in sums):
        return wrong
    torch.stack([part for part in parts if part is not None]).sum().backward()
    torch.stack([part for part in sums if part is not None]).sum().backward()
    for name, mine, grad in parameter_grads(stack, modules):
        if grad is None:
            if mine is not None and mine.any():
                wrong.append(f"gradient {name}: {mine.abs().max():.1e} where there is none")
        elif mine is None:
            if grad.any():
                wrong.append(f"gradient {name}: none")
        elif (away := distance(mine, grad)) > tolerance:
            wrong.append(f"gradient {name}: {away:.1e}")
    for place, (leaf, own) in enumerate(zip(flat, owned, strict=True)):
        if not isinstance(leaf, Tensor) or not leaf.requires_grad:
            continue
        none = torch.zeros_like(fed[0][place])
        rows = [none if each[place].grad is None else each[place].grad for each in fed]
        expected = torch.stack(rows) if own else torch.stack(rows).sum(0)
        mine = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        if (away := distance(mine, expected)) > tolerance:
            wrong.append(f"gradient of input {place}: {away:.1e}")
    return wrong


@pytest.fixture(scope="session")
def agree():
    """``compare``."""
    return compare


@pytest.fixture(scope="session")
def members():
    """``members_of``."""
    return members_of


@pytest.fixture(scope="session")
def apart():
    """``distance``."""
    return distance


def _torn() -> bool:
    """Whether the machinery has left something running behind."""
    from chimera.draws.mode import _override, _running

    return bool(_running.modes) or _override.get() is not None


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    """After every test no mode of draws is left."""
    yield
    assert not _torn()
