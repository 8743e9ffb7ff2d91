"""Packing and padding sequences with a member axis; all members have the same lengths.

``torch._pack_padded_sequence`` and ``torch._pad_packed_sequence``, on which ``torch.nn.utils.rnn``
stands, are reached here alone.

Shapes: T steps, B sequences, the longest first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chimera.stack.rules.functions import replaces


@replaces(torch._pack_padded_sequence)
def pack(input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """The steps of all sequences, one step after the other, and how many sequences reach each."""
    x_TB = input.transpose(0, 1) if batch_first else input
    ends = lengths.tolist()
    if len(ends) != x_TB.shape[1] or min(ends) < 1 or sorted(ends, reverse=True) != ends:
        raise ValueError(
            f"lengths {ends} are not those of {x_TB.shape[1]} sequences, longest first"
        )
    sizes = [sum(end > step for end in ends) for step in range(ends[0])]
    data = torch.cat([x_TB[step, :size] for step, size in enumerate(sizes)])
    return data, torch.tensor(sizes)


@replaces(torch._pad_packed_sequence)
def pad(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    """The sequences with ``padding_value`` after their ends, and their lengths."""
    sizes = batch_sizes.tolist()
    steps = max(total_length, len(sizes))
    if 0 < total_length < len(sizes):
        raise ValueError(
            f"Expected total_length to be at least the length of the longest sequence in input, "
            f"but got total_length={total_length} and max sequence length being {len(sizes)}"
        )
    places = torch.tensor(
        [step * sizes[0] + row for step, size in enumerate(sizes) for row in range(size)],
        device=data.device,
    )
    flat = data.new_full((steps * sizes[0], *data.shape[1:]), padding_value)
    padded_TB = flat.index_copy(0, places, data).unflatten(0, (steps, sizes[0]))
    ends = torch.tensor([sum(size > row for size in sizes) for row in range(sizes[0])])
    return padded_TB.transpose(0, 1) if batch_first else padded_TB, ends
