"""Counter-based randomness, and seeds that belong to paths."""

from chimera.draws.mode import randomness

__all__ = ["randomness"]
