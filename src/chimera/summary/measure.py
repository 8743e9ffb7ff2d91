"""What each module's forward takes: time measured on a copy with data."""

import time
import warnings
from collections import Counter
from typing import Any

import torch
from torch import nn

from chimera.build.builder import build
from chimera.build.inputs import Inputs
from chimera.build.spec import Spec
from chimera.build.twin import replica
from chimera.decide.ending import Ending, not_exiting
from chimera.draws.seeds import forked
from chimera.paths.hooks import without_hooks_of_all
from chimera.paths.walk import first_paths

_RUNS = 5


def measured(net: nn.Module, inputs: Inputs, sizes: dict[str, int]) -> dict[str, float]:
    """Seconds of each module's own forward in one run, children left out, by path.

    A copy of ``net`` runs on random inputs, or on the tensors that stand in ``inputs``; the least
    total of several runs after a first that does not count is taken.

    Args:
        net: the network; it stays as it is.
        inputs: what it takes.
        sizes: the sizes of the free axes of ``inputs``.

    Raises:
        ValueError: ``net`` has parameters without data, on the meta device.
    """
    for name, parameter in net.named_parameters():
        if not nn.parameter.is_lazy(parameter) and parameter.is_meta:
            raise ValueError(
                f"summary: measure=True runs the network, but {name} is on the meta device; "
                "construct the network with data"
            )
    copy = replica(net)
    device = next((p.device for p in copy.parameters()), torch.device("cpu"))
    with forked(0), warnings.catch_warnings(), torch.no_grad(), without_hooks_of_all():
        warnings.simplefilter("ignore")
        given = inputs.map(lambda leaf: _real(leaf, sizes, device))
        build(copy, given.map(_specified), device=device)
        clock = _Clock(copy, device)
        with Ending(), not_exiting():
            copy(*given.args, **given.kwargs)
        best = clock.taken()
        for _ in range(_RUNS):
            copy(*given.args, **given.kwargs)
            found = clock.taken()
            if found.total() < best.total():
                best = found
    return dict(best)


class _Clock:
    """Own time of every module of a network."""

    def __init__(self, net: nn.Module, device: torch.device) -> None:
        self._own: Counter[str] = Counter()
        self._device = device
        self._stack: list[tuple[float, float]] = []
        for module, path in first_paths(net).items():
            if not isinstance(module, torch.jit.ScriptModule):
                self._hook(module, path)

    def _hook(self, module: nn.Module, path: str) -> None:
        def before(module: nn.Module, args: Any) -> None:
            self._stack.append((self._now(), 0.0))

        def after(module: nn.Module, args: Any, output: Any) -> None:
            start, inner = self._stack.pop()
            took = self._now() - start
            self._own[path] += took - inner  # type: ignore[assignment]
            if self._stack:
                above, so_far = self._stack[-1]
                self._stack[-1] = above, so_far + took

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after, always_call=True)

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return time.perf_counter()

    def taken(self) -> Counter[str]:
        """The own times since the last call."""
        found, self._own = self._own, Counter()
        return found


def _real(leaf: Any, sizes: dict[str, int], device: torch.device) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.detach().to(device, copy=True)
    if not isinstance(leaf, Spec):
        return leaf
    shape = leaf.sized(sizes)
    if leaf.dtype.is_floating_point or leaf.dtype.is_complex:
        return torch.randn(shape, dtype=leaf.dtype, device=device)
    if leaf.dtype == torch.bool:
        return torch.ones(shape, dtype=leaf.dtype, device=device)
    return torch.zeros(shape, dtype=leaf.dtype, device=device)  # 0 is an index everywhere


def _specified(leaf: Any) -> Any:
    return Spec(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf
