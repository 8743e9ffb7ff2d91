"""``Stack``: N modules as one. A member of a Stack computes what the module computes alone."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from chimera.draws.mode import Key, next_evaluation, overridden
from chimera.draws.seeds import as_seed
from chimera.paths.structure import Reading, describe_difference, difference, overlapping, read
from chimera.stack.batched import Call, Ran, Shadow
from chimera.stack.each import Arguments, arguments, index_of
from chimera.stack.explain import Explanation, explain_stack
from chimera.stack.group import Group
from chimera.stack.numbers import alike
from chimera.stack.outputs import Outputs, merge
from chimera.stack.plan import run
from chimera.stack.state import keep


@dataclass(frozen=True, slots=True)
class StackedParameter:
    """A parameter of a Stack.

    Attributes:
        name: as in ``named_parameters()``, ``groups.<g>.<path>``.
        parameter: ``[members of the group, ...]``.
        members: positions in the stack of the group's members ``[members of the group]``, int64.
        frozen: which rows must not move ``[members of the group]``, bool; None where all may.
    """

    name: str
    parameter: nn.Parameter
    members: Tensor
    frozen: Tensor | None


class Stack(nn.Module):
    """N modules as one module.

    Members of one structure form a group, whose parameters and buffers are stacked: they carry a
    leading member axis, under ``groups.<g>.<path>``. What a member computes (outputs, gradients,
    buffers) is what the module computes alone.

    Args:
        modules: the members, built. They are copied and stay as they are.
        seed: of the members' random operations, such as dropout.

    Raises:
        TypeError: ``modules`` is no sequence of modules.
        ValueError: there are none, one holds uninitialized parameters, or tensors of one share
            memory.
    """

    groups: nn.ModuleDict

    def __init__(self, modules: Iterable[nn.Module], *, seed: int = 0) -> None:
        super().__init__()
        members = _checked(modules)
        self.seed = as_seed(seed)
        self.members: tuple[int, ...] = tuple(range(len(members)))
        self.calls = 0
        self._evaluations = 0
        readings = [_checked_reading(i, module) for i, module in enumerate(members)]
        self._groups = [
            Group([members[i] for i in positions], positions) for positions in _grouped(readings)
        ]
        self.groups = nn.ModuleDict({str(i): group.tree for i, group in enumerate(self._groups)})
        self.training = members[0].training

    def __len__(self) -> int:
        return len(self.members)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self._groups[0].device

    def train(self, mode: bool = True) -> Stack:
        """Set every member to training mode, or with ``mode=False`` to evaluation mode."""
        super().train(mode)
        for group in self._groups:
            group.template.train(mode)
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Every member's output ``[members, ...]``.

        Args:
            args: as each member takes them; shared by all of them, or one a member under
                ``each``. They are never changed.
            kwargs: likewise.

        Returns:
            The members' output with a leading member axis on every tensor, in member order.
            Tensors of different shapes come as a list; a value that is no tensor comes once
            where all members give the same, else as a list.
        """
        given = arguments(args, kwargs, len(self))
        counted = self.calls, self._evaluations
        try:
            return merge(self.run(_call, given, self._next_key()))
        except BaseException:
            self.calls, self._evaluations = counted
            raise

    def _next_key(self) -> Key:
        key = Key(self.seed, self.calls)
        if any(group.template.training for group in self._groups):
            self.calls += 1
            self._evaluations = 0
        else:
            key = next_evaluation(key, self._evaluations)
            self._evaluations += 1
        return overridden(key)

    def run(self, call: Call, given: Arguments, key: Key) -> list[Outputs]:
        """Run ``call(member, args, kwargs)`` for every member.

        Args:
            call: what to do with one member.
            given: arguments of all members.
            key: of the draws.

        Returns:
            What the members gave; positions are places in the stack.
        """
        ran: list[tuple[Group, list[Ran], Shadow]] = []
        try:
            for group in self._groups:
                members = [self.members[position] for position in group.positions]
                whole = len(group) == len(self)
                mine = given if whole else given.take(index_of(group.positions, self.device))
                ran.append((group, *run(group, call, mine, key, members)))
        except BaseException:
            for _, _, shadow in ran:
                shadow.restore()
            raise
        outputs: list[Outputs] = []
        for group, runs, _ in ran:
            keep(group, runs)
            for done in runs:
                places = done.output.positions
                done.output.positions = [group.positions[place] for place in places]
                outputs.append(done.output)
        return outputs

    def _where(self, index: Any) -> tuple[Group, int]:
        try:
            wanted = operator.index(index)
        except TypeError:
            raise TypeError(
                f"a member is named by its index, an int; got {index!r:.60} "
                f"of type {type(index).__name__}"
            ) from None
        size = len(self)
        if not -size <= wanted < size:
            raise IndexError(f"member {wanted} of a stack of {size}: pass {-size} to {size - 1}")
        wanted %= size
        for group in self._groups:
            if wanted in group.positions:
                return group, group.positions.index(wanted)
        raise AssertionError("every member belongs to a group")

    def __getitem__(self, index: int) -> nn.Module:
        """A member as a plain module: an independent, bit-equal copy."""
        group, place = self._where(index)
        return group.member(place)

    def __setitem__(self, index: int, module: nn.Module) -> None:
        """Write a module back as a member.

        Raises:
            TypeError: it is no module.
            ValueError: its structure is another; the message says where.
        """
        group, place = self._where(index)
        if not isinstance(module, nn.Module):
            raise TypeError(f"stack[{index}] = ... needs a module, got {module!r:.60}")
        reading = _checked_reading(index, module)
        pair = difference(*(_placeless(alike(one)) for one in (read(group.member(place)), reading)))
        if pair is not None:
            raise ValueError(
                f"stack[{index}] = ... needs a module of the structure that the member has; "
                f"{describe_difference(pair)}"
            )
        group.write(place, module)

    def __iter__(self) -> Iterator[nn.Module]:
        return (self[index] for index in range(len(self)))

    def modules_list(self) -> list[nn.Module]:
        """All members as plain modules, independent copies in member order."""
        return list(self)

    def layout(self) -> list[StackedParameter]:
        """The parameters, with the members that each row belongs to."""
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        found = []
        for group in self._groups:
            positions = torch.tensor(group.positions)
            for index, tensor in enumerate(group.tensors()):
                if isinstance(tensor, nn.Parameter):
                    name = names[id(tensor)]
                    found.append(StackedParameter(name, tensor, positions, group.frozen(index)))
        return found

    def differences(self) -> list[str]:
        """For every group but the first: the first fact in which its members differ from it."""
        first, *others = [alike(group.reading) for group in self._groups]
        pairs = [difference(first, other) for other in others]
        return [describe_difference(pair) for pair in pairs if pair is not None]

    def __explain__(self) -> Explanation:
        return explain_stack(self._groups, self.differences())

    def extra_repr(self) -> str:
        return f"members={len(self)}, seed={self.seed}"


def _call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return module(*args, **kwargs)


def _checked(modules: Any) -> list[nn.Module]:
    if isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList):
        raise TypeError(
            f"modules must be a list of modules, got one {type(modules).__name__}; "
            "ch.instances(factory, n) makes n of them"
        )
    if not isinstance(modules, Iterable):
        raise TypeError(f"modules must be a list of modules, got {modules!r:.60}")
    members = list(modules)
    if not members:
        raise ValueError("modules is empty: a stack needs at least one module")
    for index, module in enumerate(members):
        if isinstance(module, type) and issubclass(module, nn.Module):
            raise TypeError(
                f"modules[{index}] is the class {module.__name__}: pass an instance of it"
            )
        if not isinstance(module, nn.Module):
            raise TypeError(f"modules[{index}] must be a module, got {module!r:.60}")
    return members


def _checked_reading(index: int, module: nn.Module) -> Reading:
    reading = read(module)
    for slot in reading.slots:
        if nn.parameter.is_lazy(slot.tensor):
            raise ValueError(
                f"modules[{index}]: {slot.path} is uninitialized; build the module first, "
                "ch.build(module, ch.spec(...)), or all of them with ch.instances(..., spec=...)"
            )
    pair = overlapping(reading.slots)
    if pair is not None:
        raise ValueError(
            f"modules[{index}]: {pair[1].path} shares memory with {pair[0].path} without being "
            "the same tensor; compute it from the other in forward"
        )
    return reading


def _grouped(readings: Sequence[Reading]) -> list[list[int]]:
    """Positions by structure, in order of first appearance."""
    groups: list[tuple[Reading, list[int]]] = []
    for position, reading in enumerate(map(alike, readings)):
        for representative, positions in groups:
            if difference(representative, reading) is None:
                positions.append(position)
                break
        else:
            groups.append((reading, [position]))
    return [positions for _, positions in groups]


def _placeless(reading: Reading) -> Reading:
    """The structure without devices, which writing a member back may cross."""
    facts = [fact for fact in reading.facts if fact.name != "device"]
    return replace(reading, facts=facts)
