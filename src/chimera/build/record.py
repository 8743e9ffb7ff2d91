"""What a run shows of a network: each module's inputs and outputs, and who made which tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from chimera.build.datafree import DataFree, tensors_in
from chimera.build.inputs import Inputs
from chimera.build.lazy import hold, is_lazy
from chimera.build.spec import Spec
from chimera.paths.nest import map_leaves
from chimera.paths.walk import first_paths

_ORIGIN = "_chimera_origin"
INPUT = "(the input)"
"""Stands for a path where a tensor is the network's own input."""


@dataclass
class Call:
    """The first call of a module, and how many there were."""

    inputs: Inputs
    """The inputs, with a ``Spec`` for each tensor."""
    output: Any = None
    """The output, likewise; None while the module runs."""
    count: int = 1


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

        def initialized(module: nn.Module, args: tuple[Any, ...]) -> None:
            while self._releases:
                self._releases.pop()()
            self._pause(False)

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self.finished += 1
            call = self.calls[path]
            if call.output is None:
                call.output = specified(output)
            for tensor in tensors_in(output):
                if not _is_below(origin(tensor), path):
                    set_origin(tensor, path)

        module.register_forward_pre_hook(before, prepend=True, with_kwargs=True)
        if is_lazy(module):
            module.register_forward_pre_hook(initialized)
        module.register_forward_hook(after)

    def _pause(self, paused: bool) -> None:
        """A lazy module makes its parameters outside the mode."""
        if self._mode is not None:
            self._mode.paused = paused


def _is_below(found: str | None, path: str) -> bool:
    return found is not None and found != INPUT and (not path or found.startswith(path + "."))


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


def origin(tensor: torch.Tensor) -> str | None:
    """The path of the module that ``tensor`` comes from, if that is known."""
    found: str | None = tensor.__dict__.get(_ORIGIN)
    return found


def set_origin(tensor: torch.Tensor, path: str) -> None:
    """Remember that ``tensor`` comes from the module at ``path``."""
    tensor.__dict__[_ORIGIN] = path


def pass_on(tensors: list[torch.Tensor], result: Any) -> None:
    """Let the tensors of ``result``, computed from ``tensors``, have their origin."""
    found = next((path for path in map(origin, tensors) if path is not None), None)
    if found is not None:
        for tensor in tensors_in(result):
            if origin(tensor) is None:
                set_origin(tensor, found)
