"""Whether an error raised at some line would be caught there, as the source says.

An error of many members' operation may be of one member alone; whoever catches it decides for all.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import CodeType, FrameType

_Lines = tuple[range, ...]

# By the id of a code object: itself, so that the id stays its own, and the lines that are guarded.
_known: dict[int, tuple[CodeType, _Lines]] = {}

_ANYWHERE: _Lines = (range(1 << 31),)

# Of torch: what leaves an error alone.
_PASSING = {
    *("no_grad", "enable_grad", "set_grad_enabled", "inference_mode", "autocast", "sdpa_kernel"),
    *("record_function", "profile", "device", "stream", "saved_tensors_hooks", "save_on_cpu"),
    *("set_detect_anomaly", "detect_anomaly", "nullcontext", "randomness", "fork_rng", "cached"),
}


def catches(frame: FrameType, until: str, passing: tuple[str, ...]) -> bool:
    """Whether an error raised in ``frame`` would be caught before it came to code of ``until``.

    Args:
        frame: where the error would be raised; it and those that called it are asked.
        until: the file of the first one that is not asked any more.
        passing: beginnings of files whose code raises again what it catches.
    """
    now: FrameType | None = frame
    while now is not None and (code := now.f_code).co_filename != until:
        # The table of handlers is empty of most functions.
        if code.co_exceptiontable and not code.co_filename.startswith(passing):
            _, lines = _known.get(id(code)) or _read(code)
            if any(now.f_lineno in guarded for guarded in lines):
                return True
        now = now.f_back
    return False


def _read(code: CodeType) -> tuple[CodeType, _Lines]:
    _known[id(code)] = found = (code, _guarded(code))
    return found


def _guarded(code: CodeType) -> _Lines:
    """The lines of a function where errors are caught; all of them where no source is known."""
    try:
        source, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(source)))
    except (OSError, SyntaxError, ValueError):
        return _ANYWHERE
    first = max(first, 1)
    return tuple(
        range(lines.start + first - 1, lines.stop + first - 1)
        for node in ast.walk(tree)
        for lines in _lines_of(node)
    )


def _lines_of(node: ast.AST) -> Iterator[range]:
    if isinstance(node, ast.Try | ast.TryStar):
        if any(map(_swallows, (handler.body for handler in node.handlers))) or _leaves(
            node.finalbody
        ):
            yield _span(node.body)
    elif isinstance(node, ast.With) and not all(_passes(item.context_expr) for item in node.items):
        yield _span(node.body)


def _span(body: list[ast.stmt]) -> range:
    return range(body[0].lineno, (body[-1].end_lineno or body[-1].lineno) + 1)


def _swallows(body: list[ast.stmt]) -> bool:
    """Whether a handler may go on: it has no ``raise`` at its end, or leaves before it."""
    return not isinstance(body[-1], ast.Raise) or _leaves(body)


def _leaves(body: list[ast.stmt]) -> bool:
    leaving = (ast.Return, ast.Break, ast.Continue)
    return any(isinstance(node, leaving) for statement in body for node in ast.walk(statement))


def _passes(context: ast.expr) -> bool:
    """Whether a context manager is known to leave errors alone."""
    called = context.func if isinstance(context, ast.Call) else context
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in _PASSING
