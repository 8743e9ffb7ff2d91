"""The shapes of a network, module by module, without data and without memory."""

import io
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from chimera.build.construct import Factory, check_factory, construct, construct_without_data
from chimera.build.datafree import is_uninitialized
from chimera.build.inputs import Inputs, as_specified
from chimera.build.modes import modes_restored
from chimera.build.spec import Spec
from chimera.build.trial import as_example, try_example, try_shapes
from chimera.paths.nest import map_leaves
from chimera.paths.notes import shown
from chimera.paths.walk import first_paths, unknown
from chimera.paths.wants import name_of


@dataclass(frozen=True)
class Row:
    """One module of a network."""

    path: str
    kind: str
    """The name of its class."""
    inputs: Any
    """The first call's inputs, a ``Spec`` for each tensor; None if it was not called."""
    output: Any
    """The first call's output, likewise."""
    calls: int
    """How often one run calls it."""
    parameters: int
    """How many numbers its own parameters hold, those of its children and those that an earlier
    module owns left out."""


@dataclass(frozen=True)
class Shapes:
    """What ``ch.shapes`` found; ``str()`` is a table."""

    rows: tuple[Row, ...]
    """A row a module, parents first."""

    @property
    def parameters(self) -> int:
        """How many numbers the network's parameters hold, each tensor counted once."""
        return sum(row.parameters for row in self.rows)

    @property
    def inputs(self) -> Any:
        """The network's inputs."""
        return self.rows[0].inputs

    @property
    def output(self) -> Any:
        """The network's output, a ``Spec`` for each tensor."""
        return self.rows[0].output

    def __getitem__(self, path: str) -> Row:
        for row in self.rows:
            if row.path == path:
                return row
        raise unknown(path, (row.path for row in self.rows))

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for title in ("path", "module", "input", "output"):
            table.add_column(title, no_wrap=True)
        table.add_column("parameters", justify="right", no_wrap=True)
        for row in self.rows:
            table.add_row(*_cells(row))
        table.add_row("total", "", "", "", f"{self.parameters:,}")
        text = io.StringIO()
        Console(file=text, width=10_000, color_system=None, markup=False, highlight=False).print(
            table
        )
        return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


@modes_restored()
def shapes(module_or_factory: nn.Module | Factory, spec: Any = None, example: Any = None) -> Shapes:
    """The shapes of every module's inputs and output, and its count of parameters.

    Nothing is computed and no memory is taken for parameters: a factory is called without data, a
    module is copied without data and stays as it is, so a network of any size can be asked for.

    Args:
        module_or_factory: a module, or a class or function without arguments that makes one.
        spec: the inputs: ``ch.spec("batch", 20)``, or ``ch.inputs(...)`` for several.
        example: real inputs, in the place of ``spec``, for a network whose shapes depend on data;
            then a copy is run on them, and a factory is called as in ``ch.build``.

    Raises:
        TypeError: if an argument is not what it should be.
        Exception: what the network raises, with a note that names the module.
    """
    if spec is None and example is None:
        raise TypeError("shapes: give spec=ch.spec(...), or example= real tensors")
    net: Any = module_or_factory
    if not isinstance(net, nn.Module):
        factory = check_factory(net, "module_or_factory")
        real = example is not None
        net = construct(factory, (), {}, 0, 0) if real else construct_without_data(factory)
    if example is not None:
        trial = try_example(net, as_example(example))
    else:
        trial = try_shapes(net, as_specified(spec))
    names = {size: name for name, size in trial.sizes.items()}
    counted: set[int] = set()
    rows = []
    for module, path in first_paths(trial.net).items():
        own = 0
        for parameter in module._parameters.values():
            if parameter is None or id(parameter) in counted or is_uninitialized(parameter):
                continue
            counted.add(id(parameter))
            own += parameter.numel()
        row = Row(path, type(module).__name__, None, None, 0, own)
        call = trial.calls.get(path)
        if call is not None:
            given = _named(call.inputs, names)
            output = map_leaves(lambda leaf: _with_names(leaf, names), call.output)
            row = replace(row, inputs=given, output=output, calls=call.count)
        rows.append(row)
    return Shapes(tuple(rows))


def _named(inputs: Inputs, names: dict[int, str]) -> Any:
    """Inputs with the names of free axes: one alone as it is, several as ``Inputs``."""
    named = inputs.map(lambda leaf: _with_names(leaf, names))
    return named.args[0] if len(named.args) == 1 and not named.kwargs else named


def _with_names(leaf: Any, names: dict[int, str]) -> Any:
    if not isinstance(leaf, Spec):
        return leaf
    return Spec(tuple(names.get(size, size) for size in leaf.sized({})), leaf.dtype)


def _cells(row: Row) -> tuple[str, ...]:
    depth = row.path.count(".") + 1 if row.path else 0
    inputs, output = ("", "not called") if row.calls == 0 else map(_shown, (row.inputs, row.output))
    times = f"{row.calls}x " if row.calls > 1 else ""
    kind = f"{'  ' * depth}{times}{row.kind}"
    return row.path, kind, inputs, output, f"{row.parameters:,}" if row.parameters else ""


def _shown(value: Any) -> str:
    if isinstance(value, Inputs):
        named = [f"{name}={_shown(item)}" for name, item in value.kwargs.items()]
        return ", ".join([*map(_shown, value.args), *named])
    return shown(map_leaves(lambda leaf: _Shape(leaf) if isinstance(leaf, Spec) else leaf, value))


class _Shape:
    """A specification as a table shows it: the sizes, and the dtype unless it is float32."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self._spec.shape))
        of = "" if self._spec.dtype == torch.float32 else f"{name_of(self._spec.dtype)} "
        return f"{of}[{sizes}]"
