"""A run of a network on a few rows, watched: what every module took and gave.

The network is left as it was: buffers and attributes are put back, generators too. Nothing is
copied but the buffers, so that a network whose parameters lie in parts on many ranks can be run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from chimera.decide.watch import CONVERSIONS
from chimera.draws.seeds import forked
from chimera.engine.reads import is_installed
from chimera.paths.nest import flatten
from chimera.paths.version import unchanged, version
from chimera.scale.attributes import attribute_tensors, users_attributes
from chimera.scale.rows import Batch
from chimera.stack.outside import Outside


@dataclass(frozen=True)
class Visit:
    """One call of a module: its path, the tensors that it took and gave."""

    path: str
    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass(frozen=True)
class Asked:
    """A question that Python asked about the batch's data, and the module in which it did."""

    path: str
    question: str


@dataclass
class Recording:
    """What a run showed.

    Attributes:
        rows: of the batch.
        visits: in the order in which the modules ended, inner ones first.
        outputs: the tensors of the output.
        buffers: by name, after the run.
        attributes: the tensors that the run put into plain attributes, by name.
        asked: the first question about data.
        drew: whether random numbers were drawn.
    """

    rows: int
    visits: list[Visit] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    attributes: dict[str, Tensor] = field(default_factory=dict)
    asked: Asked | None = None
    drew: bool = False


def record(net: nn.Module, batch: Batch) -> Recording:
    """Run ``net`` on ``batch`` without gradients."""
    found = Recording(batch.rows)
    paths: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(forked(0))
        stack.enter_context(put_back(net))
        for path, module in net.named_modules():
            for handle in _hooks(module, path, paths, found):
                stack.callback(handle.remove)
        before = _generators()
        had = {name: (t, version(t)) for name, t in attribute_tensors(net).items()}
        follow = _Followed()
        copies = batch.map(lambda leaf: follow.mark(leaf.clone()), batch.rows).inputs
        stack.enter_context(follow)
        stack.enter_context(_Questions(follow, paths, found))
        output = run_alone(net, copies.args, copies.kwargs, found.buffers)
        found.drew = not torch.equal(before, _generators())
        found.attributes = {
            name: tensor.detach().clone()
            for name, tensor in attribute_tensors(net).items()
            if name not in had or tensor is not had[name][0] or not unchanged(*had[name])
        }
    found.outputs = _tensors(output)
    return found


def outputs_of(net: nn.Module, batch: Batch) -> tuple[list[Tensor], bool]:
    """The tensors that ``net`` gives on ``batch``, without gradients, and whether it drew."""
    with torch.no_grad(), forked(0), put_back(net):
        before = _generators()
        copies = batch.map(torch.clone, batch.rows).inputs
        output = run_alone(net, copies.args, copies.kwargs)
        return _tensors(output), not torch.equal(before, _generators())


def run_alone(
    net: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    after: dict[str, Tensor] | None = None,
) -> Any:
    """The outputs of ``net``, whose buffers stay as they are.

    Args:
        after: takes what the buffers would have been.
    """
    buffers = {name: buffer.detach().clone() for name, buffer in net.named_buffers()}

    def seen(*_: Any) -> None:
        if after is not None:
            after.update({name: b.detach().clone() for name, b in net.named_buffers()})

    handle = net.register_forward_hook(seen)
    try:
        return functional_call(net, buffers, args, kwargs)
    finally:
        handle.remove()


def _hooks(
    module: nn.Module, path: str, paths: list[str], found: Recording
) -> Iterator[torch.utils.hooks.RemovableHandle]:
    took: list[list[Tensor]] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        paths.append(path)
        took.append(_tensors((args, kwargs)))

    def after(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        paths.pop()
        found.visits.append(Visit(path, took.pop(), _tensors(output)))

    yield module.register_forward_pre_hook(before, with_kwargs=True)
    yield module.register_forward_hook(after, with_kwargs=True)


def _tensors(value: Any) -> list[Tensor]:
    leaves = flatten(value, objects=True)[0]
    return [leaf.detach().clone() for leaf in leaves if isinstance(leaf, Tensor)]


def _generators() -> Tensor:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return torch.cat(states)


@contextmanager
def put_back(net: nn.Module) -> Iterator[None]:
    """Give every module's attributes back as they were, whatever a run writes into them.

    What containers there hold is put back, too, and what classes and the variables of their files
    hold.
    """
    kept = [(module, dict(module.__dict__)) for module in net.modules()]
    outside = Outside(net.modules())
    for module in net.modules():
        for value in users_attributes(module).values():
            outside.note(value)
    for kind in {kind for module in net.modules() for kind in type(module).__mro__}:
        if not is_installed(kind):
            outside.see(vars(sys.modules[kind.__module__]))
    tensors = [(t, version(t), t.detach().clone()) for t in attribute_tensors(net).values()]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, at, copy in tensors:
                if at is not None and not unchanged(tensor, at):
                    tensor.copy_(copy)
        outside.restore()
        for module, attributes in kept:
            module.__dict__.clear()
            module.__dict__.update(attributes)


class _Followed(TorchDispatchMode):
    """Follows which memory holds what was computed from marked tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memory: dict[int, Tensor] = {}  # kept alive: an address is then no other tensor's

    def mark(self, tensor: Tensor) -> Tensor:
        self._memory.setdefault(_address(tensor), tensor)
        return tensor

    def holds(self, tensor: Tensor) -> bool:
        return _address(tensor) in self._memory

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        output = func(*args, **kwargs)
        if any(map(self.holds, given)):
            came = flatten(output)[0]
            written = [
                value
                for value, argument in zip(args, func._schema.arguments, strict=False)
                if argument.is_write and isinstance(value, Tensor)
            ]
            for leaf in (*came, *written):
                if isinstance(leaf, Tensor):
                    self.mark(leaf)
        return output


def _address(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # a tensor without memory of its own
        return id(tensor)


class _Questions(TorchFunctionMode):
    """Notes the first time that Python asks marked memory for a number."""

    def __init__(self, follow: _Followed, paths: list[str], found: Recording) -> None:
        super().__init__()
        self._follow, self._paths, self._found = follow, paths, found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        question = CONVERSIONS.get(func) or _MORE.get(func)
        if (
            question not in (None, "requires_grad")
            and args
            and isinstance(args[0], Tensor)
            and self._found.asked is None
            and self._follow.holds(args[0])
        ):
            path = self._paths[-1] if self._paths else ""
            self._found.asked = Asked(path, str(question))
        return func(*args, **(kwargs or {}))


_MORE: dict[Any, str] = {
    Tensor.numpy: "numpy",
    Tensor.__array__: "numpy",
    torch.equal: "equal",
    Tensor.equal: "equal",
    torch.allclose: "allclose",
    Tensor.allclose: "allclose",
}
