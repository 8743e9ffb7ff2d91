"""Mistakes in a network, found before a run."""

from chimera.check.check import check
from chimera.check.contract import Contract, Duty, contract
from chimera.check.finding import Finding

__all__ = ["Contract", "Duty", "Finding", "check", "contract"]
