"""Data, loop, metrics, result, run directory."""

from chimera.fit.data import Data, data
from chimera.fit.digits import digits
from chimera.fit.mlp import MLP
from chimera.fit.npz import load_npz
from chimera.fit.space import LogUniform

__all__ = ["MLP", "Data", "LogUniform", "data", "digits", "load_npz"]
