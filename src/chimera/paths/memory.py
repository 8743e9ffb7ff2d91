"""Tensors of one module that share memory without being one tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from chimera.paths.structure import Slot


def overlapping(slots: list[Slot]) -> tuple[Slot, Slot] | None:
    """Two slots whose tensors share memory without being one tensor, or None."""
    known: dict[tuple[Any, int], list[Slot]] = {}
    for slot in slots:
        tensor = slot.tensor
        if nn.parameter.is_lazy(tensor) or tensor.layout is not torch.strided or slot.computed:
            continue
        if tensor.device.type == "meta" or tensor.numel() == 0:
            continue
        others = known.setdefault((tensor.device, tensor.untyped_storage().data_ptr()), [])
        for other in others:
            if _meet(other.tensor, tensor):
                return other, slot
        others.append(slot)
    return None


def _meet(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage have a byte in common."""
    (a_start, a_end), (b_start, b_end) = _span(one), _span(other)
    if a_end <= b_start or b_end <= a_start:
        return False
    low = min(a_start, b_start)
    touched = torch.zeros(max(a_end, b_end) - low, dtype=torch.bool)
    try:
        _bytes(touched, one, a_start - low).fill_(True)
    except RuntimeError:  # a tensor that overlaps itself cannot be filled
        return True
    return bool(_bytes(touched, other, b_start - low).any())


def _span(tensor: Tensor) -> tuple[int, int]:
    """The first byte of a tensor in its storage, and the one after its last."""
    size = tensor.element_size()
    start = int(tensor.storage_offset()) * size
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + (int(reach) + 1) * size


def _bytes(touched: Tensor, tensor: Tensor, start: int) -> Tensor:
    """The bytes of ``tensor`` among ``touched``; an expanded axis has one entry."""
    size = tensor.element_size()
    axes = zip(tensor.shape, tensor.stride(), strict=True)
    shape = [(n if step else 1, step * size) for n, step in axes]
    return touched.as_strided([*(n for n, _ in shape), size], [*(s for _, s in shape), 1], start)
