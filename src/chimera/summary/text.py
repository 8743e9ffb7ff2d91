"""A summary in a terminal: the tree, its figures in columns, findings below their lines."""

import io
import textwrap
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from chimera.summary.figures import Figures
from chimera.summary.rows import FIGURES, Note, Row, ending, rows

_GAP = 2
_LEAST_FLOW = 22
_MOST = 120
_STYLES = {
    "error": "bold red",
    "warning": "yellow",
    "info": "cyan",
    "tie": "magenta",
    "fact": "dim",
}
_SIGNS = {"error": "✗", "warning": "!", "info": "i", "tie": "↔", "fact": "·"}


def plain(report: Figures, width: int) -> str:
    """The summary without colour, in at most ``width`` columns."""
    text = io.StringIO()
    console = Console(file=text, width=width, color_system=None)
    for line in lines(report, width):
        console.print(line, soft_wrap=True)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def lines(report: Figures, width: int) -> Iterator[Text]:
    """The summary line by line."""
    for line in _Table(report, min(width, _MOST)).lines():
        line.rstrip()
        yield line


class _Table:
    def __init__(self, report: Figures, width: int) -> None:
        self._report, self._width = report, width
        self._rows = rows(report)
        self._titles = (*FIGURES, "time") if report.measured else FIGURES
        self._figures = [
            max(len(title), *(len(row.figures[i]) for row in self._rows))
            for i, title in enumerate(self._titles)
        ]
        room = width - sum(wide + _GAP for wide in self._figures) - _GAP
        tree = max(len(row.lead) + len(_label(row)) for row in self._rows)
        joined = max(len(part) for row in self._rows for part in (*_parts(row, False), "shape"))
        self._split = tree + joined > room
        flow = max(len(part) for row in self._rows for part in (*_parts(row, True), "shape"))
        self._flow = joined if not self._split else max(min(flow, _LEAST_FLOW), room - tree)
        self._tree = min(tree, room - self._flow)
        self._full = self._tree + self._flow + sum(self._figures) + _GAP * (len(self._figures) + 1)

    def lines(self) -> Iterator[Text]:
        yield self._line(Text("module"), "shape", self._titles, "bold")
        yield Text("─" * self._full, "dim")
        for row in self._rows:
            yield from self._row(row)
        yield Text("─" * self._full, "dim")
        for what, figures in ending(self._report):
            yield Text.assemble((f"{what:<15}", "dim"), figures)

    def _row(self, row: Row) -> Iterator[Text]:
        name, kind = Text(row.lead, "dim"), Text(row.kind, "bold")
        if row.name:
            name.append(f"{row.name} ", "not dim")
        name.append_text(kind)
        name.truncate(self._tree, overflow="ellipsis")
        parts = [
            wrapped
            for part in _parts(row, self._split)
            for wrapped in textwrap.wrap(part, self._flow, subsequent_indent="  ") or [""]
        ]
        yield self._line(name, parts[0], row.figures)
        blank = ("",) * len(row.figures)
        for part in parts[1:]:
            yield self._line(Text(_below(row, self._rows), "dim"), part, blank)
        for note in row.notes:
            yield from self._note(row, note)

    def _line(self, name: Text, flow: str, figures: tuple[str, ...], style: str = "") -> Text:
        name.pad_right(self._tree - name.cell_len + _GAP)
        if style:
            name.stylize(style)
        line = Text.assemble(name, (f"{flow:<{self._flow}}", style or "cyan"))
        for figure, wide in zip(figures, self._figures, strict=True):
            line.append(" " * _GAP + f"{figure:>{wide}}", style)
        return line

    def _note(self, row: Row, note: Note) -> Iterator[Text]:
        lead = _below(row, self._rows)
        room = max(self._width - len(lead) - 2, 20)
        wrapped = textwrap.wrap(note.text, room, break_on_hyphens=False)
        for i, part in enumerate(wrapped):
            sign = _SIGNS[note.kind] if i == 0 else " "
            yield Text.assemble((lead, "dim"), (f"{sign} {part}", _STYLES[note.kind]))


def _label(row: Row) -> str:
    return f"{row.name} {row.kind}" if row.name else row.kind


def _parts(row: Row, split: bool) -> list[str]:
    """The shapes of a row, on one line or on two."""
    if not row.after:
        return [row.before]
    return [row.before, f"→ {row.after}"] if split else [f"{row.before} → {row.after}"]


def _below(row: Row, every: list[Row]) -> str:
    """The lines of the tree before what stands below a row: to its children, if it has some."""
    following = every.index(row) + 1
    has = (
        following < len(every)
        and every[following].lead.startswith(row.rest)
        and (len(every[following].lead) > len(row.rest))
    )
    return row.rest + ("│ " if has else "  ")
