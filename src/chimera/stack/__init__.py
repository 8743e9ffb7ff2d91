"""N modules as one."""

from chimera.stack.each import each
from chimera.stack.explain import explain
from chimera.stack.files import load, save
from chimera.stack.stack import Stack

__all__ = ["Stack", "each", "explain", "load", "save"]
