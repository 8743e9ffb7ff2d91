"""Parameter groups: which parameters of a stack share settings.

Contract: every parameter is in exactly one group. Group 0 holds what no other group names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from chimera.optim.rows import Rows
from chimera.optim.settings import Setting
from chimera.paths.patterns import matches


@runtime_checkable
class StackedParameter(Protocol):
    """What an optimizer reads of ``Stack.layout()``."""

    @property
    def name(self) -> str: ...
    @property
    def parameter(self) -> nn.Parameter: ...
    @property
    def members(self) -> Tensor: ...
    @property
    def frozen(self) -> Tensor | None: ...
    @property
    def partial(self) -> bool: ...


@runtime_checkable
class Stacked(Protocol):
    """What an optimizer needs of a Stack."""

    def __len__(self) -> int: ...
    def layout(self) -> Sequence[StackedParameter]: ...


@dataclass(frozen=True, slots=True)
class Aside:
    """State of some rows, set aside while the others move.

    Attributes:
        rows: whose, int64, on the CPU.
        state: by name ``[rows, ...]``; empty where there was none.
    """

    rows: Tensor
    state: dict[str, Tensor]


@dataclass(slots=True)
class Entry:
    """A stacked parameter with what an optimizer keeps for it.

    Attributes:
        name: ``groups.<g>.<path>``.
        parameter: ``[members of the group, ...]``.
        source: what the stack says of it, now.
        rows: the factors of its members.
        state: the optimizer's tensors by name; empty before its first step.
        scratch: memory that a step may use as it likes.
        held: rows that the optimizer was told to leave, int64.
        aside: the state of rows that the stack holds frozen, see ``aside.py``.
        settled: what the stack said of its frozen rows when that was last looked at.
    """

    name: str
    parameter: nn.Parameter
    source: StackedParameter
    rows: Rows
    state: dict[str, Tensor] = field(default_factory=dict)
    scratch: Tensor | None = None
    held: Tensor | None = None
    aside: Aside | None = None
    settled: Tensor | None = None
    _kept: tuple[Any, Tensor | None] = ((), None)

    @property
    def frozen(self) -> Tensor | None:
        """The rows that must not move, int64, on the parameter's device; None where all may."""
        frozen, device = self.source.frozen, self.parameter.device
        last = self._kept[0]
        if len(last) != 3 or last[0] is not frozen or last[1] is not self.held or last[2] != device:
            rows = None if frozen is None else frozen.cpu().nonzero()[:, 0]
            if self.held is not None:
                rows = self.held if rows is None else torch.cat([rows, self.held]).unique()
            chosen = rows.to(device) if rows is not None and len(rows) else None
            self._kept = ((frozen, self.held, device), chosen)
        return self._kept[1]


@dataclass(slots=True)
class ParameterGroup:
    """Parameters that share settings."""

    entries: list[Entry]
    settings: dict[str, Setting]


def entries_of(kind: str, stack: Any) -> list[Entry]:
    """The stacked parameters of ``stack``.

    Raises:
        TypeError: it is no Stack.
        ValueError: it has no parameters.
    """
    if not callable(getattr(stack, "layout", None)):
        mend = "make one with ch.Stack(modules)"
        if isinstance(stack, nn.Module):
            mend = f"for one network use torch.optim.{kind}(network.parameters())"
        raise TypeError(f"{kind} takes a Stack; got {type(stack).__name__}: {mend}.")
    entries = [_entry(found) for found in stack.layout()]
    if not entries:
        raise ValueError(f"{kind}: the stack has no parameters to train.")
    return entries


def _entry(found: StackedParameter) -> Entry:
    like = torch.view_as_real(found.parameter) if found.parameter.is_complex() else found.parameter
    return Entry(found.name, found.parameter, found, Rows(like.detach(), found.members))


def partitioned(kind: str, entries: list[Entry], groups: Any) -> list[list[Entry]]:
    """Group 0, what no group names, and then the parameters of each of ``groups``.

    Raises:
        TypeError: ``groups`` is no list of dicts with "params".
        ValueError: a name or pattern fits nothing; a parameter is in two groups.
    """
    owner: dict[str, int] = {}
    if not isinstance(groups, list | tuple) or not all(isinstance(g, dict) for g in groups):
        raise TypeError(
            f"{kind}: groups is a list of dicts, such as "
            '[{"params": "**.bias", "weight_decay": 0.0}]; got ' + f"{groups!r:.60}."
        )
    for number, group in enumerate(groups, 1):
        if "params" not in group:
            raise TypeError(f'{kind}: groups[{number - 1}] has no "params": names or parameters.')
        for entry in _selected(f"{kind}: groups[{number - 1}]", entries, group["params"]):
            if owner.setdefault(entry.name, number) != number:
                raise ValueError(
                    f"{kind}: {entry.name} is in groups[{owner[entry.name] - 1}] and "
                    f"groups[{number - 1}]; a parameter is in one group."
                )
    return [
        [entry for entry in entries if owner.get(entry.name, 0) == number]
        for number in range(len(groups) + 1)
    ]


def _selected(what: str, entries: list[Entry], selectors: Any) -> list[Entry]:
    selected = []
    for one in [selectors] if isinstance(selectors, str | Tensor) else list(selectors):
        if isinstance(one, str):
            fits = [e for e in entries if matches(one, e.name) or matches(one, member_path(e.name))]
        elif isinstance(one, Tensor):
            fits = [e for e in entries if e.parameter is one]
        else:
            raise TypeError(
                f'{what}: "params" holds names, patterns or parameters of the stack; '
                f"got {one!r:.60}."
            )
        if not fits:
            said = f"{one!r} fits no parameter" if isinstance(one, str) else "a tensor is none"
            known = ", ".join(dict.fromkeys(member_path(entry.name) for entry in entries))
            raise ValueError(f"{what}: {said} of the stack; it has {known:.300}.")
        selected += fits
    return selected


def member_path(name: str) -> str:
    """The path in a member of a stack's parameter ``groups.<g>.<path>``."""
    parts = name.split(".", 2)
    return parts[2] if parts[0] == "groups" and len(parts) == 3 else name
