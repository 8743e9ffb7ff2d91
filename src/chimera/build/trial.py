"""Trying a network out, on a copy: its shapes, call by call, and what its forward does to it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from chimera.build.adopt import Place
from chimera.build.datafree import DataFree, is_uninitialized
from chimera.build.familiar import Familiar
from chimera.build.inputs import Inputs, as_inputs
from chimera.build.lazy import initialize, is_lazy, waiting
from chimera.build.makers import pass_on
from chimera.build.onlookers import may_need_data
from chimera.build.record import Call, Recorder, specified
from chimera.build.run import Run, cast, copied, empty, without_data
from chimera.build.spec import Spec, resolutions
from chimera.build.twin import replica, twin
from chimera.build.ways import Way, Ways
from chimera.decide.explore import (
    LIMIT,
    Condition,
    DataNeeded,
    DidNotEnd,
    Explorer,
    Exploring,
)
from chimera.paths.notes import tell
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
    """Run a copy of ``net`` without data, once for each outcome of each condition on data, and on
    each way through its ``While`` and ``Cond`` blocks.

    Args:
        net: the network; it stays as it is.
        inputs: its inputs, a ``Spec`` or a tensor for each; of a tensor only the shape counts.
        dtype: the dtype that floating tensors of the network and of the inputs are to have.
        watch: who looks on; the run that the trial tells of is the one whose copy is its ``net``.

    Raises:
        Exception: what the run that came furthest raised, if no run passed, or none on one of the
            ways through a block, with a note that names the module.
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
    cast(copy, dtype)
    run = Run(copy, Recorder(copy))
    run(example.map(lambda leaf: copied(leaf, dtype)), *_watching(watch, copy))
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
    tries = _Tries(net, inputs, dtype, sizes, watch)
    failed: list[Recorder] = []
    furthest: Run | None = None
    for mode in explorer.runs(lambda: _wanted(tries.passed[0])):
        run = tries.run(mode, Ways(mode.asked))
        if run.error is None:
            mode.passed()
            continue
        failed.append(run.recorder)
        furthest = run.further_than(furthest)
    if not tries.passed:
        assert furthest is not None
        assert furthest.error is not None
        raise furthest.error
    tries.take_every_way()
    found = tries.passed[0]
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


@dataclass
class _Tries:
    """Runs without data of one network on inputs of the same sizes, each of a copy of its own."""

    net: nn.Module
    inputs: Inputs
    dtype: torch.dtype | None
    sizes: dict[str, int]
    watch: Watch | None
    passed: list[Trial] = field(default_factory=list)
    """Those that passed; the first has learned what the others have shown."""
    missing: set[Way] = field(default_factory=set)
    """The ways through blocks that data may open and that no run that passed has taken."""
    taken: set[Way] = field(default_factory=set)

    def run(self, mode: Exploring, ways: Ways) -> "Run":
        copy = twin(self.net)
        may_need_data(copy)
        cast(copy, self.dtype)
        free = DataFree()
        free.trace = pass_on
        free.known = Familiar() if self.watch is None else None
        mode.root, mode.hidden = copy, free.hidden
        run = Run(copy, Recorder(copy, free))
        looking = (*_watching(self.watch, copy), ways.watched(copy))
        run(self.inputs.map(lambda leaf: empty(leaf, self.sizes, self.dtype)), free, mode, *looking)
        run.asked = mode.asked()
        if run.error is None:
            self.taken |= ways.taken
            self._learn(run, mode.reads_values or free.reads_values)
        self.missing = (self.missing | ways.possible) - self.taken
        return run

    def _learn(self, run: "Run", reads_values: bool) -> None:
        calls = run.recorder.calls
        self.passed.append(Trial(run.net, run.output, calls, run.kept, sizes=self.sizes))
        found = self.passed[0]
        found.reads_values |= reads_values
        found.kept &= run.kept
        for path, call in calls.items():
            found.calls.setdefault(path, call).learn(call.origins)

    def take_every_way(self) -> None:
        """Run each way through a block that data may open, whatever the other conditions say.

        Raises:
            Exception: what the run that came furthest raised, where none passed on a way.
        """
        refused: set[Way] = set()
        while left := sorted(self.missing - refused, key=str):
            before = len(self.taken)
            if len(left) > 1:  # most networks are right: the ways of all blocks at once
                self._take({way.path: way for way in left}.values())
            if len(self.taken) > before:
                continue
            error = self._take(left[:1])
            if left[0] in self.taken:
                continue
            # What needs the data, or more runs, cannot be told from shapes: that is no misfit.
            if error is not None and not isinstance(error, (DataNeeded, DidNotEnd)):
                tell(error, f"where: {left[0]}")
                raise error
            refused.add(left[0])

    def _take(self, wanted: Iterable[Way]) -> Exception | None:
        """Explore with some ways given, until a run on one of them passes; what the run that came
        furthest raised if none did, unless there are outcomes that were not tried."""
        wanted = set(wanted)
        explorer = Explorer()
        furthest: Run | None = None
        for mode in explorer.runs():
            ways = Ways(mode.asked, wanted)
            run = self.run(mode, ways)
            if run.error is None and ways.taken & wanted:
                return None
            if run.error is not None and ways.given >= wanted:
                furthest = run.further_than(furthest)
        return furthest.error if furthest is not None and explorer.complete else None


def _watching(watch: Watch | None, net: nn.Module) -> list[AbstractContextManager[Any]]:
    return [] if watch is None else [watch(net)]


def _wanted(trial: Trial) -> int:
    """How many more runs it is worth to reach the modules that were not reached."""
    missed = [module for module, path in first_paths(trial.net).items() if path not in trial.calls]
    if any(is_lazy(module) and waiting(module) for module in missed):
        return LIMIT
    return _FEW if any(not module._modules for module in missed) else 0


def _own_tensors(net: nn.Module) -> Iterator[torch.Tensor]:
    for tensor in (*net.parameters(), *net.buffers()):
        if not is_uninitialized(tensor):
            yield tensor
