"""The lines of a printed summary: a row for each node or fold, with notes below it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from chimera.check.finding import SEVERITIES, Finding
from chimera.summary.figures import Figures
from chimera.summary.fold import Fold, folded
from chimera.summary.node import Node
from chimera.summary.wording import change, percent, short, size

_CONTAINERS = {"ModuleList", "ModuleDict", "ParameterList", "ParameterDict"}
FIGURES = ("params", "mult-adds", "memory")


@dataclass(frozen=True)
class Note:
    """A line below a row: ``kind`` is a severity, ``"tie"`` or ``"fact"``."""

    kind: str
    text: str


@dataclass(frozen=True)
class Row:
    """A line of the tree.

    Attributes:
        lead: the lines of the tree before its name.
        rest: the lines of the tree before what belongs to it on lines below.
        name: its name in its parent, of a fold the first and the last.
        kind: its class, of a fold with the number of times.
        path: the path of its (first) node.
        before: the shapes that come in, or why there are none.
        after: the shapes that go out; empty where they are those that come in.
        figures: parameters, multiply-adds, memory and, where it was measured, the time share.
        notes: what is worth knowing of it.
    """

    lead: str
    rest: str
    name: str
    kind: str
    path: str
    before: str
    after: str
    figures: tuple[str, ...]
    notes: tuple[Note, ...]


def rows(report: Figures) -> list[Row]:
    """The rows of the whole tree, parents first, what repeats folded."""
    whole = report.root.seconds if report.measured else None
    return list(_Rows(whole).of(report.root))


def ending(report: Figures) -> list[tuple[str, str]]:
    """What is said below the tree: what, and its figures in full."""
    root = report.root
    owned = [row for node in report for row in node.tensors if row.tied_to is None]
    held = sum(row.count * row.dtype.itemsize for row in owned if row.kind == "parameter")
    parts = [f"{root.parameters:,} ({size(held)})"]
    if root.frozen:
        parts.append(f"{root.frozen:,} frozen")
    if root.shared:
        parts.append(f"{root.shared:,} shared")
    said = [("parameters", ", ".join(parts))]
    if root.buffers:
        said.append(("buffers", f"{root.buffers:,}"))
    said.append(("multiply-adds", f"{root.multiply_adds:,}"))
    said.append(("memory", f"{size(root.activations)} of activations kept for the backward pass"))
    if root.seconds is not None:
        said.append(("time", f"{1000 * root.seconds:.3g} ms forward"))
    if report.sizes:
        sizes = ", ".join(f"{name} = {number}" for name, number in report.sizes.items())
        said.append(("free axes", f"figures are for {sizes}"))
        said.append(("", "made-up sizes: figures for others come with a number in their place"))
    if report.findings:
        said.append(("findings", counted(report.findings)))
    return said


def counted(findings: Sequence[Finding]) -> str:
    """``1 error, 2 warnings``."""
    said = []
    for severity in SEVERITIES:
        count = sum(finding.severity == severity for finding in findings)
        if count:
            plural = "s" if count > 1 and severity != "info" else ""
            said.append(f"{count} {severity}{plural}")
    return ", ".join(said)


class _Rows:
    def __init__(self, whole: float | None) -> None:
        self._whole = whole

    def of(self, node: Node, lead: str = "", rest: str = "", above: bool = False) -> Iterator[Row]:
        """The row of a node and those below it; ``above``: what stands above is frozen."""
        frozen = 0 < node.parameters == node.frozen
        before, after = _flow(node)
        notes = tuple(_notes(node, frozen and not above))
        figures = self._figures([node])
        yield Row(lead, rest, node.name, node.kind, node.path, before, after, figures, notes)
        yield from self._children(folded(node.children), rest, above or frozen)

    def _children(self, folds: list[Fold], rest: str, above: bool) -> Iterator[Row]:
        for fold, last in zip(folds, [False] * (len(folds) - 1) + [True], strict=False):
            lead = rest + ("└─ " if last else "├─ ")
            below = rest + ("   " if last else "│  ")
            if fold.times == 1:
                for node in fold.nodes:
                    yield from self.of(node, lead, below, above)
                continue
            yield from self._fold(fold, lead, below, above)

    def _fold(self, fold: Fold, lead: str, rest: str, above: bool) -> Iterator[Row]:
        first, figures = fold.nodes[0], self._figures(list(fold.nodes))
        if len(fold.shown) > 1:
            label = f"{fold.times}x"
            before, after = change(first.inputs, fold.nodes[-1].output)
            yield Row(lead, rest, fold.names, label, first.path, before, after, figures, ())
            yield from self._children([Fold((node,), 1) for node in fold.shown], rest, above)
            return
        frozen = 0 < first.parameters == first.frozen
        notes = tuple(
            replace(note, text=f"{note.text} (so in all {fold.times})")
            if note.kind in SEVERITIES
            else note
            for note in _notes(first, frozen and not above)
        )
        before, after = _flow(first)
        yield Row(lead, rest, fold.names, fold.label, first.path, before, after, figures, notes)
        yield from self._children(folded(first.children), rest, above or frozen)

    def _figures(self, nodes: list[Node]) -> tuple[str, ...]:
        found = (
            sum(node.parameters for node in nodes),
            sum(node.multiply_adds for node in nodes),
        )
        memory = sum(node.activations for node in nodes)
        cells = (
            *(short(count) if count else "" for count in found),
            size(memory) if memory else "",
        )
        if self._whole is None:
            return cells
        spent = sum(node.seconds or 0.0 for node in nodes)
        return (*cells, percent(spent / self._whole) if spent and self._whole else "")


def _flow(node: Node) -> tuple[str, str]:
    if node.tied_to is not None:
        return f"is {node.tied_to or 'the root'}", ""
    if not node.calls:
        return ("" if node.kind in _CONTAINERS else "not called"), ""
    return change(node.inputs, node.output)


def _notes(node: Node, frozen: bool) -> Iterator[Note]:
    if node.calls > 1:
        yield Note("fact", f"called {node.calls} times")
    if frozen:
        yield Note("fact", "frozen")
    for tensor in node.tensors:
        if tensor.tied_to is not None:
            yield Note("tie", f"{tensor.name} is {tensor.tied_to}")
    for finding in node.findings:
        yield Note(finding.severity, f"{finding.severity} [{finding.rule}] {finding.message}")
