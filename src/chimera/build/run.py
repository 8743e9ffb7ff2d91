"""One run of a copy of a network on trial, and the tensors that it is given."""

import warnings
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import torch
from torch import nn

from chimera.build.adopt import Place, plain_tensors
from chimera.build.inputs import Inputs
from chimera.build.makers import INPUT, made_by, makers
from chimera.build.modes import modes_restored
from chimera.build.record import Recorder, specified
from chimera.build.spec import Spec
from chimera.build.uncompiled import uncompiled
from chimera.decide.ending import not_exiting
from chimera.decide.explore import boundary
from chimera.draws.seeds import derive, forked
from chimera.paths.hooks import without_hooks_of_all
from chimera.paths.notes import point
from chimera.paths.walk import first_paths


class Run:
    """One run of a copy of a network, quiet, with the caller's generators left alone."""

    def __init__(self, net: nn.Module, recorder: Recorder) -> None:
        self.net = net
        self.recorder = recorder
        self.error: Exception | None = None
        self.output: Any = None
        self.kept: set[Place] = set()
        self.asked = 0
        """How many conditions on data it asked."""

    def further_than(self, other: "Run | None") -> "Run":
        """The one of two failing runs that came further: calls that ended, then conditions."""
        return self if other is None or self._length > other._length else other

    @property
    def _length(self) -> tuple[int, int]:
        return self.recorder.finished, self.asked

    def __call__(self, inputs: Inputs, *modes: AbstractContextManager[Any]) -> None:
        before = dict(plain_tensors(self.net))
        with ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stack.enter_context(forked(derive(0, "trial")))
            stack.enter_context(modes_restored())
            stack.enter_context(without_hooks_of_all())
            stack.enter_context(uncompiled())
            for mode in modes:
                stack.enter_context(mode)
            try:
                with not_exiting():
                    output = _call(self.net, inputs)
            except Exception as error:  # noqa: BLE001  (whatever a forward raises; see _explore)
                self.error = error
        if self.error is not None:
            point(self.error, self.net, lambda tensor: makers(tensor).told(self.net))
            return
        self.output = specified(output)
        after = dict(plain_tensors(self.net))
        self.kept = {place for place, tensor in before.items() if after.get(place) is tensor}


@boundary
def _call(net: nn.Module, inputs: Inputs) -> Any:
    return net(*inputs.args, **inputs.kwargs)


def without_data(inputs: Inputs) -> Inputs:
    """Tensors without data in the places of specifications."""
    return inputs.map(lambda leaf: empty(leaf, {}, None))


def empty(leaf: Any, sizes: dict[str, int], dtype: torch.dtype | None) -> Any:
    """A tensor without data for a specification."""
    if not isinstance(leaf, Spec):
        return leaf
    made = torch.empty(leaf.sized(sizes), dtype=_casted(leaf.dtype, dtype), device="meta")
    made_by(made, INPUT)
    return made


def copied(leaf: Any, dtype: torch.dtype | None) -> Any:
    """A copy of a tensor."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    copy = leaf.detach().to(dtype=_casted(leaf.dtype, dtype), copy=True)
    made_by(copy, INPUT)
    return copy.requires_grad_(leaf.requires_grad)


def _casted(found: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and found.is_floating_point else found


def cast(net: nn.Module, dtype: torch.dtype | None) -> None:
    """Cast the floating tensors of ``net``, plain attributes too."""
    if dtype is None:
        return
    net.to(dtype)
    modules = {path: module for module, path in first_paths(net).items()}
    for (path, name), tensor in list(plain_tensors(net)):
        if tensor.is_floating_point():
            modules[path].__dict__[name] = tensor.detach().to(dtype)
