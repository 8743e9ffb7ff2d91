"""Findings that the source asks to leave out: ``# chimera: ignore[rule]``.

On a line it stands for that line; on the line of a ``class`` statement for the whole class, and for
every module of that class. Several rules are separated by commas.
"""

import re

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
    if finding.file is not None and finding.line is not None:
        file = context.sources.file(finding.file)
        if file is not None:
            classes = [node.lineno for node in file.enclosing(finding.line)]
            found.append((file, [finding.line, *classes]))
    for path, module in context.paths:
        if path == finding.path:
            for kind in users(type(module)):
                source = context.sources.of(kind)
                if source.file is not None and source.node is not None:
                    found.append((source.file, [source.node.lineno]))
    return found
