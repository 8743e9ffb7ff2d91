"""What all optimizers of a stack share: settings, groups, state, frozen rows.

Contract: a step does to each member what ``torch.optim`` does to that module alone. Rows of frozen
members do not move, nor do rows that no gradient reached. There is no Python per member: what grows
with N is arithmetic.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from chimera.optim.arithmetic import gradient, wide
from chimera.optim.aside import settle, whole
from chimera.optim.groups import Entry, ParameterGroup, Stacked, entries_of, partitioned
from chimera.optim.member import Layout, checked_member_state, state_of_member, write
from chimera.optim.settings import Range, Setting
from chimera.optim.standstill import Standstill
from chimera.optim.state import checked_state
from chimera.optim.wording import Wording, shown


class Optimizer:
    """Base of the optimizers of a stack.

    Attributes:
        ranges: the settings, single numbers each, with the values that they may have.
        pairs: settings that the user gives two at a time, with the names of the two.
        tensors: the names of a parameter's state, with the shapes, as ``state.py`` says.
        options: switches, one for all members.
        steps: how many steps were taken.
        groups: the parameters that share settings, with their state.
        version: another number whenever settings or state were set.
        moved: how many steps it took itself; others were recorded.
    """

    ranges: ClassVar[dict[str, Range]]
    pairs: ClassVar[dict[str, tuple[str, str]]] = {}
    tensors: ClassVar[dict[str, str]]

    def __init__(
        self,
        stack: Stacked,
        given: dict[str, Any],
        groups: Iterable[Any],
        options: dict[str, bool] | None = None,
    ) -> None:
        self._kind = type(self).__name__
        self.options = options or {}
        entries = entries_of(self._kind, stack)
        self._members = len(stack)
        self._words = Wording(self._kind, self.ranges, self.pairs, self._members)
        groups = list(groups) if not isinstance(groups, dict) else groups
        parts = partitioned(self._kind, entries, groups)
        own = [{}, *({k: v for k, v in group.items() if k != "params"} for group in groups)]
        defaults = self._words.parsed(given)
        self.groups: list[ParameterGroup] = []
        for part, mine in zip(parts, own, strict=True):
            settings = {name: self._words.setting(name, value) for name, value in defaults.items()}
            for name, value in self._words.parsed(mine).items():
                settings[name] = self._words.setting(name, value)
            self.groups.append(ParameterGroup(part, settings))
        self.version = self.moved = 0
        self.steps = 0
        for group in self.groups:
            self._check(group)

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Every parameter group: the names of its parameters and its settings.

        A setting is a number, or a list of one per member.
        """
        return [
            {
                "params": [entry.name for entry in group.entries],
                **{name: setting.plain() for name, setting in group.settings.items()},
            }
            for group in self.groups
        ]

    def parameters(self) -> list[Tensor]:
        """The parameters that a step moves."""
        return [entry.parameter for group in self.groups for entry in group.entries]

    def set(
        self, *, members: Iterable[int] | None = None, group: int | None = None, **new: Any
    ) -> None:
        """Change settings: ``optimizer.set(lr=1e-4, members=[3])``.

        Args:
            members: positions in the stack, as in ``stack[3]``; all unless told. New values are
                numbers, or one for each of them.
            group: a parameter group by its number: 0 is what no group named, 1 the first of
                ``groups=``. All unless told.
            **new: settings by the names that the constructor gives them.

        Raises:
            TypeError: an unknown setting; something of the wrong type.
            ValueError: a member or group that is not there; a wrong length or value. Nothing is
                changed then.
        """
        where = None if members is None else self._words.positions(members)
        if group is not None and group not in range(len(self.groups)):
            raise ValueError(
                f"{self._kind}: no parameter group {group!r}; there are {len(self.groups)}."
            )
        chosen = self.groups if group is None else [self.groups[group]]
        values = self._words.parsed(new)
        changes = [
            (one.settings[name], one.settings[name].changed(value, where))
            for one in chosen
            for name, value in values.items()
        ]
        before = [setting.value for setting, _ in changes]
        for setting, value in changes:
            setting.value = value
        try:
            for one in chosen:
                self._check(one)
        except ValueError:
            for (setting, _), value in zip(changes, before, strict=True):
                setting.value = value
            raise
        self.version += 1

    def freeze(self, members: Iterable[int]) -> None:
        """Let the members at these positions in the stack stay as they are from now on.

        Raises:
            TypeError, ValueError: ``members`` is no list of positions of the stack.
        """
        chosen = torch.tensor(self._words.positions(members), dtype=torch.int64)
        for group in self.groups:
            for entry in group.entries:
                rows = torch.isin(entry.rows.members, chosen).nonzero()[:, 0]
                if len(rows):
                    held = rows if entry.held is None else torch.cat([entry.held, rows])
                    entry.held = held.unique()
        self.version += 1

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or with ``set_to_none=False`` fill them with zeros."""
        for group in self.groups:
            for entry in group.entries:
                grad = entry.parameter.grad
                if set_to_none:
                    entry.parameter.grad = None
                elif grad is not None:
                    grad.detach_().zero_()

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter of every member that has a gradient.

        Raises:
            TypeError: a gradient is sparse.
        """
        self.settle()
        for group in self.groups:
            ready = [entry for entry in group.entries if entry.parameter.grad is not None]
            for entry in ready:
                if gradient(entry).is_sparse:
                    raise TypeError(
                        f"{self._kind}: the gradient of {entry.name} is sparse, which no optimizer "
                        "of a stack takes; make its layer with sparse=False."
                    )
            still = [
                Standstill(entry, self.tensors)
                for entry in ready
                if entry.frozen is not None or entry.source.partial
            ]
            if ready:
                self._update(ready, group.settings)
            for one in still:
                one.put_back()
        self.steps += 1
        self.moved += 1

    def settle(self) -> None:
        """Before a step, take note of the rows that the stack has frozen or freed since."""
        for group in self.groups:
            for entry in group.entries:
                self.version += settle(entry, self.tensors)

    def _update(self, entries: list[Entry], settings: dict[str, Setting]) -> None:
        raise NotImplementedError

    def _check(self, group: ParameterGroup) -> None:
        """Raise a ValueError where the settings of a group contradict each other."""

    def _row(
        self,
        entry: Entry,
        key: str,
        settings: dict[str, Setting],
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The factor ``key``, as ``_factor`` computes it, shaped for a parameter."""
        device, dtype = entry.parameter.device, dtype or wide(entry.parameter)
        return entry.rows.get(key, self.version, device, dtype, lambda: self._factor(key, settings))

    def _factor(self, key: str, settings: dict[str, Setting]) -> Tensor:
        """A factor of every member ``[N]``, float64."""
        return settings[key].values()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: tensors by parameter name, the rest plain.

        The tensors are the optimizer's own, as in torch: copy what must not change.
        """
        return {
            "optimizer": self._kind,
            "members": self._members,
            "options": dict(self.options),
            "steps": self.steps,
            "groups": self.settings,
            "state": {
                entry.name: whole(entry, self.tensors)
                for group in self.groups
                for entry in group.entries
                if entry.state
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave, settings included.

        Raises:
            TypeError: ``state`` is no mapping.
            ValueError: it is of another optimizer, of another number of members, of other
                parameters or groups, or lacks or holds more than it should. Nothing is changed
                then.
        """
        loaded = checked_state(
            {"optimizer": self._kind, "members": self._members, "options": self.options},
            self.groups,
            self.tensors,
            state,
        )
        words = self._words
        new = [{n: words.setting(n, given[n]) for n in self.ranges} for given in state["groups"]]
        for group, settings, tensors in zip(self.groups, new, loaded, strict=True):
            group.settings = settings
            for entry, mine in zip(group.entries, tensors, strict=True):
                entry.state, entry.scratch = mine, None
                entry.aside = entry.settled = None
        self.steps = state["steps"]
        self.version += 1

    def member_state(self, member: int) -> dict[str, Any]:
        """A member's state as its module alone has it: a ``state_dict`` of ``torch.optim``.

        ``torch.optim.AdamW(module.parameters())`` that loads it goes on as the member would. Its
        tensors are copies.

        Args:
            member: a position in the stack, as in ``stack[3]``.

        Raises:
            ValueError: there is no such member.
        """
        (position,) = self._words.positions([member])
        return state_of_member(self._layout(), position)

    def load_member_state(self, member: int, state: dict[str, Any]) -> None:
        """Take over a ``state_dict`` of ``torch.optim`` as a member's, settings included.

        The member goes on as that optimizer would. ``steps``, on which draws depend, is counted
        for the whole stack, and stays.

        Raises:
            ValueError: there is no such member, or the state is of another optimizer or of other
                parameters; the difference is named. Nothing is changed then.
        """
        (position,) = self._words.positions([member])
        settings, changes = checked_member_state(self._layout(), position, state)
        before = [(setting, setting.value) for g in self.groups for setting in g.settings.values()]
        try:
            for number, new in enumerate(settings):
                self.set(members=[position], group=number, **new)
        except (TypeError, ValueError):
            for setting, value in before:
                setting.value = value
            raise
        for change in changes:
            write(change, self.tensors)

    def _layout(self) -> Layout:
        kind = next(c.__name__ for c in type(self).__mro__ if hasattr(torch.optim, c.__name__))
        return Layout(kind, self.groups, self.pairs, self.options, self.tensors)

    def __repr__(self) -> str:
        groups = (
            f"  group {i}: {len(group.entries)} parameters, "
            + ", ".join(f"{name}={shown(s)}" for name, s in group.settings.items())
            for i, group in enumerate(self.groups)
        )
        return "\n".join((f"{self._kind} of {self._members} members, {self.steps} steps", *groups))
