"""A checkpoint's files: where a run stands, by member id.

``state.json``              the cursor (epoch, batch, step), counters, config, who broke down
``members-<k>.safetensors`` all tensors of some of the members, member first, with their ids

Each rank that trains writes one file of members, and rank 0 the state; whoever reads takes the
rows of the ids that it needs from the files that have them.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from chimera.fit.quarantine import Death
from chimera.fit.standing import Standing
from chimera.stack.assemble import assemble, rows
from chimera.stack.carry import GroupState
from chimera.stack.encoded import from_tree
from chimera.stack.members import runs
from chimera.store import CheckpointError, TensorFile, write_tensors
from chimera.store.plain import read_json

_FORMAT = 2
_STATE = "state.json"
_MOST = 1 << 30
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
_CURSOR = ("step", "epoch", "batch")


def write(folder: Path, standing: Standing) -> None:
    """Write where a run stands into an empty directory."""
    file = write_members(folder, standing, 0)
    write_state(folder, standing, [file], standing.deaths)


def write_state(
    folder: Path, standing: Standing, files: Sequence[str], deaths: Sequence[Death]
) -> None:
    """Write what is said of the whole run, whose members stand in ``files``."""
    state = {
        "format": _FORMAT,
        **{name: getattr(standing, name) for name in _CURSOR},
        "seconds": standing.seconds,
        "train_seconds": standing.train_seconds,
        "calls": list(standing.calls),
        "deaths": [dataclasses.asdict(death) for death in deaths],
        "files": list(files),
        "config": standing.config,
    }
    (folder / _STATE).write_text(json.dumps(state, allow_nan=False) + "\n")


def write_members(folder: Path, standing: Standing, number: int) -> str:
    """Write the members of ``standing`` as the file of a number; its name."""
    tensors = {"run.losses": standing.losses, "run.figures": standing.figures}
    described = []
    for g, (group, kept) in enumerate(zip(standing.groups, standing.optimizer, strict=True)):
        tensors |= {f"carried.{g}.{name}": tensor for name, tensor in group.tensors.items()}
        tensors |= {f"optimizer.{g}.{name}.{path}": tensor for (name, path), tensor in kept.items()}
        fields = {f.name: getattr(group, f.name) for f in dataclasses.fields(group)}
        described.append(fields | {"members": runs(group.members), "tensors": None})
    meta = {"members": runs(standing.members), "groups": described}
    name = f"members-{number}.safetensors"
    write_tensors(folder / name, tensors, meta, beside=False, hashed=False)
    return name


def read(
    folder: Path,
    groups: Sequence[Sequence[int]],
    members: Sequence[int],
    check: Callable[[str], None] | None = None,
) -> Standing:
    """Where a run stands, for some of its members.

    Args:
        folder: the checkpoint.
        groups: for each group of the stack that goes on, the ids of its members in order.
        members: the ids of all of them, in the stack's order.
        check: called with the name of each file before it is read, to raise CheckpointError where
            it is not what was written; None where the files were checked before.

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
        wanted = set(members)
        mine = [file for file in files if not wanted.isdisjoint(_held(file))]
        if check is not None:
            for file in mine:
                check(file.path.name)
        parts = [_sources(file) for file in mine]
        sources = [source for part in parts for source in part[1:]]
        whole = [part[0] for part in parts]
        found = [_group(sources, ids) for ids in groups]
        run = rows([part.members for part in whole], [part.tensors for part in whole], members)
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

    def of(self, kind: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``<kind>.``, under the rest of their names."""
        start = f"{kind}."
        return {
            name.removeprefix(start): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(start)
        }


def _member_file(folder: Path, name: Any) -> TensorFile:
    number = name.removeprefix("members-").removesuffix(".safetensors")
    if not number.isdecimal() or name != f"members-{number}.safetensors":
        raise ValueError(f"{name!r} is no file of members")
    return TensorFile(folder / name, hashed=False)


def _held(file: TensorFile) -> list[int]:
    """The ids of the members of a file, as many as it has rows."""
    described = file.meta["members"]
    if sum(_count(count) for _, _, count in described) != file.entries["run.losses"].shape[0]:
        raise ValueError(f"{file.path.name} does not say whose rows it holds")
    return _ids(described)


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
    lengths = {len(tensor) for tensor in tensors.values() if tensor.dim()}
    if lengths - {count} or count > most:
        raise ValueError(f"it has {sorted(lengths)} rows for {count} of {most} members")
    return _Source(_ids(said["members"]), tensors, said)


def _ids(described: Sequence[Sequence[int]]) -> list[int]:
    return [first + step * place for first, step, count in described for place in range(count)]


def _group(
    sources: list[_Source], ids: Sequence[int]
) -> tuple[GroupState, dict[tuple[str, str], Tensor]]:
    wanted = set(ids)
    mine = [source for source in sources if not wanted.isdisjoint(source.members)]
    state = assemble([_state(source) for source in mine], ids)
    held = rows([source.members for source in mine], [s.of("optimizer") for s in mine], ids)
    kept = {}
    for name, tensor in held.items():
        state_name, _, path = name.partition(".")
        kept[state_name, path] = tensor
    return state, kept


def _state(source: _Source) -> GroupState:
    said = source.said
    own = [(module, name, list(values)) for module, name, values in said["own"]]
    if any(len(values) != len(source.members) for _, _, values in own):
        raise ValueError("an attribute has not one value a member")
    for tree in (value for *_, values in own for value in values):
        from_tree(tree)
    for *_, tree in said["attributes"]:
        from_tree(tree)
    return GroupState(
        members=source.members,
        tensors=source.of("carried"),
        new=[(module, kind, name, lasts, row) for module, kind, name, lasts, row in said["new"]],
        attributes=[(module, name, value) for module, name, value in said["attributes"]],
        own=own,
        plans=dict(said["plans"]),
    )


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
