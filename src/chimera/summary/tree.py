"""From a network, and what one run of its copy showed, to the tree of its nodes."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from chimera.build.datafree import is_uninitialized
from chimera.build.inputs import Inputs
from chimera.build.spec import Spec
from chimera.build.trial import Trial
from chimera.check.finding import Finding
from chimera.paths.nest import map_leaves
from chimera.paths.ties import tied_tensors
from chimera.paths.walk import first_paths, join
from chimera.summary.node import Node, TensorRow
from chimera.summary.watch import Watch


def tree(
    net: nn.Module,
    trial: Trial,
    watch: Watch,
    findings: list[Finding],
    seconds: Mapping[str, float] | None,
) -> Node:
    """The tree of ``net``; findings at no path of it stand at the root.

    Args:
        net: the network.
        trial: a run of a copy of it.
        watch: what was seen in that run.
        findings: what ``check`` found.
        seconds: what each module's own forward took, children left out, by path.
    """
    return _Tree(net, trial, watch, findings, seconds).node("", trial.net)


class _Tree:
    def __init__(
        self,
        net: nn.Module,
        trial: Trial,
        watch: Watch,
        findings: list[Finding],
        seconds: Mapping[str, float] | None,
    ) -> None:
        self._trial, self._watch, self._seconds = trial, watch, seconds
        self._first = first_paths(trial.net)
        self._waiting = _waiting(net)
        self._sizes = {size: name for name, size in trial.sizes.items()}
        self._tied = {name: names[0] for names in tied_tensors(trial.net) for name in names[1:]}
        self._findings: dict[str, list[Finding]] = {}
        paths = set(self._first.values())
        for finding in findings:
            path = finding.path if finding.path in paths else ""
            self._findings.setdefault(path, []).append(finding)

    def node(self, path: str, module: nn.Module) -> Node:
        first = self._first[module]
        if first != path:
            shared = sum(parameter.numel() for parameter in module.parameters())
            return Node(
                path=path,
                kind=type(module).__name__,
                settings=_settings(module),
                calls=0,
                inputs=None,
                output=None,
                own=0,
                parameters=0,
                frozen=0,
                shared=shared,
                buffers=0,
                multiply_adds=0,
                activations=0,
                seconds=None,
                tied_to=first,
            )
        rows = self._rows(path, module)
        children = tuple(
            self.node(join(path, name), child)
            for name, child in module._modules.items()
            if child is not None
        )
        own = [row for row in rows if row.kind == "parameter" and row.tied_to is None]
        call = self._trial.calls.get(path)
        time = None if self._seconds is None else self._seconds.get(path, 0.0)
        return Node(
            path=path,
            kind=type(module).__name__,
            settings=_settings(module),
            calls=0 if call is None else call.count,
            inputs=None if call is None else self._inputs(call.inputs),
            output=None if call is None else self._named(call.output),
            own=sum(row.count for row in own),
            parameters=sum(row.count for row in own) + sum(c.parameters for c in children),
            frozen=sum(row.count for row in own if not row.trains)
            + sum(child.frozen for child in children),
            shared=sum(row.count for row in rows if row.kind == "parameter" and row.tied_to)
            + sum(child.shared for child in children),
            buffers=sum(row.count for row in rows if row.kind == "buffer" and not row.tied_to)
            + sum(child.buffers for child in children),
            multiply_adds=self._watch.flops[path] // 2 + sum(c.multiply_adds for c in children),
            activations=self._watch.activations[path] + sum(c.activations for c in children),
            seconds=None if time is None else time + sum(c.seconds or 0.0 for c in children),
            tied_to=None,
            tensors=rows,
            findings=tuple(self._findings.get(path, ())),
            children=children,
        )

    def _rows(self, path: str, module: nn.Module) -> tuple[TensorRow, ...]:
        rows = []
        for kind, registry in (("parameter", module._parameters), ("buffer", module._buffers)):
            for name, tensor in registry.items():
                if tensor is None:
                    continue
                full = join(path, name)
                shape = () if is_uninitialized(tensor) else tuple(tensor.shape)
                rows.append(
                    TensorRow(
                        name=name,
                        path=full,
                        kind=kind,
                        shape=shape,
                        dtype=tensor.dtype,
                        trains=tensor.requires_grad,
                        tied_to=self._tied.get(full),
                        waits=full in self._waiting,
                    )
                )
        return tuple(rows)

    def _named(self, value: Any) -> Any:
        """``value`` with the names of free axes in the places of their sizes."""
        return map_leaves(self._spec, value)

    def _spec(self, leaf: Any) -> Any:
        if not isinstance(leaf, Spec):
            return leaf
        return Spec(tuple(self._sizes.get(size, size) for size in leaf.sized({})), leaf.dtype)

    def _inputs(self, inputs: Inputs) -> Any:
        named = inputs.map(self._spec)
        return named.args[0] if len(named.args) == 1 and not named.kwargs else named


def _settings(module: nn.Module) -> str:
    return " ".join(module.extra_repr().split())


def _waiting(net: nn.Module) -> set[str]:
    """The paths of the tensors of ``net`` that have no values."""
    return {
        join(path, name)
        for module, path in first_paths(net).items()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None and (is_uninitialized(tensor) or tensor.is_meta)
    }
