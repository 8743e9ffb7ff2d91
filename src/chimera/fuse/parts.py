"""A part of a block: branches of one structure, and the two ways to run them as one.

``Lowered`` runs a program of operations with a lane axis; ``Batched`` runs any forward under
``torch.vmap``, with the stack rules. Both use the branches' own parameters and buffers, see
``joint``, and draw nothing that the branches alone would not draw: a program draws a dropout's
noise branch by branch, in the order in which the branches alone do; what else draws is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from chimera.blocks.inplace import may_change
from chimera.fuse import layers as layers
from chimera.fuse import nested as nested
from chimera.fuse.convolutions import CHANNELED
from chimera.fuse.joint import Joint, joined
from chimera.fuse.lanes import Lanes
from chimera.fuse.layers import draw, noise
from chimera.fuse.program import Met, Program, Run, Unlowerable, lower
from chimera.fuse.transforms import transformed
from chimera.paths.memory import overlapping
from chimera.paths.nest import flatten
from chimera.paths.slots import skeleton
from chimera.paths.structure import read
from chimera.stack.batched import run_batched
from chimera.stack.each import Each, arguments
from chimera.stack.group import Group
from chimera.stack.outputs import Outputs

Given = list[tuple[Any, ...]]
"""The positional arguments of every branch."""


class Refused(Exception):
    """A call that the branches must run one by one; the message says why."""


class Part(Protocol):
    """Branches of one structure that run as one.

    Attributes:
        joints: their parameters and buffers.
        moded: the modules whose mode matters, one tuple a layer.
        kind: "products", "convolutions", "vmap" or "recurrent": what decides when it wins.
        layers: how many modules without children one branch has.
        structure: equal for parts that take the same time.
    """

    joints: list[Joint]
    moded: list[tuple[nn.Module, ...]]
    kind: str
    layers: int
    structure: Any

    def refuses(self, given: Given, named: dict[str, Any], *, whole: bool) -> str | None:
        """Why this call cannot run as one, or None; ``whole``: the part is all of its block."""

    def run(self, given: Given, named: dict[str, Any]) -> Any:
        """The branches' outputs: a tensor ``[branches, ...]``, else a list.

        Raises:
            Refused: the call cannot run as one after all; nothing was changed.
        """

    def work(self, given: Given) -> float:
        """Floating-point operations of one branch's forward, counted or estimated."""


def _structure(part: Part, branches: Sequence[nn.Module]) -> Any:
    kinds = tuple((type(module), module.extra_repr()) for module in branches[0].modules())
    shapes = tuple(tuple(joint.current()[0].shape) for joint in part.joints)
    return (part.kind, len(branches), kinds, shapes)


def _layers(branch: nn.Module) -> int:
    return sum(not any(module.children()) for module in branch.modules())


class Lowered:
    """Branches as a program.

    Args:
        branches: of one structure.

    Raises:
        Unlowerable: they have a module for which there is no operation.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        self._count = len(branches)
        program = Program()
        self._operation = lower(program, branches)
        self._program = program
        self.joints, self.moded = program.joints, program.moded
        folds = any(isinstance(m, CHANNELED) for m in branches[0].modules())
        self.kind = "convolutions" if folds else "products"
        self.layers = _layers(branches[0])
        self.structure = _structure(self, branches)
        self._met: dict[Any, list[Met]] = {}

    def refuses(self, given: Given, named: dict[str, Any], *, whole: bool) -> str | None:
        if named or not all(len(args) == 1 and isinstance(args[0], Tensor) for args in given):
            return "a program takes one tensor"
        first = given[0][0]
        if first.dim() == 0 or first.layout is not torch.strided:
            return "a program takes strided tensors with axes"
        if any(args[0] is not first for args in given) and any(
            (args[0].shape, args[0].dtype, args[0].device)
            != (first.shape, first.dtype, first.device)
            for args in given
        ):
            return "the branches' inputs are of different shapes"
        if self._active() and not (whole and self._program.in_order):
            return "dropout draws in the order of the branches, one after the other"
        return None

    def _active(self) -> bool:
        return any(modules[0].training for modules in self._program.dropouts)

    def run(self, given: Given, named: dict[str, Any]) -> Tensor:
        x = self._input(given)
        tensors, own = joined(self.joints)
        run = Run(tensors)
        if self._active():
            run.noises = iter(self._noises(x))
        y = self._operation(x, run).full()
        if not own and any(modules[0].training for modules in self.moded):
            self._write_back([joint.current() for joint in self.joints], tensors)
        return y

    def trace(self, inputs: list[Tensor], rows: list[Tensor]) -> Tensor:
        """The outputs ``[branches, ...]``, for a graph; dropouts draw for all branches at once.

        Args:
            inputs: one for all branches, or one each.
            rows: the tensors of the joints, joint after joint; buffers are written to.
        """
        own = iter(rows)
        parted = [[next(own) for _ in range(len(joint))] for joint in self.joints]
        tensors = [torch.stack(mine) for mine in parted]
        if len(inputs) == 1:
            x = Lanes(inputs[0].unsqueeze(0), self._count)
        else:
            x = Lanes(torch.stack(inputs))
        y = self._operation(x, Run(tensors)).full()
        if any(modules[0].training for modules in self.moded):
            self._write_back(parted, tensors)
        return y

    def _write_back(self, parted: list[list[Tensor]], tensors: list[Tensor]) -> None:
        """Let the branches' buffers, of which ``tensors`` are copies, be what was made of them."""
        for joint, rows, tensor in zip(self.joints, parted, tensors, strict=True):
            if joint.is_buffer:
                for row, new in zip(rows, tensor.unbind(0), strict=True):
                    row.copy_(new)

    def _input(self, given: Given) -> Lanes:
        first = given[0][0]
        if all(args[0] is first for args in given):
            return Lanes(first.unsqueeze(0), self._count)
        return Lanes(torch.stack([args[0] for args in given]))

    def _noises(self, x: Lanes) -> list[Tensor]:
        mets = self._meets(x)
        rooms = [noise(met) for met in mets]
        for lane in range(self._count):
            for met, room in zip(mets, rooms, strict=True):
                draw(met.modules[lane], room[lane])
        return rooms

    def _meets(self, x: Lanes) -> list[Met]:
        """What the active dropouts meet, in order: from a run without data."""
        modes = tuple(modules[0].training for modules in self.moded)
        key = (x.tensor.shape, x.tensor.dtype, x.tensor.device, x.spread, modes)
        if key not in self._met:
            found: list[Met] = []
            self._dry(x, found)
            device = x.tensor.device
            self._met[key] = [Met(m.modules, m.shape, (m.kind[0], device)) for m in found]
        return self._met[key]

    def _dry(self, x: Lanes, shapes: list[Met]) -> None:
        with torch.no_grad():
            meta = [torch.empty_like(joint.current()[0], device="meta") for joint in self.joints]
            meta = [
                row.expand(len(joint), *row.shape).clone()
                for row, joint in zip(meta, self.joints, strict=True)
            ]
            value = Lanes(torch.empty_like(x.tensor, device="meta"), x.spread)
            try:
                self._operation(value, Run(meta, shapes=shapes))
            except Exception as error:
                raise Refused(_why(error)) from error

    def work(self, given: Given) -> float:
        with FlopCounterMode(display=False) as counter:
            self._dry(self._input(given), [])
        return float(counter.get_total_flops()) / self._count


class _Members(Group):
    """The branches as a group whose stacked tensors are the branches' own."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        self.positions = list(range(len(branches)))
        self.template = skeleton(branches[0])
        self.reading = read(self.template)
        self.own, self.plans = {}, {}
        self.together: list[Tensor] = []
        self.prepare()

    @property
    def device(self) -> torch.device:
        return self.together[0].device if self.together else torch.device("cpu")

    def tensors(self) -> list[Tensor]:
        return self.together

    def running(
        self, tensors: Sequence[Tensor] | None = None, span: range | None = None
    ) -> list[Tensor]:
        return self.together


class Batched:
    """Branches of any kind under ``torch.vmap``, see ``chimera.stack.batched``.

    Args:
        branches: of one structure.

    Raises:
        Refused: they hold tensors where no row of another tensor can stand.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        readings = [read(branch) for branch in branches]
        for slot in readings[0].slots:
            if slot.kind == "attribute" or slot.hidden:
                raise Refused(f"{slot.path} is a plain tensor attribute")
        self._branches = list(branches)
        self._members = _Members(branches)
        self.joints = [
            Joint(
                [
                    (reading.modules[place.module][1], place.name)
                    for reading in readings
                    for place in reading.slots[i].places[:1]
                ]
            )
            for i in range(len(readings[0].slots))
        ]
        modules = zip(*([m for _, m in reading.modules] for reading in readings), strict=True)
        self.moded = [tuple(aligned) for aligned in modules]
        recurrent = any(isinstance(m, nn.RNNBase) for m in branches[0].modules())
        self.kind = "recurrent" if recurrent else "vmap"
        self.layers = _layers(branches[0])
        self.structure = _structure(self, branches)
        self._fresh: set[Any] = set()
        self._copies = may_change(branches[0], given_on=True)

    def refuses(self, given: Given, named: dict[str, Any], *, whole: bool) -> str | None:
        if transformed():
            return "torch's compiler or a transform of torch.func looks on"
        if any(len(args) != 1 for args in given) and any(args is not given[0] for args in given):
            return "the branches' inputs differ, and are not one each"
        if any(_draws(aligned[0]) for aligned in self.moded):
            return "a layer that draws random numbers, in training mode"
        return None

    def run(self, given: Given, named: dict[str, Any]) -> Any:
        tensors, own = joined(self.joints)
        if not own:
            raise Refused("other tensors stand in the place of parameters or buffers")
        group = self._members
        for (_, module), aligned in zip(group.reading.modules, self.moded, strict=True):
            module.training = aligned[0].training
        modes = tuple(module.training for _, module in group.reading.modules)
        buffers = [t for joint, t in zip(self.joints, tensors, strict=True) if joint.is_buffer]
        before = [buffer.clone() for buffer in buffers]
        group.together = tensors
        try:
            same = all(a is b for args in given for a, b in zip(args, given[0], strict=True))
            args = given[0] if same else (Each(torch.stack([args[0] for args in given])),)
            known = arguments(tuple(args), named, len(group))
            known = known.cloned() if self._copies else known
            ran = run_batched(group, _call, known, wary=modes not in self._fresh)
            if ran.slots or ran.buffers or ran.attributes or ran.draws:
                raise Refused("forward keeps what it computed in attributes or new buffers")
        except Exception as error:
            for buffer, copy in zip(buffers, before, strict=True):
                buffer.data.copy_(copy)
            if isinstance(error, Refused):
                raise
            raise Refused(_why(error)) from error
        finally:
            group.together = []
        self._fresh.add(modes)
        return _outputs(ran.output, len(group))

    def work(self, given: Given) -> float:
        """As of products with every parameter, at every place of the input but its last axis."""
        tensors = [leaf for leaf in flatten(given[0])[0] if isinstance(leaf, Tensor)]
        rows = max([t.numel() // max(1, t.shape[-1] if t.dim() else 1) for t in tensors], default=1)
        weights = sum(p.numel() for p in self._branches[0].parameters())
        return 2.0 * weights * rows


_DROPOUTS = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU),
)


def _draws(module: nn.Module) -> bool:
    """Whether a layer of torch's draws in this mode; another is found out when it runs."""
    rate = getattr(module, "dropout", 0)
    dropped = isinstance(rate, float) and rate > 0
    return module.training and (isinstance(module, _DROPOUTS) or dropped)


def _call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return module(*args, **kwargs)


def _outputs(found: Outputs, count: int) -> Any:
    if len(found.leaves) == 1 and found.shape.kind is None and found.stacked[0]:
        return found.leaves[0]
    return [found.of_member(place) for place in range(count)]


def _why(error: Exception) -> str:
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said[:160]}"


def part_of(branches: Sequence[nn.Module]) -> tuple[Part, str]:
    """The part that runs ``branches`` as one, and how in a few words.

    Raises:
        Refused: they cannot run as one; the message says why.
    """
    slots = {id(slot.tensor): slot for branch in branches for slot in read(branch).slots}
    pair = overlapping(list(slots.values()))
    if pair is not None:
        raise Refused(f"{pair[1].path} shares memory with {pair[0].path}")
    try:
        return Lowered(branches), "operations with a lane axis"
    except Unlowerable as error:
        return Batched(branches), f"torch.vmap, since there is {error}"
