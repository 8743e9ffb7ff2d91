"""Recordings in CUDA graphs: one launch takes a whole step.

Contract: what runs is what was recorded, on the same tensors. Arguments that change between calls
are copied into memory of the graph's; parameters, buffers and the optimizer's state are the
graph's own, so that another tensor in the place of one is captured anew. What a step gives is the
graph's memory: it holds until the next step. What cannot be captured runs as recorded, and is said.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule

from chimera.engine.graph import Compile, Run
from chimera.paths.notice import ChimeraWarning

Results = Sequence[Tensor | None]
Work = Callable[[], Results]


class Recorder(Protocol):
    """What captures work for replay."""

    def warm(self, work: Work) -> Results:
        """Run ``work`` apart, so that what is made at a first use is made."""

    def record(self, work: Work, changed: Sequence[Tensor]) -> tuple[Callable[[], None], Results]:
        """What runs ``work`` again, and the memory that its results come in.

        Args:
            work: what to capture; it is not run.
            changed: the tensors that it changes.
        """


class CudaGraphs:
    """``torch.cuda.CUDAGraph``."""

    def warm(self, work: Work) -> Results:
        """Run ``work`` on a stream beside."""
        stream, now = torch.cuda.Stream(), torch.cuda.current_stream()
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            results = work()
        now.wait_stream(stream)
        return results

    def record(self, work: Work, changed: Sequence[Tensor]) -> tuple[Callable[[], None], Results]:
        """Capture ``work``."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = work()
        return graph.replay, results


class _Captured:
    """A recording that is captured at its second call on the same tensors."""

    def __init__(self, run: Run, fixed: Sequence[int], recorder: Recorder) -> None:
        self._run, self._fixed, self._recorder = run, fixed, recorder
        self._static: list[Tensor] = []
        self._replay: Callable[[], None] | None = None
        self._results: Results = ()
        self._seen: tuple[int, ...] = ()
        self._refused = False

    def __call__(self, *tensors: Tensor) -> Results:
        fixed = {place % len(tensors) for place in self._fixed}
        where = tuple(tensors[place].data_ptr() for place in sorted(fixed))
        if where != self._seen:
            self._seen, self._replay = where, None
            return self._recorder.warm(lambda: self._run(*tensors))
        if self._refused:
            return self._run(*tensors)
        if self._replay is None:
            self._static = [
                tensor if place in fixed else tensor.clone() for place, tensor in enumerate(tensors)
            ]
            changed = [self._static[place] for place in sorted(fixed)]
            try:
                self._replay, self._results = self._recorder.record(
                    lambda: self._run(*self._static), changed
                )
            except Exception as error:  # noqa: BLE001 - of capturing, in which nothing was computed
                self._refuse(error)
                return self._run(*tensors)
        for static, tensor in zip(self._static, tensors, strict=True):
            if static is not tensor and static.data_ptr() != tensor.data_ptr():
                static.copy_(tensor, non_blocking=True)
        self._replay()
        return self._results

    def _refuse(self, error: Exception) -> None:
        """Run what was recorded operation by operation from now on, and say so once."""
        self._refused, self._static = True, []
        first = str(error).strip().partition("\n")[0]
        warnings.warn(
            "the step runs as recorded, operation by operation: it could not be captured in a CUDA "
            f"graph ({type(error).__name__}: {first[:160]})",
            ChimeraWarning,
            stacklevel=6,
        )


def captured(inner: Compile, recorder: Recorder | None = None) -> Compile:
    """What captures what ``inner`` makes of a recording.

    Args:
        inner: makes what runs of a recording.
        recorder: captures it; CUDA graphs unless given.
    """
    made = recorder or CudaGraphs()
    return lambda graph, fixed: _Captured(inner(graph, fixed), fixed, made)


def as_recorded(graph: GraphModule, fixed: Sequence[int]) -> Run:
    """The recording itself, operation by operation."""
    run: Run = graph
    return run
