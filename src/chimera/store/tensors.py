"""Files of tensors whose every bit is watched: safetensors, with digests beside the data.

A file carries, in the metadata of its header, a seal, the SHA-256 of all that the header says, and
then a JSON object of the caller's and a SHA-256 of each tensor. Tensors of a *row group* share
their leading axis and are hashed row by row instead, over all tensors of the group; the digests are
a tensor of the file, ``digests.<group>`` [rows, 32], so that one row can be read and trusted
without reading the others. Digests tell of damage, not of malice: whoever can write the file can
seal it.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from chimera.store.atomic import staged
from chimera.store.errors import CheckpointError
from chimera.store.header import DTYPES, Entry, read_header, wrong_name

_DISAGREES = "its record of groups and digests does not fit the tensors that it holds"
_METADATA, _STRING = b'"__metadata__":{', rb'"(?:[^"\\]|\\.)*"'
_PAIR = re.compile(rb"(%b:%b),?" % (_STRING, _STRING))
_WRITABLE = frozenset(DTYPES.values())


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    row_groups: Mapping[str, Sequence[str]] | None = None,
    *,
    beside: bool = True,
    hashed: bool = True,
) -> None:
    """Write ``tensors`` and ``meta`` to one file, whole or not at all.

    Args:
        path: the file; a plain file there is replaced.
        tensors: by name, on any device; complex128 and shared memory are stored as they look.
        meta: what JSON can say.
        row_groups: by label, names of tensors that share their leading axis.
        beside: write beside the path, flush and rename; without, straight to the path, for a
            directory that itself appears whole.
        hashed: with digests of the data; without, for a file whose directory lists its own.

    Raises:
        ValueError: a name, dtype or ``path`` that cannot be written.
        OSError: the disk refuses.
    """
    assert hashed or not row_groups
    groups = {label: list(names) for label, names in (row_groups or {}).items()}
    stored: dict[str, Tensor] = {}
    wide: list[str] = []
    for name, tensor in tensors.items():
        wrong = wrong_name(name)
        if wrong:
            raise ValueError(f"the tensor name {name!r} {wrong}")
        plain = tensor.detach()
        dense = plain.layout == torch.strided and not plain.is_nested
        if dense:
            plain = plain.resolve_conj().resolve_neg()
        if plain.dtype == torch.complex128:
            plain = torch.view_as_real(plain)
            wide.append(name)
        if plain.dtype not in _WRITABLE or not dense or plain.is_meta:
            raise ValueError(
                f"{name!r} is {plain.dtype}, {plain.layout}, on {plain.device}: a file holds dense "
                "tensors of torch's common dtypes that have values"
            )
        stored[name] = _packed(plain.cpu())
    stored = _apart(stored)
    in_rows = {name for names in groups.values() for name in names}
    for label, names in groups.items():
        assert f"digests.{label}" not in stored
        digests = _row_digests({name: stored[name] for name in names})
        stored[f"digests.{label}"] = torch.tensor(list(digests), dtype=torch.uint8).view(-1, 32)
    record = {
        "meta": dict(meta),
        "complex128": wide,
        "row_groups": groups,
        "sha256": {name: _digest(t) for name, t in stored.items() if name not in in_rows}
        if hashed
        else None,
    }
    text = json.dumps(record, allow_nan=False)
    entries = {name: Entry(t.dtype, tuple(t.shape)) for name, t in stored.items()}
    metadata = {"format": "pt", "chimera": f"{_seal(text, entries)} {text}"}
    needs = sum(t.numel() * t.dtype.itemsize for t in stored.values()) + len(text)
    with staged(path, needs=needs) if beside else nullcontext(Path(path)) as place:
        try:
            save_file(stored, place, metadata=metadata)
            _order(place)
        except SafetensorError as error:
            raise OSError(f"{path}: {error}") from error


class TensorFile:
    """A file of `write_tensors`, its header checked; tensors are read when asked for, and verified.

    Attributes: ``path``; ``meta``, as it was written; ``entries``, the tensors' dtypes and shapes
    by name; ``row_groups``, by label the names of the tensors that share a leading axis.

    Args:
        path: the file.
        hashed: whether it has to have digests; without, whoever reads it has checked its data.

    Raises CheckpointError, from here and from every method, where the file is not what was written.
    """

    def __init__(self, path: str | os.PathLike[str], *, hashed: bool = True) -> None:
        self.path = Path(path)
        header = read_header(self.path)
        if header.metadata.keys() != {"format", "chimera"} or header.metadata["format"] != "pt":
            raise CheckpointError(f"{self.path}: is a safetensors file that ch.save did not write")
        seal, _, text = header.metadata["chimera"].partition(" ")
        if seal != _seal(text, header.entries):
            raise CheckpointError(f"{self.path}: is damaged: its header does not match its seal")
        try:
            record = json.loads(text)
            self.meta: dict[str, Any] = dict(record["meta"])
            self.row_groups: dict[str, list[str]] = dict(record["row_groups"])
            self._wide = frozenset(record["complex128"])
            self._stored = header.entries
            if record["sha256"] is None and hashed:
                raise CheckpointError(
                    f"{self.path}: is a part of a checkpoint, whose digests are in the "
                    f"manifest.json beside it; expected a file of ch.save"
                )
            self._sha256: dict[str, str] = dict(record["sha256"] or {})
            agree = self._agrees() if record["sha256"] is not None else not self.row_groups
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise CheckpointError(f"{self.path}: {_DISAGREES}") from error
        if not agree:
            raise CheckpointError(f"{self.path}: {_DISAGREES}")
        self.entries = {
            name: Entry(torch.complex128, entry.shape[:-1]) if name in self._wide else entry
            for name, entry in header.entries.items()
            if name.removeprefix("digests.") not in self.row_groups
        }

    def read(self) -> dict[str, Tensor]:
        """Every tensor by name, in the order of their names in the file."""
        with self._open() as file:
            found = {name: _aligned(file.get_tensor(name)) for name in self._stored}
        for name, digest in self._sha256.items():
            if _digest(found[name]) != digest:
                raise CheckpointError(f"{self.path}: is damaged: the data of {name!r} has changed")
        for label, names in self.row_groups.items():
            digests = found.pop(f"digests.{label}")
            fresh = _row_digests({name: found[name] for name in names})
            for row, (old, new) in enumerate(zip(digests.tolist(), _each_32(fresh), strict=True)):
                if bytes(old) != new:
                    raise self._damaged_row(label, row)
        return {name: self._as_written(name, tensor) for name, tensor in found.items()}

    def read_row(self, label: str, row: int) -> dict[str, Tensor]:
        """Row ``row`` of every tensor of a row group, without reading the other rows."""
        names = self.row_groups[label]
        with self._open() as file:
            digest = file.get_slice(f"digests.{label}")[row : row + 1]
            found = {name: _aligned(file.get_slice(name)[row : row + 1]) for name in names}
        if bytes(digest.flatten().tolist()) != _row_digests(found, first=row):
            raise self._damaged_row(label, row)
        return {name: self._as_written(name, tensor)[0] for name, tensor in found.items()}

    def read_one(self, name: str) -> Tensor:
        """A tensor that stands in no row group; KeyError where there is none of this name."""
        digest = self._sha256[name]
        with self._open() as file:
            found = _aligned(file.get_tensor(name))
        if _digest(found) != digest:
            raise CheckpointError(f"{self.path}: is damaged: the data of {name!r} has changed")
        return self._as_written(name, found)

    def _agrees(self) -> bool:
        """Whether every tensor has its digest, by itself or in one row group of equal rows."""
        hashed = list(self._sha256)
        for label, names in self.row_groups.items():
            rows = self._stored[names[0]].shape[0]
            if any(self._stored[name].shape[:1] != (rows,) for name in names):
                return False
            if self._stored[f"digests.{label}"] != Entry(torch.uint8, (rows, 32)):
                return False
            hashed += names
        wide = all(
            self._stored[name].dtype == torch.float64 and self._stored[name].shape[-1] == 2
            for name in self._wide
        )
        return wide and sorted(hashed) == sorted(self._stored)

    def _open(self) -> Any:
        try:
            return safe_open(self.path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error}") from error

    def _as_written(self, name: str, tensor: Tensor) -> Tensor:
        return torch.view_as_complex(tensor) if name in self._wide else tensor

    def _damaged_row(self, label: str, row: int) -> CheckpointError:
        return CheckpointError(f"{self.path}: is damaged: row {row} of {label} has changed")


def _order(path: Path) -> None:
    """Let the same tensors make the same bytes: the library writes metadata in a random order."""
    with open(path, "r+b") as file:
        header = file.read(8 + int.from_bytes(file.read(8), "little"))
        start = header.index(_METADATA) + len(_METADATA)
        pairs, end = [], start
        while pair := _PAIR.match(header, end):
            pairs.append(pair[1])
            end = pair.end()
        file.seek(8 + start)
        file.write(b",".join(sorted(pairs)))


def _packed(tensor: Tensor) -> Tensor:
    """The same numbers, one behind the other; torch calls one number contiguous as it lies."""
    if tensor.numel() == 1:
        return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
    return tensor.contiguous()


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, none sharing memory with another (the library refuses those that do)."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def _aligned(tensor: Tensor) -> Tensor:
    """The same tensor at an address that suits every dtype.

    What the library maps lies where the file has it; torch crashes on a complex128 tensor whose
    address is no multiple of 16.
    """
    if tensor.data_ptr() % 16 == 0:
        return tensor
    return tensor.reshape(-1).view(torch.uint8).clone().view(tensor.dtype).reshape(tensor.shape)


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.contiguous().reshape(-1)
    data: Any = flat.view(torch.uint8).numpy()
    return memoryview(data)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(_bytes_of(tensor)).hexdigest()


def _row_digests(tensors: Mapping[str, Tensor], first: int = 0) -> bytes:
    """The SHA-256 of each row over all ``tensors``, one behind the other: [rows * 32]."""
    rows = len(next(iter(tensors.values())))
    assert all(len(tensor) == rows for tensor in tensors.values())
    data = [(name.encode(), _bytes_of(tensor)) for name, tensor in sorted(tensors.items())]
    digests = bytearray()
    for row in range(rows):
        digest = hashlib.sha256(str(first + row).encode())
        for name, content in data:
            width = len(content) // rows
            digest.update(b"\n" + name + b"\n")
            digest.update(content[row * width : (row + 1) * width])
        digests += digest.digest()
    return bytes(digests)


def _each_32(digests: bytes) -> list[bytes]:
    return [digests[start : start + 32] for start in range(0, len(digests), 32)]


def _seal(text: str, entries: Mapping[str, Entry]) -> str:
    said = {name: [str(entry.dtype), list(entry.shape)] for name, entry in entries.items()}
    return hashlib.sha256(json.dumps([text, said], sort_keys=True).encode()).hexdigest()
