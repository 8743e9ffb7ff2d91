"""Parallel blocks of a network as stacks."""

from chimera.fuse.fuse import fuse, unfuse

__all__ = ["fuse", "unfuse"]
