"""Parallel blocks of a network as stacks."""

from chimera.fuse.convert import to_parallel
from chimera.fuse.fuse import fuse, unfuse

__all__ = ["fuse", "to_parallel", "unfuse"]
