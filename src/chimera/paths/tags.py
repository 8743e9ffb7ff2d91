"""What users put on a tensor itself, as in ``parameter.tag = 1``.

torch copies none of it: what stands in the place of a tensor has its tags only when they are
carried.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

# Of ours, which marks a stand-in as a parameter, and of ``nn.Buffer``.
_NO_TAGS = frozenset(("_is_param", "__deepcopy__", "_is_buffer", "persistent"))


def tags_of(tensor: Tensor) -> dict[str, Any]:
    """The tags of a tensor by name; nothing of torch's own, which ``torch.compile`` leaves."""
    held = tensor.__dict__
    if held.keys() <= _NO_TAGS:
        return {}
    return {n: v for n, v in held.items() if n not in _NO_TAGS and not n.startswith("_dynamo")}


def carry_tags(source: Tensor, target: Tensor) -> None:
    """Let ``target`` have the tags of ``source``."""
    if target is not source and (tags := tags_of(source)):
        target.__dict__.update(tags)


def retagged(tensor: Tensor, tags: dict[str, Any]) -> str | None:
    """The name of a tag in which a tensor differs from ``tags``; None where it has just these."""
    now = tags_of(tensor)
    if not (now or tags):
        return None
    names = (*now, *tags)
    return next((n for n in names if n not in now or now[n] is not tags.get(n, tags)), None)
