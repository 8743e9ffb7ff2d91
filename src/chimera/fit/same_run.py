"""Whether a run that goes on is the one that was started: its config, key by key."""

import json
import re
from collections.abc import Mapping
from typing import Any

from chimera.fit.code import code_of, reads_of, sha256, sources
from chimera.paths.hooks import hooks_of
from chimera.paths.structure import own_attributes
from chimera.stack import Stack
from chimera.stack.contents import as_text
from chimera.stack.group import Group

_MAY_CHANGE = frozenset({"run", "writing", "choices", "weights_sha256"})
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def check_same(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise ValueError with key, old and new value where two configs differ.

    The run's own id, how often it is written down, and what engines it chose, may differ, and what
    weights the members come with, for those of a checkpoint take their place.
    """
    found = differences(old, new)
    if found:
        raise ValueError(
            f"resume: this is not the run that was started: {found}; "
            "give what it was started with, or start another in a new directory"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """In which keys two configs differ, with both values; empty where they do not."""
    kept = [{k: v for k, v in each.items() if k not in _MAY_CHANGE} for each in (old, new)]
    before, now = (_flat(json.loads(json.dumps(each))) for each in kept)
    keys = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    told = "; ".join(f"{key} was {_said(before, key)} and is {_said(now, key)}" for key in keys[:3])
    return told + (f" (and {len(keys) - 3} more)" if len(keys) > 3 else "")


def network_of(stack: Stack) -> list[dict[str, Any]]:
    """What is said of each group's structure: class, members, and hashes of settings and code."""
    found = []
    for group, _ in stack.parts():
        template = group.template
        said = [_ADDRESS.sub("", repr(template))]
        said += [f"{s.path} {s.tensor.dtype} {[*s.tensor.shape]}" for s in group.slots]
        said += [
            f"{path} {name} {as_text(value)}"
            for path, module in group.reading.modules
            for name, value in sorted(own_attributes(module).items())
        ]
        code = [text for module in template.modules() for text in sources(type(module))]
        found.append(
            {
                "class": type(template).__qualname__,
                "members": len(group),
                "structure_sha256": sha256("\n".join(said)),
                "code_sha256": sha256("\n".join(dict.fromkeys(code))),
                "reads": reads_of(type(module) for module in template.modules()),
                "differing_sha256": sha256("\n".join(_differing(group))),
                "hooks": _hooks(group),
                "frozen": _frozen(group, [stack.members[place] for place in group.positions]),
                "evaluating": [p or "(root)" for p, m in group.reading.modules if not m.training],
            }
        )
    return found


def _differing(group: Group) -> list[str]:
    """The attributes that differ between members, and their values."""
    names = [(group.reading.modules[index][0], name) for index, name in group.own]
    return sorted(
        f"{path} {name} {[as_text(value) for value in values]}"
        for (path, name), values in zip(names, group.own.values(), strict=True)
    )


def _hooks(group: Group) -> dict[str, str]:
    """The hooks of every module, by path: their names, and a hash of what they are."""
    found = {}
    for path, module in group.reading.modules:
        hooks = [hook for table in hooks_of(module) for hook in table.values()]
        if hooks:
            names = ", ".join(getattr(hook, "__name__", type(hook).__name__) for hook in hooks)
            said = "\n".join(str(code_of(hook)) for hook in hooks)
            found[path or "(root)"] = f"{names} (sha256 {sha256(said)[:12]})"
    return found


def _frozen(group: Group, members: list[int]) -> dict[str, str]:
    """Who holds which parameter frozen."""
    found = {}
    for index, slot in enumerate(group.slots):
        rows = group.frozen(index) if slot.kind == "parameter" else None
        if rows is not None:
            who = [member for member, one in zip(members, rows.tolist(), strict=True) if one]
            found[slot.path] = "all" if len(who) == len(members) else f"members {_listed(who)}"
    return found


def _listed(members: list[int]) -> str:
    text = ", ".join(map(str, members))
    return text if len(text) <= 40 else f"{text[:40]}... (sha256 {sha256(text)[:12]})"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        parts = [
            _flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()
        ]
    elif isinstance(value, list):
        parts = [_flat(item, f"{prefix}[{place}]") for place, item in enumerate(value)]
    else:
        return {prefix: value}
    return {key: item for part in parts for key, item in part.items()}


def _said(flat: dict[str, Any], key: str) -> str:
    return f"{json.dumps(flat[key]):.80}" if key in flat else "not there"
