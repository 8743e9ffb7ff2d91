"""How one kind of layer runs with a member axis."""

from chimera.stack.rules import control as control
from chimera.stack.rules.table import forwards_of, rule_of

__all__ = ["forwards_of", "rule_of"]
