"""Findings that the source asks to leave out: ``# chimera: ignore[rule]``.

On a line it stands for that line, and for the layer that an attribute is set to there; on the line
of a ``class`` statement for the whole class, its layers, and every module of that class. Several
rules are separated by commas.
"""

import re

from torch import nn

from chimera.check.context import Context
from chimera.check.finding import Finding
from chimera.check.source import SourceFile, users

_COMMENT = re.compile(r"#\s*chimera:\s*ignore\[([\w\s,-]*)\]")


def ignored(finding: Finding, context: Context) -> bool:
    """Whether a comment in the source asks to leave ``finding`` out."""
    for file, lines in _lines(finding, context):
        for line in lines:
            comment = _COMMENT.search(file.line(line))
            if comment and finding.rule in re.split(r"[\s,]+", comment[1].strip()):
                return True
    return False


def _lines(finding: Finding, context: Context) -> list[tuple[SourceFile, list[int]]]:
    """The lines whose comments speak for a finding, by file."""
    found = []
    owner, attribute = _owner(finding.path, context)
    made_at = (None, None) if owner is None else context.assigned(type(owner), attribute)
    for name, line in ((finding.file, finding.line), made_at):
        file = None if name is None else context.sources.file(name)
        if file is not None and line is not None:
            found.append((file, [line, *(node.lineno for node in file.enclosing(line))]))
    for path, module in context.paths:
        if path == finding.path or module is owner:
            for kind in users(type(module)):
                source = context.sources.of(kind)
                if source.file is not None and source.node is not None:
                    found.append((source.file, [source.node.lineno]))
    return found


def _owner(path: str, context: Context) -> tuple[nn.Module | None, str]:
    """The module of a user's class that holds the one at ``path``, and by which attribute."""
    modules, names = dict(context.paths), path.split(".")
    for depth in range(len(names) - 1, -1, -1):
        owner = modules.get(".".join(names[:depth]))
        if owner is not None and names[depth] and any(users(type(owner))):
            return owner, names[depth]
    return None, ""
