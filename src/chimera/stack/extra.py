"""What members' ``get_extra_state`` gives, and what their ``set_extra_state`` takes over.

What a member keeps otherwise than the others after that is an attribute of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from chimera.paths.nest import flatten
from chimera.paths.slots import GONE
from chimera.paths.structure import Reading, own_attributes, read
from chimera.paths.walk import join
from chimera.stack.contents import as_text, is_extra
from chimera.stack.group import Group
from chimera.stack.one_member import copied_out, write_back
from chimera.stack.own import as_in, transferred

KEY = "_extra_state"


def has_extra(group: Group) -> bool:
    """Whether a member's ``state_dict`` has extra states."""
    kinds = {type(module) for _, module in group.reading.modules}
    return any(kind.get_extra_state is not nn.Module.get_extra_state for kind in kinds)


def extra_of(group: Group, place: int) -> dict[str, Any]:
    """The extra states of a member, by their names in its ``state_dict``."""
    return extra_in(copied_out(group, place))


def extra_in(module: nn.Module) -> dict[str, Any]:
    """The extra states of a plain module, by their names in its ``state_dict``."""
    state: dict[str, Any] = module.state_dict()
    return {name: value for name, value in state.items() if is_extra(name)}


def put_extra(group: Group, place: int, extra: dict[str, Any], who: str) -> None:
    """Let a member take over what ``extra_of`` gave."""

    def take(member: nn.Module) -> None:
        for name, value in extra.items():
            member.get_submodule(name.removesuffix(KEY).rstrip(".")).set_extra_state(value)

    changed(group, place, take, who)


def changed(group: Group, place: int, change: Callable[[nn.Module], Any], who: str) -> None:
    """Let ``change`` write to the ``place``-th member as a plain module, and keep what it wrote.

    Raises:
        ValueError: it made or dropped tensors, or reshaped one; nothing is changed.
    """
    member = copied_out(group, place)
    before = _attributes(read(member))
    change(member)
    reading = read(member)
    _check_tensors(group, reading, who)
    modules = [module for _, module in group.reading.modules]
    for where, (text, value) in _attributes(reading).items():
        known = before.get(where, (None, GONE))
        if where not in group.own and not (text == known[0] if text else value is known[1]):
            _let_differ(group, modules, where)
    for where in before.keys() - _attributes(reading).keys() - group.own.keys():
        _let_differ(group, modules, where)
    write_back(group, place, member)


def _let_differ(group: Group, modules: list[nn.Module], where: tuple[int, str]) -> None:
    index, name = where
    value, same = modules[index].__dict__.get(name, GONE), as_in(modules, modules)
    group.own[where] = [
        GONE if value is GONE else transferred(value, dict(same)) for _ in range(len(group))
    ]
    modules[index].__dict__.setdefault(name, None)


def _check_tensors(group: Group, reading: Reading, who: str) -> None:
    own = [place for place in group.own if group.own[place]]
    mine = {slot.path: tuple(slot.tensor.shape) for slot in group.slots}
    theirs = {
        slot.path: tuple(slot.tensor.shape)
        for slot in reading.slots
        if not all((place.module, place.name) in own for place in slot.places)
    }
    differ = [path for path in mine.keys() | theirs.keys() if mine.get(path) != theirs.get(path)]
    if differ:
        raise ValueError(
            f"{who}: set_extra_state made, dropped or reshaped {', '.join(sorted(differ)[:5])}; "
            "the members of a stack have tensors in the same places"
        )


def _attributes(reading: Reading) -> dict[tuple[int, str], tuple[str | None, Any]]:
    """The attributes that hold no tensors: as JSON, where it says all of them, and themselves."""
    return {
        (index, name): (as_text(value), value)
        for index, (_, module) in enumerate(reading.modules)
        for name, value in own_attributes(module).items()
        if not any(isinstance(leaf, Tensor) for leaf in flatten(value, objects=True)[0])
    }


def extra_of_all(groups: list[Group]) -> list[list[dict[str, Any]]] | None:
    """The extra states of all members, by group and row; None where no member has one."""
    if not any(map(has_extra, groups)):
        return None
    return [
        [extra_of(group, place) if has_extra(group) else {} for place in range(len(group))]
        for group in groups
    ]


def wrong_extra(groups: list[Group], given: Any) -> str:
    """Why ``given`` is not what ``extra_of_all`` gives for such groups; empty where it is."""
    wanted = extra_of_all(groups)
    if wanted is None:
        return "these members have none"
    if not isinstance(given, list) or [len(part) for part in given] != list(map(len, groups)):
        return f"it is not of groups of {', '.join(str(len(group)) for group in groups)} members"
    for ours, theirs in zip(wanted, given, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            if not isinstance(other, dict) or mine.keys() != other.keys():
                names = sorted(mine.keys() ^ (other.keys() if isinstance(other, dict) else set()))
                return f"it differs in {', '.join(join('', name) for name in names[:5])}"
    return ""
