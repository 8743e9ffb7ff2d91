"""A summary as Markdown: a table of the tree, figures in full, findings."""

from collections.abc import Iterator

from chimera.summary.figures import Figures
from chimera.summary.rows import FIGURES, Row, ending, rows

_BLANK = "\u2003"  # an em space: ordinary ones are lost at the start of a cell


def markdown(report: Figures) -> str:
    """The tree as a table, then its totals and findings as lists."""
    return "\n".join((*_table(report), "", *_totals(report), *_findings(report)))


def _table(report: Figures) -> Iterator[str]:
    titles = ("module", "input", "output", *FIGURES, *(("time",) if report.measured else ()))
    yield f"| {' | '.join(titles)} |"
    yield f"|---|---|---|{'---:|' * (len(titles) - 3)}"
    for row in rows(report):
        after = row.after or ("" if row.before.startswith(("is ", "not called")) else row.before)
        cells = (_name(row), row.before, after, *row.figures)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _name(row: Row) -> str:
    notes = [note.text for note in row.notes if note.kind in ("tie", "fact")]
    name = f"`{row.name}` {row.kind}" if row.name else f"**{row.kind}**"
    return _BLANK * (len(row.lead) // 3) + "; ".join((name, *notes))


def _totals(report: Figures) -> Iterator[str]:
    for what, figures in ending(report):
        yield f"- {what}: {figures}" if what else f"  ({figures})"


def _findings(report: Figures) -> Iterator[str]:
    if report.findings:
        yield ""
    for finding in report.findings:
        place = finding.path or "the root"
        yield f"- **{finding.severity}** `{finding.rule}` at `{place}`: {finding.message}"
        yield f"  {finding.mend}"
