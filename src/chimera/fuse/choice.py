"""Whether to run branches as one or one by one: by a rule that measurements back, or by a clock.

``"model"`` decides by the number of branches and their work: the same network with the same shapes
on the same device always decides the same. ``"measure"`` times both the first time it meets a kind
of call. Decisions are kept for the whole process by structure, shapes, dtype, device, mode and
number of threads.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from chimera.fuse.part import Given, Part
from chimera.fuse.reached import Reach
from chimera.fuse.transforms import transformed
from chimera.paths.nest import flatten

WAYS = ("model", "measure")
ROUNDS = 7
MARGIN = 0.97


@dataclass(frozen=True, slots=True)
class Limit:
    """Where running as one wins.

    Attributes:
        branches: from how many on.
        work: up to how many floating-point operations a branch.
        layers: from how many layers on, those of all branches together: what is saved is starting
            them, what is paid is joining parameters and parting gradients.
    """

    branches: int
    work: float
    layers: int = 0

    def few(self, branches: int, layers: int) -> str:
        """Why ``branches`` of ``layers`` each are too few; empty where they are not."""
        if branches < self.branches:
            return f"{branches} branches are fewer than {self.branches}"
        if branches * layers < self.layers:
            return f"{branches} branches of {layers} layers are fewer than {self.layers} layers"
        return ""


# What ``benchmarks/branches.py`` measured on a CPU, see ``benchmarks/results``. With one thread a
# large product runs at the same rate alone; with more, small ones lose time in handing out work.
# Grouped convolutions lose from some size on; branches of several widths have a product a width,
# so that it takes more of them (``benchmarks/branches_widths.py``). On another device nothing was
# measured: the numbers are those of a CPU with threads.
_ONE_THREAD = {
    "products": Limit(8, 4e6, layers=24),
    "convolutions": Limit(3, 1e7),
    "widths": Limit(16, 4e6, layers=48),
    "channels": Limit(12, 1e7),
    "vmap": Limit(24, 1e6),
    "recurrent": Limit(3, 5e6),
}
_THREADS = _ONE_THREAD | {
    "products": Limit(8, 1e8, layers=24),
    "widths": Limit(16, 1e8, layers=48),
}


# Taken as one in a recording, however large: the products take the same time either way, and a
# compiler's time grows with those that it is given.
_GROWING = ("products", "widths")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether branches run as one, and why, in a few words."""

    as_one: bool
    why: str


_DECISIONS: dict[Any, Decision] = {}


def decision(
    part: Part,
    branches: Sequence[nn.Module],
    given: Given,
    named: dict[str, Any],
    alone: Callable[[], Any],
    decide: str,
) -> Decision:
    """Whether to run a call of ``branches`` as one.

    Args:
        part: what runs them as one.
        branches: of one structure.
        given: the positional arguments of every branch.
        named: the keyword arguments of all.
        alone: runs them one by one.
        decide: "model" or "measure".

    Raises:
        Refused: timing showed that they cannot run as one.
    """
    key = _key(part, branches, given, named, decide)
    found = _DECISIONS.get(key)
    if found is None:
        if decide == "measure" and not transformed():
            found = _measured(part, branches, given, named, alone)
        else:
            found = _modelled(part, given)
        if not transformed():
            _DECISIONS[key] = found
    return found


def hopeless(part: Part, count: int, decide: str, *, whole: bool) -> str:
    """Why the rule lets ``count`` branches never run as one, whatever the input; else empty.

    Where they are not the whole of their block, half as many more must be saved: their outputs
    and those of the others must still be joined.
    """
    limits = [_ONE_THREAD[part.kind], _THREADS[part.kind]]
    if not whole:
        limits = [replace(limit, layers=limit.layers * 3 // 2) for limit in limits]
    few = [limit.few(count, part.layers) for limit in limits]
    if decide == "measure" or not all(few):
        return ""
    return f"{few[0]} ({part.kind})"


def _key(
    part: Part, branches: Sequence[nn.Module], given: Given, named: dict[str, Any], decide: str
) -> Any:
    leaves = flatten((given[0], named))[0]
    shapes = tuple(
        (tuple(leaf.shape), leaf.dtype, leaf.device, leaf.requires_grad)
        for leaf in leaves
        if isinstance(leaf, Tensor)
    )
    modes = tuple([modules[0].training for modules in part.moded])
    same = all(args[0] is given[0][0] for args in given if args), _recorded(leaves)
    threads = torch.get_num_threads()
    return (decide, part.structure, shapes, same, modes, torch.is_grad_enabled(), threads)


def _modelled(part: Part, given: Given) -> Decision:
    leaves = flatten(given[0])[0]
    device = next((leaf.device for leaf in leaves if isinstance(leaf, Tensor)), None)
    threads = torch.get_num_threads() > 1 or (device is not None and device.type != "cpu")
    limit = (_THREADS if threads else _ONE_THREAD)[part.kind]
    count, work = len(given), part.work(given)
    few = limit.few(count, part.layers)
    if few:
        return Decision(False, f"{few} ({part.kind})")
    if work > limit.work and not (_recorded(leaves) and part.kind in _GROWING):
        return Decision(
            False, f"{work:.1e} operations a branch are more than {limit.work:.0e} ({part.kind})"
        )
    return Decision(True, f"{count} branches of {work:.1e} operations ({part.kind})")


def _recorded(leaves: Sequence[Any]) -> bool:
    """Whether a call is being recorded: its tensors are of the tracer's own class."""
    known = (nn.Parameter, Tensor, nn.Buffer)
    return any(isinstance(leaf, Tensor) and type(leaf) not in known for leaf in leaves)


def _measured(
    part: Part,
    branches: Sequence[nn.Module],
    given: Given,
    named: dict[str, Any],
    alone: Callable[[], Any],
) -> Decision:
    """Time forward, and backward where there is one, both ways in turn; nothing is left changed."""
    buffers = list({id(b): b for branch in branches for b in branch.buffers()}.values())
    before = [buffer.detach().clone() for buffer in buffers]
    wanted: list[Tensor] = [
        p for branch in branches for p in branch.parameters() if p.requires_grad
    ]
    leaves = flatten((given, named))[0]
    wanted += {
        id(leaf): leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad
    }.values()
    devices = {b.device for b in [*wanted, *buffers] if b.device.type == "cuda"}
    times: dict[str, list[float]] = {"one by one": [], "as one": []}
    ways = {"one by one": alone, "as one": lambda: part.run(given, named, Reach(len(given)))}
    with torch.random.fork_rng(devices=list(devices)):
        try:
            for turn in range(ROUNDS + 2):
                for name, way in ways.items():
                    took = _time(way, wanted, devices)
                    if turn > 1:  # the first two warm up
                        times[name].append(took)
        finally:
            with torch.no_grad():
                for buffer, copy in zip(buffers, before, strict=True):
                    buffer.copy_(copy)
    slow, fast = (statistics.median(found) for found in times.values())
    said = f"measured {fast * 1e3:.3g} ms as one, {slow * 1e3:.3g} ms one by one"
    return Decision(fast < MARGIN * slow, said)


def _time(way: Callable[[], Any], wanted: list[Tensor], devices: set[torch.device]) -> float:
    for device in devices:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    outputs = [leaf for leaf in flatten(way())[0] if isinstance(leaf, Tensor)]
    outputs = [leaf for leaf in outputs if leaf.requires_grad]
    if outputs and wanted:
        ones = [torch.ones_like(output) for output in outputs]
        torch.autograd.grad(outputs, wanted, ones, allow_unused=True)
    for device in devices:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
