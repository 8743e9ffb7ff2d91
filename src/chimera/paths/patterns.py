"""Patterns over dotted paths.

``*`` stands for any characters within one name, ``?`` for one character, ``[ab]`` for one of
several; a part that is ``**`` stands for any number of whole names, none included. Case counts.
"""

from fnmatch import fnmatchcase


def matches(pattern: str, path: str) -> bool:
    """Whether ``pattern`` fits the whole of ``path``."""
    return _matches(pattern.split("."), path.split("."))


def _matches(pattern: list[str], names: list[str]) -> bool:
    if not pattern:
        return not names
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return any(_matches(rest, names[i:]) for i in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], first) and _matches(rest, names[1:])
