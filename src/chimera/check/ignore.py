"""Findings that the source asks to leave out: ``# chimera: ignore[rule]``.

On a line it stands for what is found on that line, on the first or last line of a statement for the
whole statement; where a module is made, or what holds it, for that module and all that is in it; on
the line of a ``def`` for what is found in the function; on the line of a ``class`` for the whole
class, its layers, and every module of that class. A comment that stands alone speaks for the line
below it. Several rules are separated by commas.
"""

import ast
import re
from collections.abc import Iterator

from chimera.check.context import Context
from chimera.check.finding import Finding
from chimera.check.places import Places
from chimera.check.source import SourceFile, first_line, last_line, users

_COMMENT = re.compile(r"#\s*chimera:\s*ignore\[([\w\s,-]*)\]")


def ignored(finding: Finding, context: Context, places: Places) -> bool:
    """Whether a comment in the source asks to leave ``finding`` out."""
    return any(
        finding.rule in re.split(r"[\s,]+", names)
        for file, line in _lines(finding, context, places)
        for names in _COMMENT.findall(file.line(line))
    )


def _lines(finding: Finding, context: Context, places: Places) -> Iterator[tuple[SourceFile, int]]:
    """The lines whose comments speak for a finding."""
    file = None if finding.file is None else context.sources.file(finding.file)
    if file is not None and finding.line is not None:
        yield from ((file, line) for line in _around(file, finding.line))
    trail = places.trail(finding.path)
    for part in (*trail.parts, *trail.others):
        written, first, last = part.method.file, part.node.lineno, last_line(part.node)
        yield from ((written, line) for line in (last, *_around(written, first)))
    if trail.parts and trail.at == finding.path:
        # Within what makes it, too; within what only holds it others have their lines.
        part = trail.parts[-1]
        lines = range(part.node.lineno, last_line(part.node))
        yield from ((part.method.file, line) for line in lines)
    owner, _ = places.owner(finding.path)
    kinds = {
        kind
        for path, module in (*context.paths, *context.kinds)
        if path in (finding.path, owner)
        for kind in users(module if isinstance(module, type) else type(module))
    }
    for kind in kinds:
        found = context.sources.statement(kind)
        if found is not None:
            yield from ((found[0], line) for line in _heading(*found))


def _around(file: SourceFile, number: int) -> Iterator[int]:
    """The lines whose comments speak for a line."""
    yield number
    yield from _alone(file, number)
    above = list(file.enclosing(number))
    for node in above:
        if isinstance(node, (ast.ClassDef, *_FUNCTIONS)) or node is above[-1]:
            yield from _heading(file, node)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _heading(file: SourceFile, node: ast.stmt) -> Iterator[int]:
    """The first and the last line of a statement; of one with a body the lines before that; and
    those of the comments above it."""
    first, last = first_line(node), last_line(node)
    body: list[ast.stmt] | None = getattr(node, "body", None)
    if body:
        last = next(
            (n for n in range(node.lineno, body[0].lineno) if _COLON.search(file.line(n))),
            body[0].lineno,
        )
        yield from range(first, last + 1)
    yield from (first, last, *_alone(file, first))


_COLON = re.compile(r":\s*(#.*)?$")


def _alone(file: SourceFile, number: int) -> Iterator[int]:
    """The lines right above a line that hold a comment and nothing else."""
    while file.line(number - 1).lstrip().startswith("#"):
        number -= 1
        yield number
