"""How much memory training a network takes, and how much there is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from chimera.build.inputs import Inputs
from chimera.build.spec import Spec
from chimera.build.twin import twin
from chimera.draws.seeds import forked

_STATES = 2
"""Numbers that Adam keeps for each one of a parameter (Kingma and Ba 2015, algorithm 1)."""


@dataclass(frozen=True)
class Need:
    """The bytes that training takes on one device.

    Attributes:
        held: parameters, buffers, gradients and Adam's state.
        activations: what the forward keeps for the backward; 0 where no specification was given.
    """

    held: int
    activations: int

    @property
    def total(self) -> int:
        return self.held + self.activations


def need(net: nn.Module, inputs: Inputs | None, ranks: int) -> Need:
    """What a replica takes whose rows are a part of those of ``inputs``.

    Args:
        net: built; its tensors may lie on any device.
        inputs: specifications of the whole batch.
        ranks: the number of parts.
    """
    parameters = list(net.parameters())
    held = sum(map(_bytes, (*parameters, *net.buffers())))
    held += (1 + _STATES) * sum(_bytes(p) for p in parameters if p.requires_grad)
    return Need(held, 0 if inputs is None else -(-activations(net, inputs) // ranks))


def activations(net: nn.Module, inputs: Inputs) -> int:
    """The bytes that one forward keeps for its backward, parameters not counted, without data.

    Raises:
        ValueError: a specification has an axis without a size.
        Exception: what the network raises without data.
    """
    for leaf in inputs.leaves():
        if isinstance(leaf, Spec) and leaf.free:
            raise ValueError(
                f"distribute: spec has the free axis {leaf.free[0]!r}; give the size of the whole "
                "batch, so that memory can be predicted"
            )
    copy = twin(net).to("meta")
    own = {id(p) for p in copy.parameters()}
    kept: dict[int, tuple[Tensor, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        if id(tensor) not in own and not isinstance(tensor, nn.Parameter):
            root = tensor if tensor._base is None else tensor._base
            kept[id(root)] = (root, _bytes(root))
        return tensor

    def made(leaf: object) -> object:
        if isinstance(leaf, Spec):
            return torch.empty(leaf.sized({}), dtype=leaf.dtype, device="meta")
        return leaf.to("meta") if isinstance(leaf, Tensor) else leaf

    given = inputs.map(made)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with forked(0), torch.enable_grad(), hooks:
        copy(*given.args, **given.kwargs)
    roots = (size for root, size in kept.values() if not isinstance(root, nn.Parameter))
    return sum(roots)


def free_bytes(device: torch.device, processes: int) -> int:
    """The free memory of ``device`` for one of ``processes`` that share the machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        return kib * 1024 // processes
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // processes


def said(count: float) -> str:
    """A number of bytes as one reads it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
