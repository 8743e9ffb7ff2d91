"""What a run shows of a network: each module's inputs and outputs, and who made which tensor."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from chimera.build.datafree import DataFree
from chimera.build.inputs import Inputs
from chimera.build.lazy import hold, is_lazy
from chimera.build.makers import Makers, Marks, made_by, makers, mark, marks
from chimera.build.spec import Spec
from chimera.paths.nest import map_leaves, tensors_in
from chimera.paths.walk import first_paths


@dataclass
class Call:
    """The first call of a module, and how many there were."""

    inputs: Inputs
    """The inputs, with a ``Spec`` for each tensor."""
    output: Any = None
    """The output, likewise; None while the module runs."""
    count: int = 1
    origins: dict[Marks, tuple[Makers, ...] | None] = field(default_factory=dict)
    """Who made the tensors it took, by their marks; None where two calls differ in it."""

    def learn(self, origins: Mapping[Marks, tuple[Makers, ...] | None]) -> None:
        """Add what another call, or run, has shown."""
        for came, made in origins.items():
            self.origins[came] = made if self.origins.get(came, made) == made else None


class Recorder:
    """Records the calls of every module of a network (a copy that may be changed) as it runs."""

    def __init__(self, net: nn.Module, mode: DataFree | None = None) -> None:
        self.calls: dict[str, Call] = {}
        self.finished = 0
        """How many calls have ended."""
        self._mode = mode
        self._releases: list[Callable[[], None]] = []
        for module, path in first_paths(net).items():
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                self._watch(module, path)

    def _watch(self, module: nn.Module, path: str) -> None:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._pause(is_lazy(module))
            if is_lazy(module):
                self._releases.append(hold(module))
            if path in self.calls:
                self.calls[path].count += 1
            else:
                self.calls[path] = Call(Inputs(specified(args), specified(kwargs)))
            given = (args, kwargs)
            self.calls[path].learn({marks(given): tuple(map(makers, tensors_in(given)))})

        def initialized(module: nn.Module, args: tuple[Any, ...]) -> None:
            while self._releases:
                self._releases.pop()()
            self._pause(False)

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.finished += 1
            call = self.calls[path]
            if call.output is None:
                call.output = specified(output)
            keeps = next(module.parameters(), None) is None
            came = {mark(t): makers(t).shaped for t in tensors_in(args)} if keeps else {}
            for tensor in tensors_in(output):
                if not makers(tensor).is_below(path):
                    made_by(tensor, path, came.get(mark(tensor)))

        module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
        if is_lazy(module):
            module.register_forward_pre_hook(initialized)
        module.register_forward_hook(after)

    def _pause(self, paused: bool) -> None:
        """A lazy module makes its parameters outside the mode."""
        if self._mode is not None:
            self._mode.paused = paused


def specified(value: Any) -> Any:
    """A nested value with a ``Spec`` for each tensor."""
    return map_leaves(
        lambda leaf: (
            Spec(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf
        ),
        _unpacked(value),
    )


def _unpacked(value: Any) -> Any:
    """``value`` with a tuple for each packed sequence, which holds nothing but tensors."""
    if isinstance(value, PackedSequence):
        return tuple(value)
    if type(value) in (tuple, list):
        return type(value)(map(_unpacked, value))
    if type(value) is dict:
        return {key: _unpacked(item) for key, item in value.items()}
    return value
