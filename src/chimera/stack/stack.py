"""``Stack``: N modules as one. A member of a Stack computes what the module computes alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn

from chimera.draws.mode import Key, next_evaluation, overridden
from chimera.draws.recompute import in_backward
from chimera.draws.seeds import as_seed
from chimera.paths.differing import describe_difference
from chimera.paths.structure import difference
from chimera.stack.admission import checked, checked_reading, grouped, misfit
from chimera.stack.batched import Call, Ran
from chimera.stack.each import Arguments, arguments, index_of
from chimera.stack.explain import Explanation, explain_stack
from chimera.stack.group import Group
from chimera.stack.layout import StackedParameter, layout_of
from chimera.stack.member_state import (
    check_members,
    load_member_state,
    member_state,
    note_members,
    take_extra,
)
from chimera.stack.memory import keep_freed
from chimera.stack.modes import check_modes, modes_of, set_modes_of
from chimera.stack.numbers import alike
from chimera.stack.one_member import copied_out, place_of, write_back
from chimera.stack.outputs import Outputs, is_uneven, merge
from chimera.stack.plan import run
from chimera.stack.shadow import Shadow
from chimera.stack.state import keep
from chimera.stack.turn import Turn


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
        keep_freed()
        members = checked(modules)
        self.seed = as_seed(seed)
        self.members: tuple[int, ...] = tuple(range(len(members)))
        self.calls = 0
        self._evaluations = 0
        self._uneven = False
        self._turn = Turn()
        self._groups = [Group(members[alike[0][0]], alike) for alike in grouped(members)]
        for group in self._groups:
            group.turn = self._turn
        self.groups = nn.ModuleDict({str(i): group.tree for i, group in enumerate(self._groups)})
        self.training = members[0].training
        self.register_state_dict_post_hook(note_members)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(check_members)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(take_extra)  # type: ignore[no-untyped-call]

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

        Raises:
            TypeError: ``torch.export`` calls; members themselves can be exported.
        """
        if torch.compiler.is_compiling():
            from chimera.stack.eager import eagerly

            return eagerly(self.forward, *args, **kwargs)
        given = arguments(args, kwargs, len(self))
        with self._turn:
            counted = self.calls, self._evaluations
            try:
                outputs = self.run(_call, given, self._next_key())
            except BaseException:
                self.calls, self._evaluations = counted
                raise
            self._uneven = is_uneven(outputs)
        return merge(outputs)

    def count_call(self) -> None:
        """Note a call that ran elsewhere, for the draws of later ones."""
        self._next_key()

    def _next_key(self) -> Key:
        key = Key(self.seed, self.calls)
        if in_backward():
            return self._key_again(key)
        if any(group.template.training for group in self._groups):
            self.calls += 1
            self._evaluations = 0
        else:
            key = next_evaluation(key, self._evaluations)
            self._evaluations += 1
        return overridden(key)

    def _key_again(self, key: Key) -> Key:
        """The key of a call in a backward pass, which activation checkpointing makes again."""
        given = overridden(key)
        draws = any(plan.draws for group in self._groups for plan in group.plans.values())
        if given is key and draws:
            raise RuntimeError(
                "a stack whose members draw random numbers was called again in a backward pass, "
                "where it cannot know its first draws; give them inside of what is checkpointed, "
                "as in `with ch.randomness(seed=0, step=step): return stack(x)`"
            )
        return given

    def run(self, call: Call, given: Arguments, key: Key) -> list[Outputs]:
        """Run ``call(member, args, kwargs)`` for every member.

        Args:
            call: what to do with one member.
            given: arguments of all members.
            key: of the draws.

        Returns:
            What the members gave; positions are places in the stack.
        """
        if torch.compiler.is_compiling():
            from chimera.stack.eager import eagerly

            return cast(list[Outputs], eagerly(self.run, call, given, key))
        with self._turn:
            return self._run(call, given, key)

    def _run(self, call: Call, given: Arguments, key: Key) -> list[Outputs]:
        ran: list[tuple[Group, list[Ran], Shadow]] = []
        try:
            for group, members in self.parts():
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
        return place_of(self._groups, len(self), index)

    def __getitem__(self, index: int) -> nn.Module:
        """A member as a plain module: an independent, bit-equal copy."""
        group, place = self._where(index)
        with self._turn:
            return copied_out(group, place)

    def __setitem__(self, index: int, module: nn.Module) -> None:
        """Write a module back as a member.

        Raises:
            TypeError: it is no module.
            ValueError: its structure is another; the message says where.
        """
        group, place = self._where(index)
        if not isinstance(module, nn.Module):
            raise TypeError(f"stack[{index}] = ... needs a module, got {module!r:.60}")
        pair = misfit(self[index], checked_reading(index, module))
        if pair is not None:
            raise ValueError(
                f"stack[{index}] = ... needs a module of the structure that the member has; "
                f"{describe_difference(pair)}"
                + ("; set its mode with .train() or .eval()" * (pair[0].name == "training"))
            )
        with self._turn:
            write_back(group, place, module)

    def __iter__(self) -> Iterator[nn.Module]:
        return (self[index] for index in range(len(self)))

    def modules_list(self) -> list[nn.Module]:
        """All members as plain modules, independent copies in member order."""
        return list(self)

    def member_state(self, index: int) -> dict[str, Any]:
        """A member's ``state_dict``, which the module alone loads with ``strict=True``.

        The tensors share memory with the stack's: copy what must not change.
        """
        return member_state(*self._where(index))

    def load_member_state(self, index: int, state: Mapping[str, Any]) -> None:
        """Take over the ``state_dict`` of a module as a member's.

        Raises:
            ValueError: names or shapes differ; all of them are listed, and nothing is changed.
        """
        load_member_state(*self._where(index), state, f"load_member_state({index}, ...)")

    def parts(self) -> list[tuple[Group, list[int]]]:
        """The groups, each with the ids of its members."""
        return [(group, [self.members[i] for i in group.positions]) for group in self._groups]

    def modes(self) -> dict[str, bool]:
        """Which modules are in training mode: the members' by ``groups.<g>.<path>``, the stack's
        own under the empty name."""
        return {"": self.training} | modes_of(self._groups)

    def set_modes(self, modes: Mapping[str, bool]) -> None:
        """Set the modes that ``modes`` gave.

        Raises:
            ValueError: a name is none of the stack's; nothing is changed.
        """
        members = {name: mode for name, mode in modes.items() if name}
        check_modes(self._groups, members)
        super().train(modes.get("", self.training))
        set_modes_of(self._groups, members)

    def constants(self) -> tuple[Any, ...]:
        """What a recording of a call would hold for good: two equal ones give the same call."""
        return tuple(group.constants for group in self._groups)

    def requires_grad_(self, requires_grad: bool = True) -> Stack:
        """Let every parameter of every member take gradients, or none of them."""
        super().requires_grad_(requires_grad)
        for group in self._groups:
            group.still.clear()
        return self

    def layout(self) -> list[StackedParameter]:
        """The parameters, with the members that each row belongs to."""
        return layout_of(self._groups, self.named_parameters())

    def differences(self) -> list[str]:
        """For every group but the first: the first fact in which its members differ from it."""
        first, *others = [alike(group.reading) for group in self._groups]
        pairs = [difference(first, other) for other in others]
        return [describe_difference(pair) for pair in pairs if pair is not None]

    def __explain__(self) -> Explanation:
        return explain_stack(self._groups, self.differences(), uneven=self._uneven)

    def extra_repr(self) -> str:
        return f"members={len(self)}, seed={self.seed}"


def _call(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return module(*args, **kwargs)
