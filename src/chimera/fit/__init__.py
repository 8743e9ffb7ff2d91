"""Data, loop, metrics, result, run directory."""

from chimera.fit.compare import Comparison, compare_loop
from chimera.fit.data import Data, data
from chimera.fit.digits import digits
from chimera.fit.loop import fit
from chimera.fit.mlp import MLP
from chimera.fit.npz import load_npz
from chimera.fit.result import Result
from chimera.fit.space import LogUniform

__all__ = [
    "MLP",
    "Comparison",
    "Data",
    "LogUniform",
    "Result",
    "compare_loop",
    "data",
    "digits",
    "fit",
    "load_npz",
]
