"""Modules made of modules."""

from chimera.blocks.constant import Constant
from chimera.blocks.control import Cond, While
from chimera.blocks.parallel import Parallel
from chimera.blocks.repeat import Repeat
from chimera.blocks.residual import Residual
from chimera.blocks.sequential import Sequential

__all__ = ["Cond", "Constant", "Parallel", "Repeat", "Residual", "Sequential", "While"]
