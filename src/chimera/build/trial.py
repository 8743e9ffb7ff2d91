"""Trying a network out, on a copy: its shapes, call by call, and what its forward does to it."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from chimera.build.adopt import Place, plain_tensors
from chimera.build.datafree import DataFree, is_uninitialized
from chimera.build.familiar import Familiar
from chimera.build.inputs import Inputs, as_inputs
from chimera.build.lazy import initialize, is_lazy, waiting
from chimera.build.makers import INPUT, made_by, makers, pass_on
from chimera.build.modes import modes_restored
from chimera.build.onlookers import may_need_data
from chimera.build.record import Call, Recorder, specified
from chimera.build.spec import Spec, resolutions
from chimera.build.twin import replica, twin
from chimera.build.uncompiled import uncompiled
from chimera.decide.ending import not_exiting
from chimera.decide.explore import LIMIT, Condition, DidNotEnd, Explorer, boundary
from chimera.draws.seeds import derive, forked
from chimera.paths.hooks import without_hooks_of_all
from chimera.paths.notes import point
from chimera.paths.walk import first_paths

_FEW = 8

Watch = Callable[[nn.Module], AbstractContextManager[Any]]
"""Makes, for the copy that is about to run, a context that is entered around the run."""


@dataclass
class Trial:
    """What trying a network out has shown."""

    net: nn.Module
    """The copy that ran, its lazy modules initialized."""
    output: Any
    """The output, with a ``Spec`` for each tensor."""
    calls: dict[str, Call]
    """The first call of each path that was reached."""
    kept: set[Place]
    """The plain tensor attributes that forward left in their places."""
    conditions: list[Condition] = field(default_factory=list)
    """The conditions on data that were met."""
    sizes: dict[str, int] = field(default_factory=dict)
    """The size that each free axis had."""
    reads_values: bool = False
    """Whether the run read numbers or conditions from tensors of the network that have data."""
    failed: Exception | None = None
    """What the failing run that came furthest raised, where others passed."""
    in_vain: set[str] = field(default_factory=set)
    """The paths that only failing runs reached."""


def try_shapes(
    net: nn.Module,
    inputs: Inputs,
    dtype: torch.dtype | None = None,
    watch: Watch | None = None,
) -> Trial:
    """Run a copy of ``net`` without data, once for each outcome of each condition on data.

    Args:
        net: the network; it stays as it is.
        inputs: its inputs, a ``Spec`` or a tensor for each; of a tensor only the shape counts.
        dtype: the dtype that floating tensors of the network and of the inputs are to have.
        watch: who looks on; the run that the trial tells of is the one whose copy is its ``net``.

    Raises:
        Exception: what the run that came furthest raised, if no run passed, with a note that
            names the module.
    """
    shapes = inputs.map(specified)
    specs = [leaf for leaf in shapes.leaves() if isinstance(leaf, Spec)]
    taken = {size for tensor in _own_tensors(net) for size in tensor.shape}
    first: Exception | None = None
    for sizes in resolutions(specs, taken):
        try:
            return _explore(net, shapes, dtype, sizes, watch)
        except DidNotEnd:  # it would take as long for other sizes
            raise
        except Exception as error:  # noqa: BLE001  (other sizes may pass; else it is raised)
            first = first or error
    assert first is not None
    raise first


def try_example(
    net: nn.Module,
    example: Inputs,
    dtype: torch.dtype | None = None,
    watch: Watch | None = None,
) -> Trial:
    """Run a copy of ``net`` with its data on real tensors, once.

    Raises:
        Exception: what the run raises, with a note that names the module.
    """
    copy = replica(net)
    _cast(copy, dtype)
    run = _Run(copy, Recorder(copy))
    run(example.map(lambda leaf: _copied(leaf, dtype)), *_watching(watch, copy))
    if run.error is not None:
        raise run.error
    return Trial(copy, run.output, run.recorder.calls, run.kept)


def as_example(example: Any) -> Inputs:
    """Real inputs.

    Raises:
        TypeError: if ``example`` holds specifications, or no tensor.
    """
    given = as_inputs(example)
    for leaf in given.leaves():
        if isinstance(leaf, Spec):
            raise TypeError(f"example must hold real tensors; got {leaf!r}; pass it as spec=")
    if not any(isinstance(leaf, torch.Tensor) for leaf in given.leaves()):
        raise TypeError(f"example must hold real tensors; got {example!r}")
    return given


def _explore(
    net: nn.Module,
    inputs: Inputs,
    dtype: torch.dtype | None,
    sizes: dict[str, int],
    watch: Watch | None,
) -> Trial:
    explorer = Explorer()
    passed: list[Trial] = []
    failed: list[Recorder] = []
    furthest: _Run | None = None
    for mode in explorer.runs(lambda: _wanted(passed[0])):
        copy = twin(net)
        may_need_data(copy)
        _cast(copy, dtype)
        free = DataFree()
        free.trace = pass_on
        free.known = Familiar() if watch is None else None
        mode.root, mode.hidden = copy, free.hidden
        run = _Run(copy, Recorder(copy, free))
        watching = _watching(watch, copy)
        run(inputs.map(lambda leaf: _meta(leaf, sizes, dtype)), free, mode, *watching)
        if run.error is not None:
            failed.append(run.recorder)
            if furthest is None or run.recorder.finished > furthest.recorder.finished:
                furthest = run
            continue
        mode.passed()
        read = mode.reads_values or free.reads_values
        passed.append(Trial(copy, run.output, run.recorder.calls, run.kept, sizes=sizes))
        found = passed[0]
        found.reads_values |= read
        found.kept &= run.kept
        for path, call in run.recorder.calls.items():
            found.calls.setdefault(path, call).learn(call.origins)
    if not passed:
        assert furthest is not None
        assert furthest.error is not None
        raise furthest.error
    found = passed[0]
    for module, path in first_paths(found.net).items():
        if is_lazy(module) and path in found.calls:
            initialize(module, without_data(found.calls[path].inputs))
    for recorder in failed:
        found.in_vain |= recorder.calls.keys() - found.calls.keys()
        for path in found.calls.keys() & recorder.calls.keys():
            found.calls[path].learn(recorder.calls[path].origins)
    found.failed = None if furthest is None else furthest.error
    found.conditions = list(dict.fromkeys(explorer.conditions.values()))
    return found


def _watching(watch: Watch | None, net: nn.Module) -> list[AbstractContextManager[Any]]:
    return [] if watch is None else [watch(net)]


class _Run:
    """One run of a copy of a network, quiet, with the caller's generators left alone."""

    def __init__(self, net: nn.Module, recorder: Recorder) -> None:
        self.net = net
        self.recorder = recorder
        self.error: Exception | None = None
        self.output: Any = None
        self.kept: set[Place] = set()

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


def _wanted(trial: Trial) -> int:
    """How many more runs it is worth to reach the modules that were not reached."""
    missed = [module for module, path in first_paths(trial.net).items() if path not in trial.calls]
    if any(is_lazy(module) and waiting(module) for module in missed):
        return LIMIT
    return _FEW if any(not module._modules for module in missed) else 0


@boundary
def _call(net: nn.Module, inputs: Inputs) -> Any:
    return net(*inputs.args, **inputs.kwargs)


def without_data(inputs: Inputs) -> Inputs:
    """Tensors without data in the places of specifications."""
    return inputs.map(lambda leaf: _meta(leaf, {}, None))


def _own_tensors(net: nn.Module) -> Iterator[torch.Tensor]:
    for tensor in (*net.parameters(), *net.buffers()):
        if not is_uninitialized(tensor):
            yield tensor


def _meta(leaf: Any, sizes: dict[str, int], dtype: torch.dtype | None) -> Any:
    """A tensor without data for a specification."""
    if not isinstance(leaf, Spec):
        return leaf
    made = torch.empty(leaf.sized(sizes), dtype=_casted(leaf.dtype, dtype), device="meta")
    made_by(made, INPUT)
    return made


def _copied(leaf: Any, dtype: torch.dtype | None) -> Any:
    """A copy of a tensor."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    copy = leaf.detach().to(dtype=_casted(leaf.dtype, dtype), copy=True)
    made_by(copy, INPUT)
    return copy.requires_grad_(leaf.requires_grad)


def _casted(found: torch.dtype, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and found.is_floating_point else found


def _cast(net: nn.Module, dtype: torch.dtype | None) -> None:
    """Cast the floating tensors of ``net``, plain attributes too."""
    if dtype is None:
        return
    net.to(dtype)
    modules = {path: module for module, path in first_paths(net).items()}
    for (path, name), tensor in list(plain_tensors(net)):
        if tensor.is_floating_point():
            modules[path].__dict__[name] = tensor.detach().to(dtype)
