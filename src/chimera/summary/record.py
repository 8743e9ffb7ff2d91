"""A summary as plain data, ready for ``json``."""

import dataclasses
from typing import Any

from chimera.build.inputs import Inputs
from chimera.build.spec import Spec
from chimera.paths.nest import flatten
from chimera.paths.wants import name_of
from chimera.summary.figures import Figures
from chimera.summary.node import Node, TensorRow


def recorded(report: Figures) -> dict[str, Any]:
    """The figures of the whole network, the tree below ``"root"``, and the flow of the data."""
    return {
        "parameters": report.parameters,
        "buffers": report.buffers,
        "multiply_adds": report.multiply_adds,
        "activations": report.activations,
        "free_axes": report.sizes,
        "root": _node(report.root),
        "flow": dataclasses.asdict(report.flow),
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "path": node.path,
        "class": node.kind,
        "settings": node.settings,
        "calls": node.calls,
        "inputs": _tensors(node.inputs),
        "output": _tensors(node.output),
        "own": node.own,
        "parameters": node.parameters,
        "frozen": node.frozen,
        "shared": node.shared,
        "buffers": node.buffers,
        "multiply_adds": node.multiply_adds,
        "activations": node.activations,
        "seconds": node.seconds,
        "tied_to": node.tied_to,
        "tensors": [_row(row) for row in node.tensors],
        "findings": [dataclasses.asdict(finding) for finding in node.findings],
        "children": [_node(child) for child in node.children],
    }


def _row(row: TensorRow) -> dict[str, Any]:
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    return {**fields, "shape": list(row.shape), "dtype": name_of(row.dtype)}


def _tensors(value: Any) -> list[dict[str, Any]] | None:
    """Shape and dtype of every tensor; None where the module was not called."""
    if value is None:
        return None
    leaves = flatten((value.args, value.kwargs) if isinstance(value, Inputs) else value)[0]
    return [
        {"shape": list(leaf.shape), "dtype": name_of(leaf.dtype)}
        for leaf in leaves
        if isinstance(leaf, Spec)
    ]
