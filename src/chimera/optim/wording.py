"""What a user calls settings and members of an optimizer, read and checked.

The constructor and ``set`` speak of ``betas``, a pair; a step multiplies with ``beta1`` and
``beta2``. Members are named by their positions in the stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import index
from typing import Any

from torch import Tensor

from chimera.optim.settings import Range, Setting


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of one optimizer.

    Attributes:
        kind: its name, for messages.
        ranges: its settings by single names, with the values that they may have.
        pairs: settings that the user gives two at a time, with the names of the two.
        members: how many members there are.
    """

    kind: str
    ranges: Mapping[str, Range]
    pairs: Mapping[str, tuple[str, str]]
    members: int

    def parsed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings by their single names: a pair such as ``betas`` becomes two.

        Raises:
            TypeError: there is no such setting, or a pair is none.
        """
        found: dict[str, Any] = {}
        for name, value in given.items():
            if name in self.pairs:
                if not isinstance(value, list | tuple) or len(value) != 2:
                    raise TypeError(
                        f"{self.kind}: {name} is a pair, each a number or one per member; "
                        f"got {value!r:.60}."
                    )
                found |= dict(zip(self.pairs[name], value, strict=True))
            elif name in self.ranges and not any(name in pair for pair in self.pairs.values()):
                found[name] = value
            else:
                single = {one for pair in self.pairs.values() for one in pair}
                known = [one for one in self.ranges if one not in single]
                raise TypeError(
                    f"{self.kind} has no setting {name!r}; it has "
                    f"{', '.join(sorted([*known, *self.pairs]))}."
                )
        return found

    def setting(self, name: str, value: Any) -> Setting:
        """A setting, by its single name; messages call it as the user does.

        Raises:
            TypeError, ValueError: as ``Setting`` does.
        """
        said = name
        for pair, singles in self.pairs.items():
            if name in singles:
                said = f"{pair}[{singles.index(name)}]"
        return Setting(said, value, self.members, self.ranges[name])

    def positions(self, members: Iterable[int]) -> list[int]:
        """Positions in the stack, each from 0 on.

        Raises:
            TypeError: they are no list of whole numbers.
            ValueError: there is no such member, or one is named twice.
        """
        if isinstance(members, int) or not isinstance(members, Iterable):
            raise TypeError(f"{self.kind}: members is a list of positions; got {members!r}.")
        members = list(members)
        try:
            found = [index(member) for member in members]
        except TypeError:
            raise TypeError(
                f"{self.kind}: members is a list of positions; got {members!r}."
            ) from None
        for member in found:
            if not -self.members <= member < self.members:
                raise ValueError(
                    f"{self.kind}: no member {member}; the stack has {self.members} members, "
                    f"0 to {self.members - 1}."
                )
        places = [member % self.members for member in found]
        if len(set(places)) < len(places):
            raise ValueError(f"{self.kind}: members names one member twice: {found}.")
        return places


def shown(setting: Setting) -> str:
    """A setting's value, or the range of its values."""
    if isinstance(setting.value, Tensor):
        low, high = float(setting.value.min()), float(setting.value.max())
        return f"{low:g} to {high:g}"
    return f"{setting.value:g}"
