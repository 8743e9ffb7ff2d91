"""A summary as the data of its page: modules, what repeats, cells and edges, in flat lists.

Indices stand for modules and cells, so that the page needs no search.
"""

import dataclasses
from pathlib import Path
from typing import Any

from chimera.build.spec import Spec
from chimera.check.finding import Finding
from chimera.summary.figures import Figures
from chimera.summary.fold import Fold, folded
from chimera.summary.node import Node, TensorRow
from chimera.summary.rows import counted
from chimera.summary.values import Values
from chimera.summary.wording import shape, shapes, size


def drawing(report: Figures, values: Values) -> dict[str, Any]:
    """What the page of ``report`` shows."""
    return _Drawing(report, values).data()


class _Drawing:
    def __init__(self, report: Figures, values: Values) -> None:
        self._report, self._values = report, values
        self._nodes = list(report)
        self._index = {node.path: i for i, node in enumerate(self._nodes)}
        self._folds: list[Fold] = []
        self._children = [self._entries(node) for node in self._nodes]

    def data(self) -> dict[str, Any]:
        cells = self._cells()
        return {
            "title": self._report.root.kind,
            "totals": self._totals(),
            "measured": self._report.measured,
            "modules": [self._module(i, node) for i, node in enumerate(self._nodes)],
            "folds": [self._fold(fold) for fold in self._folds],
            "cells": cells,
            "edges": self._edges(),
            "complete": self._report.flow.complete,
        }

    def _totals(self) -> list[tuple[str, str]]:
        root = self._report.root
        totals = [
            ("Parameters", f"{root.parameters:,}"),
            ("Multiply-adds", f"{root.multiply_adds:,}"),
            ("Activations", size(root.activations)),
        ]
        if root.seconds is not None:
            totals.append(("Forward", f"{1000 * root.seconds:.3g} ms"))
        if self._report.findings:
            totals.append(("Findings", counted(self._report.findings)))
        if self._report.sizes:
            sizes = ", ".join(f"{name} = {length}" for name, length in self._report.sizes.items())
            totals.append(("Figures are for", sizes))
        return totals

    def _entries(self, node: Node) -> list[list[int]]:
        """The children: ``[module]``, or ``[-1, fold]`` for some that repeat."""
        entries = []
        for fold in folded(node.children):
            if fold.times == 1:
                entries += [[self._index[child.path]] for child in fold.nodes]
            else:
                self._folds.append(fold)
                entries.append([-1, len(self._folds) - 1])
        return entries

    def _fold(self, fold: Fold) -> dict[str, Any]:
        return {
            "label": fold.label,
            "names": fold.names,
            "modules": [self._index[node.path] for node in fold.nodes],
            "parameters": sum(node.parameters for node in fold.nodes),
            "multiply_adds": sum(node.multiply_adds for node in fold.nodes),
            "activations": sum(node.activations for node in fold.nodes),
            "seconds": sum(node.seconds or 0.0 for node in fold.nodes),
            "inputs": shapes(fold.nodes[0].inputs),
            "output": shapes(fold.nodes[-1].output),
        }

    def _module(self, index: int, node: Node) -> dict[str, Any]:
        return {
            "name": node.name,
            "path": node.path,
            "kind": node.kind,
            "settings": node.settings,
            "calls": node.calls,
            "inputs": shapes(node.inputs),
            "output": shapes(node.output),
            "own": node.own,
            "parameters": node.parameters,
            "frozen": node.frozen,
            "shared": node.shared,
            "buffers": node.buffers,
            "multiply_adds": node.multiply_adds,
            "activations": node.activations,
            "seconds": node.seconds,
            "tied_to": None if node.tied_to is None else self._index[node.tied_to],
            "tensors": [self._tensor(node, row) for row in node.tensors],
            "findings": [_finding(finding) for finding in node.findings],
            "units": None if node.tied_to is not None else self._values.units(node.path),
            "children": self._children[index],
        }

    def _tensor(self, node: Node, row: TensorRow) -> dict[str, Any]:
        owner = None if row.tied_to is None else self._index[row.tied_to.rpartition(".")[0]]
        return {
            "name": row.name,
            "kind": row.kind,
            "shape": shape(Spec(row.shape, row.dtype)),
            "count": row.count,
            "trains": row.trains,
            "tied_to": row.tied_to,
            "owner": owner,
            "waits": row.waits,
            "histogram": self._values.histogram(node.path, row.name),
        }

    def _cells(self) -> list[dict[str, Any]]:
        """The cells of the flow, then one for each fold in each call in which it runs in a row."""
        cells: list[dict[str, Any]] = [
            {
                "parent": cell.parent,
                "module": -1 if cell.path is None else self._index[cell.path],
                "name": cell.name,
                "kind": cell.kind,
            }
            for cell in self._report.flow.cells
        ]
        inside: dict[int, list[int]] = {}
        for i, cell in enumerate(cells):
            if cell["kind"] == "call" and i:
                inside.setdefault(cell["parent"], []).append(i)
        folds = [{self._index[node.path] for node in fold.nodes} for fold in self._folds]
        of = {module: number for number, fold in enumerate(folds) for module in fold}
        for parent, calls in inside.items():
            start = 0
            while start < len(calls):
                fold = of.get(cells[calls[start]]["module"])
                end = start + 1
                while end < len(calls) and fold == of.get(cells[calls[end]]["module"]):
                    end += 1
                run = calls[start:end]
                start = end
                if fold is None or {cells[i]["module"] for i in run} != folds[fold]:
                    continue
                if len(run) == len(folds[fold]):
                    for i in run:
                        cells[i]["parent"] = len(cells)
                    cells.append({"parent": parent, "module": -1, "name": "", "kind": "fold"})
                    cells[-1]["fold"] = fold
        return cells

    def _edges(self) -> list[list[Any]]:
        return [
            [edge.source, edge.target, "×".join(map(str, edge.shape)) or "()"]  # noqa: RUF001
            for edge in self._report.flow.edges
        ]


def _finding(finding: Finding) -> dict[str, Any]:
    """A finding with the bare name of its file: a page may go to others."""
    file = None if finding.file is None else Path(finding.file).name
    return {**dataclasses.asdict(finding), "file": file}
