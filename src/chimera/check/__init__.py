"""Mistakes in a network, found before a run."""

from chimera.check.check import check
from chimera.check.contract import Contract, contract
from chimera.check.duties import Duty
from chimera.check.finding import Finding

__all__ = ["Contract", "Duty", "Finding", "check", "contract"]
