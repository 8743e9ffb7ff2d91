"""The ``state_dict`` of one member, read from and written to the rows of the stacked tensors.

Names, order and ties are those of the member's own ``state_dict``. The state of a whole Stack
notes which members its rows are of, so that it never goes to others in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from chimera.stack.contents import is_extra
from chimera.stack.extra import (
    KEY,
    changed,
    extra_of,
    extra_of_all,
    has_extra,
    put_extra,
    wrong_extra,
)
from chimera.stack.group import Group

_MEMBERS = "members"


def member_state(group: Group, place: int) -> dict[str, Any]:
    """The state of the ``place``-th member of a group; its tensors are rows of the stacked ones."""
    rows = _rows(group, place)
    state: dict[str, Any] = group.template.state_dict(keep_vars=True)
    own = extra_of(group, place) if has_extra(group) else {}
    for name, value in state.items():
        state[name] = own[name] if name in own else rows[id(value)]
    return state


def load_member_state(group: Group, place: int, state: Mapping[str, Any], who: str) -> None:
    """Write a state to the ``place``-th member of a group.

    Args:
        group: the group.
        place: of the member in it.
        state: what ``member_state`` or a module's ``state_dict`` gave.
        who: the call, for messages.

    Raises:
        TypeError: ``state`` is no mapping.
        ValueError: it does not fit; nothing is changed.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"{who}: a state is a dict as state_dict() gives it, got {state!r:.60}")
    own = member_state(group, place)
    _check(own, state, who)
    if not has_extra(group):
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])
        return
    # An extra state is the module's own to take over.
    changed(group, place, lambda member: member.load_state_dict(dict(state)), who)


def _rows(group: Group, place: int) -> dict[int, Tensor]:
    """The rows of a member, by id of the template's tensor."""
    return {
        id(slot.tensor): stacked.detach()[place]
        for slot, stacked in zip(group.slots, group.tensors(), strict=True)
    }


def _check(own: Mapping[str, Any], state: Mapping[str, Any], who: str) -> None:
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is not the member's" for name in state if name not in own]
    for name in own.keys() & state.keys():
        if not is_extra(name) and _shape(own[name]) != _shape(state[name]):
            wrong.append(f"{name} is {_shape(state[name])}, the member's is {_shape(own[name])}")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"{who}: the state does not fit: {'; '.join(sorted(wrong)[:5])}{more}")


def _shape(value: Any) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else "no tensor"


def note_members(stack: Any, state: Any, prefix: str, local_metadata: dict[str, Any]) -> None:
    """Note in a Stack's state which members its rows are of, and what extra states they have."""
    local_metadata[_MEMBERS] = _members(stack)
    extra = extra_of_all(stack._groups)
    if extra is not None:
        state[prefix + KEY] = extra


def _members(stack: Any) -> list[list[int]]:
    groups: list[Group] = stack._groups
    return [[stack.members[position] for position in group.positions] for group in groups]


def check_members(
    stack: nn.Module,
    state: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """Refuse the state of a Stack whose rows are of other members, and that of one member.

    Extra states are taken out, for ``take_extra``.
    """
    mine, theirs = _members(stack), local_metadata.get(_MEMBERS)
    _check_extra(stack, state, prefix + KEY, missing_keys if strict else [], error_msgs)
    if theirs is not None and theirs != mine:
        error_msgs.append(
            f"the state is of groups with the members {_shown(theirs)}, this stack's have "
            f"{_shown(mine)}"
        )
    elif state and not any(name.startswith(f"{prefix}groups.") for name in state):
        error_msgs.append(
            "the state is not of a Stack, whose names begin with groups.0; for the state of one "
            "member use stack.load_member_state(index, state)"
        )


def _check_extra(
    stack: Any, state: dict[str, Any], key: str, missing: list[str], errors: list[str]
) -> None:
    stack.__dict__.pop(KEY, None)
    if key not in state:
        if any(map(has_extra, stack._groups)):
            missing.append(key)
        return
    given = state.pop(key)
    wrong = wrong_extra(stack._groups, given)
    if wrong:
        errors.append(f"{key}: {wrong}")
    else:
        stack.__dict__[KEY] = given


def take_extra(stack: Any, incompatible: Any) -> None:
    """Let the members take over the extra states that a state had for them."""
    given = stack.__dict__.pop(KEY, None)
    for group, mine in zip(stack._groups, given or (), strict=False):
        for place, extra in enumerate(mine):
            if extra:
                put_extra(group, place, extra, "load_state_dict")


def _shown(groups: list[list[int]]) -> str:
    text = ", ".join(f"{group}" for group in groups)
    return text if len(text) <= 120 else text[:117] + "..."
