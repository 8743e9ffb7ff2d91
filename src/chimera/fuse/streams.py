"""Branches that differ, each on a stream of a GPU, so that their kernels run at the same time.

Contract: what is computed, and what is drawn, is what the branches give one after the other. The
branches start when the work queued before them is done, and what is queued after them waits for
all; memory is kept until every stream that uses it is through. Autograd runs the backward of an
operation on the stream of its forward. All of it can be captured in a CUDA graph, where the
branches become parallel paths.

No stream is touched but through ``Queues``, so that the order of things is tested without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chimera.paths.nest import flatten

MOST = 8
"""As many streams as there are at most."""

# Nothing was measured on a GPU: estimates. Outside a graph a branch must take longer than Python
# takes to start it, or the next one starts when it is done; in any case it must leave room on the
# device. In floating-point operations of one branch's forward.
LEAST_EAGER = 2e8
MOST_WORK = 2e10


class Queues(Protocol):
    """The streams of one device."""

    def current(self) -> Any:
        """The stream that work goes to now; it has ``record_event`` and ``wait_event``."""

    def side(self, number: int) -> Any:
        """Another stream, the same one for the same number."""

    def on(self, stream: Any) -> AbstractContextManager[Any]:
        """Inside it, work goes to ``stream``."""

    def keep(self, tensor: Tensor, stream: Any) -> None:
        """Let the tensor's memory not be used again before ``stream`` is through."""

    def capturing(self) -> bool:
        """Whether work is captured in a graph."""


class CudaQueues:
    """Streams of ``torch.cuda``."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sides: list[torch.cuda.Stream] = []

    def current(self) -> torch.cuda.Stream:
        """The current stream of the device."""
        return torch.cuda.current_stream(self._device)

    def side(self, number: int) -> torch.cuda.Stream:
        """A stream of our own."""
        while len(self._sides) <= number:
            self._sides.append(torch.cuda.Stream(self._device))
        return self._sides[number]

    def on(self, stream: torch.cuda.Stream) -> AbstractContextManager[Any]:
        """``torch.cuda.stream``."""
        return torch.cuda.stream(stream)

    def keep(self, tensor: Tensor, stream: torch.cuda.Stream) -> None:
        """``Tensor.record_stream``."""
        tensor.record_stream(stream)

    def capturing(self) -> bool:
        """Whether the current stream is captured."""
        return torch.cuda.is_current_stream_capturing()


_QUEUES: dict[torch.device, Queues] = {}


def queues_of(device: torch.device) -> Queues | None:
    """The streams of a device; None where it has none."""
    if device.type != "cuda":
        return None
    if device not in _QUEUES:
        _QUEUES[device] = CudaQueues(device)
    return _QUEUES[device]


def pays(queues: Queues, works: Sequence[float]) -> str:
    """Why branches of so many operations each run at the same time; empty where they do not."""
    small = [work for work in works if work <= MOST_WORK]
    if len(small) < 2:
        return ""
    if queues.capturing():
        return f"on {min(len(works), MOST)} streams of one graph"
    if sum(work >= LEAST_EAGER for work in small) < 2:
        return ""
    return f"on {min(len(works), MOST)} streams"


def at_once(
    queues: Queues,
    tasks: Sequence[Callable[[], Any]],
    works: Sequence[float],
    given: Sequence[Any],
    *,
    in_order: bool,
) -> list[Any]:
    """What the tasks give, each run on the stream with the least work, the longest first.

    Args:
        queues: the streams.
        tasks: to run; each queues work.
        works: of each task, in floating-point operations.
        given: nested tensors that every task may use.
        in_order: start them in their own order, since they draw from one generator.
    """
    order = list(range(len(tasks)))
    if not in_order:
        order.sort(key=lambda task: -works[task])
    now = queues.current()
    start = now.record_event()
    inputs = [leaf for leaf in flatten(tuple(given))[0] if isinstance(leaf, Tensor)]
    loads = [0.0] * min(len(tasks), MOST)
    used: dict[int, Any] = {}
    results: list[Any] = [None] * len(tasks)
    try:
        for task in order:
            number = loads.index(min(loads))
            loads[number] += max(works[task], 1.0)
            stream = queues.side(number)
            if number not in used:
                used[number] = stream
                stream.wait_event(start)
                for tensor in inputs:
                    queues.keep(tensor, stream)
            with queues.on(stream):
                results[task] = tasks[task]()
    finally:
        for stream in used.values():
            now.wait_event(stream.record_event())
    for leaf in flatten(results)[0]:
        if isinstance(leaf, Tensor):
            queues.keep(leaf, now)
    return results


def estimated(branch: nn.Module, given: tuple[Any, ...]) -> float:
    """Operations of a forward, as of products with every parameter.

    Those of a convolution at every place of the input, others at every place but its last axis.
    """
    tensors = [leaf for leaf in flatten(given)[0] if isinstance(leaf, Tensor)]
    if not tensors:
        return 0.0
    largest = max(tensors, key=lambda tensor: tensor.numel())
    total = 0.0
    for module in branch.modules():
        weights = sum(p.numel() for p in module.parameters(recurse=False))
        spatial = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        axis = (1 if spatial else -1) if largest.dim() > 1 else 0
        places = largest.numel() / max(1, largest.shape[axis] if largest.dim() else 1)
        total += 2.0 * weights * places
    return total


def may_draw(module: nn.Module) -> bool:
    """Whether a branch might draw: what is not torch's own or ours may do anything."""
    for part in module.modules():
        home = type(part).__module__
        if not home.startswith(("torch.nn.", "chimera.")) or "forward" in vars(part):
            return True
        if part.training and ("Dropout" in type(part).__name__ or isinstance(part, nn.RReLU)):
            return True
        if part.training and getattr(part, "dropout", False):
            return True
    return False
