"""A checkpoint's files: where a run stands, by member id.

``state.json``              the cursor (epoch, batch, step), counters, config, who broke down
``members-<k>.safetensors`` all tensors of some of the members, member first, with their ids

One process writes one file of members; whoever reads takes the rows of the ids that it needs from
as many as there are.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from chimera.fit.quarantine import Death
from chimera.fit.standing import Standing
from chimera.stack.carry import GroupState
from chimera.stack.members import runs
from chimera.store import CheckpointError, TensorFile, write_tensors
from chimera.store.plain import read_json

_FORMAT = 1
_STATE = "state.json"
_MOST = 1 << 30
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
_CURSOR = ("step", "epoch", "batch")


def write(folder: Path, standing: Standing) -> None:
    """Write where a run stands into an empty directory."""
    state = {
        "format": _FORMAT,
        **{name: getattr(standing, name) for name in _CURSOR},
        "seconds": standing.seconds,
        "train_seconds": standing.train_seconds,
        "calls": list(standing.calls),
        "deaths": [dataclasses.asdict(death) for death in standing.deaths],
        "files": ["members-0.safetensors"],
        "config": standing.config,
    }
    (folder / _STATE).write_text(json.dumps(state, allow_nan=False, indent=2) + "\n")
    tensors = {"run.losses": standing.losses, "run.figures": standing.figures}
    described = []
    for g, (group, kept) in enumerate(zip(standing.groups, standing.optimizer, strict=True)):
        tensors |= {f"carried.{g}.{name}": tensor for name, tensor in group.tensors.items()}
        tensors |= {f"optimizer.{g}.{name}.{path}": tensor for (name, path), tensor in kept.items()}
        fields = {f.name: getattr(group, f.name) for f in dataclasses.fields(group)}
        described.append(fields | {"members": runs(group.members), "tensors": None})
    meta = {"members": runs(standing.members), "groups": described}
    write_tensors(folder / "members-0.safetensors", tensors, meta, beside=False)


def read(folder: Path, groups: Sequence[Sequence[int]], members: Sequence[int]) -> Standing:
    """Where a run stands, for some of its members.

    Args:
        folder: the checkpoint, its files found to be those written.
        groups: for each group of the stack that goes on, the ids of its members in order.
        members: the ids of all of them, in the stack's order.

    Raises:
        CheckpointError: the files do not say it, or not of these members.
    """
    state = read_json(folder / _STATE, _MOST)
    try:
        if state["format"] != _FORMAT:
            raise CheckpointError(
                f"{folder / _STATE}: is of format {state['format']!r}, this version reads {_FORMAT}"
            )
        step, epoch, batch = (_count(state[name]) for name in _CURSOR)
        files = [_member_file(folder, name) for name in state["files"]]
        deaths = [Death(**death) for death in state["deaths"]]
        seconds, train_seconds = float(state["seconds"]), float(state["train_seconds"])
        calls = (_count(state["calls"][0]), _count(state["calls"][1]))
        config = dict(state["config"])
    except _MALFORMED as error:
        raise CheckpointError(
            f"{folder / _STATE}: does not say where a run stands: {error!r}"
        ) from error
    try:
        parts = [_sources(file) for file in files]
        sources = [source for part in parts for source in part[1:]]
        whole = [part[0] for part in parts]
        found = [_group(sources, ids) for ids in groups]
        run = _rows(whole, members)
        return Standing(
            config=config,
            step=step,
            epoch=epoch,
            batch=batch,
            seconds=seconds,
            train_seconds=train_seconds,
            calls=calls,
            groups=[group for group, _ in found],
            optimizer=[kept for _, kept in found],
            members=list(members),
            losses=run["losses"],
            figures=run["figures"],
            deaths=[death for death in deaths if death.member in members],
        )
    except _MALFORMED as error:
        names = ", ".join(file.path.name for file in files)
        raise CheckpointError(
            f"{folder}: {names} does not hold the members of this run: {error}"
        ) from error


@dataclass
class _Source:
    """Rows of one file: their ids, the tensors by name, and what is said of their group."""

    members: list[int]
    tensors: dict[str, Tensor]
    said: dict[str, Any]


def _member_file(folder: Path, name: Any) -> TensorFile:
    number = name.removeprefix("members-").removesuffix(".safetensors")
    if not number.isdecimal() or name != f"members-{number}.safetensors":
        raise ValueError(f"{name!r} is no file of members")
    return TensorFile(folder / name)


def _sources(file: TensorFile) -> list[_Source]:
    """What a file says of the run, and then each of its groups."""
    tensors = file.read()
    run = {name: tensors[f"run.{name}"] for name in ("losses", "figures")}
    most = len(run["losses"])
    sources = [_source(file.meta, run, most)]
    for g, said in enumerate(file.meta["groups"]):
        mine = {
            f"{kind}.{name.removeprefix(prefix)}": tensor
            for name, tensor in tensors.items()
            for kind in ("carried", "optimizer")
            if name.startswith(prefix := f"{kind}.{g}.")
        }
        sources.append(_source(said, mine, most))
    return sources


def _source(said: dict[str, Any], tensors: dict[str, Tensor], most: int) -> _Source:
    """Rows, with their ids; ``most`` is how many members the file has."""
    count = sum(_count(count) for _, _, count in said["members"])
    rows = {len(tensor) for tensor in tensors.values() if tensor.dim()}
    if rows - {count} or count > most:
        raise ValueError(f"it has {sorted(rows)} rows for {count} of {most} members")
    ids = [first + step * place for first, step, count in said["members"] for place in range(count)]
    return _Source(ids, tensors, said)


def _group(
    sources: list[_Source], ids: Sequence[int]
) -> tuple[GroupState, dict[tuple[str, str], Tensor]]:
    wanted = set(ids)
    mine = [source for source in sources if not wanted.isdisjoint(source.members)]
    rows = _rows(mine, ids)
    said = mine[0].said
    own: dict[tuple[int, str], dict[int, Any]] = {}
    for source in mine:
        for module, name, values in source.said["own"]:
            own.setdefault((module, name), {}).update(zip(source.members, values, strict=True))
    state = GroupState(
        members=list(ids),
        tensors={
            name.removeprefix("carried."): tensor
            for name, tensor in rows.items()
            if name.startswith("carried.")
        },
        new=[(module, kind, name, lasts, row) for module, kind, name, lasts, row in said["new"]],
        attributes=[(module, name, value) for module, name, value in said["attributes"]],
        own=[(*where, [values[id_] for id_ in ids]) for where, values in own.items()],
        plans=said["plans"],
    )
    kept = {}
    for name, tensor in rows.items():
        if name.startswith("optimizer."):
            state_name, _, path = name.removeprefix("optimizer.").partition(".")
            kept[state_name, path] = tensor
    return state, kept


def _rows(sources: list[_Source], ids: Sequence[int]) -> dict[str, Tensor]:
    """The rows of ``ids``, in their order, of every tensor; what is one number stays one."""
    held = [id_ for source in sources for id_ in source.members]
    place = {id_: row for row, id_ in enumerate(held)}
    missing = [id_ for id_ in ids if id_ not in place]
    if missing:
        raise ValueError(f"member {missing[0]} is not in it")
    names = list(sources[0].tensors)
    if any(list(source.tensors) != names for source in sources):
        raise ValueError("its files hold different tensors")
    if held == list(ids):
        order = None
    else:
        order = torch.tensor([place[id_] for id_ in ids], dtype=torch.int64)
    found = {}
    for name in names:
        parts = [source.tensors[name] for source in sources]
        if parts[0].dim() == 0:
            found[name] = parts[0]
            continue
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        found[name] = whole if order is None else whole.index_select(0, order)
    return found


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
