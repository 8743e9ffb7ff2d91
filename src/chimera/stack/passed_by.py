"""What a Stack itself has around its members' calls: hooks, or a forward of its own."""

from __future__ import annotations

from chimera.paths.hooks import is_hooked
from chimera.stack.stack import Stack


def of_its_own(stack: Stack) -> str:
    """What a call of ``stack`` does besides calling its members, in words; empty for nothing."""
    if is_hooked(stack):
        return "hooks of its own"
    if type(stack).forward is not Stack.forward or "forward" in vars(stack):
        return "a forward of its own"
    return ""
