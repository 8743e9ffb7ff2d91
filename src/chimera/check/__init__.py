"""Mistakes in a network, found before a run."""

from chimera.check.check import check
from chimera.check.finding import Finding

__all__ = ["Finding", "check"]
