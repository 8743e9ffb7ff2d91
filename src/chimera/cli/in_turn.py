"""Values that members get in turn: ``--set hidden=32,64`` gives them 32, 64, 32, 64, ...

A comma inside brackets or quotes parts nothing, so that ``(32,64)`` is one value, a tuple.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_OPEN, _CLOSE = "([{", ")]}"


@dataclass(frozen=True)
class InTurn:
    """Several values of one argument, for the members in turn."""

    values: tuple[Any, ...]

    def __repr__(self) -> str:
        return "/".join(map(repr, self.values))


def parts_of(text: str) -> list[str]:
    """The texts between commas; one where a bracket or quote is left open."""
    parts, start, inside, quote, escaped = [], 0, 0, "", False
    for place, letter in enumerate(text):
        if quote:
            ends = letter == quote and not escaped
            escaped = letter == "\\" and not escaped
            quote = "" if ends else quote
        elif letter in "'\"":
            quote = letter
        elif letter in _OPEN:
            inside += 1
        elif letter in _CLOSE:
            inside -= 1
        elif letter == "," and inside == 0:
            parts.append(text[start:place])
            start = place + 1
    return [text] if quote or inside else [*parts, text[start:]]


def of_member(arguments: Mapping[str, Any], member: int) -> dict[str, Any]:
    """The arguments of one member."""
    return {
        key: value.values[member % len(value.values)] if isinstance(value, InTurn) else value
        for key, value in arguments.items()
    }
