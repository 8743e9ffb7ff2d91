"""Branches of one structure, of any kind, under ``torch.vmap``, with the stack rules.

The branches' own parameters and buffers are used, see ``joint``; what draws is refused.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.blocks.inplace import may_change
from chimera.fuse.joint import Joint, joined, write_back
from chimera.fuse.part import Given, layers_of, said_by, structure_of
from chimera.fuse.program import Refused
from chimera.fuse.reached import Reach, parted
from chimera.fuse.transforms import transformed
from chimera.paths.nest import flatten
from chimera.paths.slots import skeleton
from chimera.paths.structure import read
from chimera.paths.walk import join
from chimera.stack.batched import run_batched
from chimera.stack.each import Each, arguments
from chimera.stack.group import Group
from chimera.stack.outputs import Outputs


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
        self.layers = layers_of(branches[0])
        self.structure = structure_of(self, branches)
        self.said = ""
        self._settings = [_settings(branch) for branch in branches]
        self._fresh: set[Any] = set()
        self._copies = may_change(branches[0], given_on=True)

    def refuses(self, given: Given, named: dict[str, Any], *, whole: bool) -> str | None:
        if transformed():
            return "torch's compiler or a transform of torch.func looks on"
        if any(len(args) != 1 for args in given) and any(args is not given[0] for args in given):
            return "the branches' inputs differ, and are not one each"
        if any(_draws(aligned[0]) for aligned in self.moded):
            return "a layer that draws random numbers, in training mode"
        for branch, before in zip(self._branches, self._settings, strict=True):
            name = _changed(before, _settings(branch))
            if name:
                return f"{name} of a branch is not what it was when the network was fused"
        return None

    def run(self, given: Given, named: dict[str, Any], reach: Reach) -> Any:
        tensors, own = joined(self.joints, reach)
        group = self._members
        for (_, module), aligned in zip(group.reading.modules, self.moded, strict=True):
            module.training = aligned[0].training
        modes = tuple(module.training for _, module in group.reading.modules)
        buffers = [t for joint, t in zip(self.joints, tensors, strict=True) if joint.is_buffer]
        before = [buffer.clone() for buffer in buffers]
        shared = [joint.shares() for joint in self.joints if joint.is_buffer]
        group.together = tensors
        try:
            same = all(a is b for args in given for a, b in zip(args, given[0], strict=True))
            args = given[0] if same else (Each(torch.stack([args[0] for args in given])),)
            known = arguments(tuple(args), named, len(group))
            known = known.cloned() if self._copies else known
            ran = run_batched(group, _call, known, wary=modes not in self._fresh)
            if ran.slots or ran.buffers or ran.attributes or ran.draws:
                raise Refused("forward keeps what it computed in attributes or new buffers")
            if ran.guarded:
                raise Refused("forward catches errors, which may be one branch's alone")
            for buffer, copy, several in zip(buffers, before, shared, strict=True):
                if several and not torch.equal(buffer, copy):
                    raise Refused("branches share a buffer, which each changes in turn")
        except Exception as error:
            for buffer, copy in zip(buffers, before, strict=True):
                buffer.data.copy_(copy)
            if isinstance(error, Refused):
                raise
            raise Refused(said_by(error)) from error
        finally:
            group.together = []
        self._fresh.add(modes)
        if not own:
            write_back(self.joints, [joint.current() for joint in self.joints], tensors)
        return _outputs(ran.output, reach)

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


Settings = dict[str, Any]
"""What a branch's modules hold that is neither tensor nor child, by path."""


def _settings(branch: nn.Module) -> Settings:
    """Of modules that are not torch's own, which no forward but theirs reads."""
    return {
        join(path, name): value
        for path, module in branch.named_modules()
        if not type(module).__module__.startswith("torch.nn.")
        for name, value in vars(module).items()
        if name != "training"
    }


def _changed(before: Settings, now: Settings) -> str:
    """The name of a setting that is another; empty for none."""
    if len(before) == len(now) and not any(map(operator.is_not, before.values(), now.values())):
        return ""
    for name in dict.fromkeys((*before, *now)):
        one, two = before.get(name, _NOTHING), now.get(name, _NOTHING)
        same = type(one) is type(two) and isinstance(one, _NUMBERS) and one == two
        if one is not two and not same:
            return name
    return ""


_NOTHING = object()
_NUMBERS = (bool, int, float, complex, str)


def _call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return module(*args, **kwargs)


def _outputs(found: Outputs, reach: Reach) -> Any:
    if len(found.leaves) == 1 and found.shape.kind is None and found.stacked[0]:
        return found.leaves[0]
    wholes = [leaf for leaf, several in zip(found.leaves, found.stacked, strict=True) if several]
    parts = iter(parted(wholes, reach))
    leaves = [
        next(parts) if several else [leaf] * reach.branches
        for leaf, several in zip(found.leaves, found.stacked, strict=True)
    ]
    return [found.shape.rebuild(list(own)) for own in zip(*leaves, strict=True)]
