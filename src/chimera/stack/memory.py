"""Freed memory that stays with the process, so that the next step need not ask for it again.

glibc gives large freed blocks back to the system at once; the next step's tensors then are new
pages, and every first touch of one is a fault: a third of the time of a step of 64 small LSTMs
(``benchmarks/recurrent.py``). It raises its limits by itself to the size of a large block that is
freed (``mallopt(3)``, "dynamic mmap threshold"), to 32 MiB a block and 64 MiB in all at most; so
one such block, never touched, is made and freed. Where a limit is set in the environment
(``MALLOC_TRIM_THRESHOLD_``, ...), or under another allocator, nothing changes.
"""

from __future__ import annotations

import functools

import torch

_LARGEST = 2**25 - 2**16  # bytes; glibc's own largest, less its header and the alignment


@functools.cache
def keep_freed() -> None:
    """Once a process: let freed blocks of up to 32 MiB stay with it."""
    torch.empty(_LARGEST, dtype=torch.uint8)
