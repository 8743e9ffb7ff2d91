"""What one call leaves behind for the next."""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.twin import replica
from chimera.check.context import Context
from chimera.check.experiment import Experiment, called, quiet, trained_by
from chimera.check.rule import Place, Rule
from chimera.check.source import users
from chimera.paths.nest import tensors_in
from chimera.paths.structure import own_attributes

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MANY = 20_000
"""The most steps of a graph that are counted."""
_TWICE = "backward through the graph a second time"


def find(context: Context) -> Iterable[Place]:
    experiment = context.experiment
    if experiment is None or experiment.training is None:
        return
    net = replica(experiment.net).train()
    seen: list[dict[str, Any]] = [_seen(net)]
    graph: set[str] = set()
    again: Exception | None = None
    for backward in (True, True, False):
        error = _step(net, experiment, backward)
        if error is not None:
            again = error if _TWICE in str(error) else None
            break
        seen.append(_seen(net))
    graph = set(_with_graph(net))
    if again is not None:
        for key in sorted(graph) or [":"]:
            path, _, name = key.partition(":")
            said = f"`{name}` keeps" if name else "something keeps"
            yield _at(
                context,
                path,
                name,
                f"{said} the graph of the last call: the second backward raises",
                "error",
                f"Detach it: self.{name or 'state'} = ....detach().",
            )
    if len(seen) == 4:
        yield from _changes(context, net, seen)


def _step(net: nn.Module, experiment: Experiment, backward: bool) -> Exception | None:
    """One call, and its gradients if ``backward``; what was raised."""
    given = experiment.given.map(lambda t: t.clone() if isinstance(t, Tensor) else t)
    try:
        with quiet(), warnings.catch_warnings(), torch.enable_grad():
            output = called(net, given)
            ends = trained_by(output)
            if ends and backward:
                sum(end.abs().sum() for end in ends).backward()  # type: ignore[union-attr]
    except Exception as error:  # noqa: BLE001 - whatever a forward raises is the answer
        return error
    return None


def _seen(net: nn.Module) -> dict[str, Any]:
    """What may grow or be replaced, by path and name."""
    found: dict[str, Any] = {}
    for path, module in net.named_modules():
        for name, value in own_attributes(module).items():
            if isinstance(value, (list, dict, set)) or (
                isinstance(value, deque) and value.maxlen is None
            ):
                found[f"{path}:{name}"] = _length(value)
            elif isinstance(value, Tensor) and value.grad_fn is not None:
                found[f"{path}:{name}"] = _steps(value)
        for kind in users(type(module)):
            for name, value in vars(kind).items():
                if isinstance(value, (list, dict, set, deque)) and not name.startswith("__"):
                    found[f"{path}:{name}"] = len(value)
        for name, tensor in (
            *module._parameters.items(),
            *module._modules.items(),
            *module._buffers.items(),
        ):
            found[f"{path}:{name}"] = tensor
        found[f"{path}:"] = sum(len(getattr(module, hooks)) for hooks in _HOOKS)
    return found


def _length(value: Any, above: tuple[int, ...] = ()) -> int:
    """How many things a container holds, those in its containers too."""
    bounded = isinstance(value, deque) and value.maxlen is not None
    if not isinstance(value, (list, dict, set, tuple, deque)) or bounded or id(value) in above:
        return 0
    held = value.values() if isinstance(value, dict) else value
    return len(value) + sum(_length(part, (*above, id(value))) for part in held)


def _steps(tensor: Tensor) -> int:
    """The number of steps in the graph behind a tensor."""
    seen: set[Any] = set()
    waiting = [tensor.grad_fn]
    while waiting and len(seen) < _MANY:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return len(seen)


def _with_graph(net: nn.Module) -> Iterator[str]:
    for path, module in net.named_modules():
        for name, value in (*own_attributes(module).items(), *module._buffers.items()):
            if any(t.grad_fn is not None for t in tensors_in(value, objects=True)):
                yield f"{path}:{name}"


def _changes(context: Context, net: nn.Module, seen: list[dict[str, Any]]) -> Iterable[Place]:
    _, first, second, third = seen
    modules = dict(net.named_modules())
    for key, value in third.items():
        path, _, name = key.partition(":")
        before = (first.get(key), second.get(key))
        if isinstance(value, int) and all(isinstance(b, int) for b in before):
            if not before[0] < before[1] < value:  # type: ignore[operator]
                continue
            keeps = isinstance(getattr(modules[path], name or " ", None), Tensor)
            said = f"`{name}` grows" if name else "the number of hooks grows"
            if keeps:
                said = f"the graph behind `{name}` keeps that of each call before, and grows"
            mend = f"Empty `{name}`, or keep it outside." if name else "Register hooks once."
            if keeps:
                mend = f"Detach what is kept: self.{name} = self.{name} + value.detach()."
            severity = "error" if keeps else "warning"
            yield _at(context, path, name, f"{said} with every call", severity, mend)
        elif isinstance(value, (nn.Module, nn.Parameter)) and before[1] is not value:
            yield _at(
                context,
                path,
                name,
                f"`{name}` is replaced at every call",
                "error",
                "Make it in the constructor, and change its values in place.",
            )
        elif isinstance(value, Tensor) and isinstance(before[1], Tensor):
            if value is before[1] or before[1] is before[0]:
                continue
            yield _at(
                context,
                path,
                name,
                f"the buffer `{name}` is replaced at every call: what shares it, copies it to "
                "other processes or captured it in a CUDA graph keeps the old one",
                "warning",
                f"Change its values in place: self.{name}.copy_(...).",
            )


def _at(context: Context, path: str, name: str, message: str, severity: Any, mend: str) -> Place:
    modules = dict(context.modules)
    file = line = None
    if path in modules and name:
        file, line = context.assigned(type(modules[path]), name)
    return Place(path, message, file, line, severity, mend=mend)


RULE = Rule(
    name="state-across-calls",
    severity="warning",
    what="A network that three calls change: the graph of the last call is kept, a list or the "
    "number of hooks grows, a layer or parameter is replaced. Needs the specification.",
    why="Memory grows until it ends; a kept graph makes the second backward raise; a replaced "
    "parameter is not the one that the optimizer trains.",
    mend="Keep nothing of a call, or detach what is kept.",
    before="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(20, 5)
        self.state = None

    def forward(self, x):
        self.state = self.cell(x, self.state)
        return self.state


spec = ch.spec(2, 20)
""",
    after="""\
import chimera as ch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(20, 5)
        self.state = None

    def forward(self, x):
        state = self.cell(x, self.state)
        self.state = state.detach()
        return state


spec = ch.spec(2, 20)
""",
    find=find,
)
