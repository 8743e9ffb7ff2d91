"""The header of a safetensors file, read strictly.

The format: eight bytes (little endian) with the length of a JSON object, the object (name ->
dtype, shape, offsets; ``__metadata__`` -> strings), then the data
(https://github.com/huggingface/safetensors#format). The safetensors library accepts more than we
want to trust: a name twice, names that are paths. Here everything is checked against the size of
the file before a byte of data is read, so that no header makes us allocate more than the file has.
"""

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chimera.store.atomic import kind_of
from chimera.store.errors import CheckpointError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}
"""The dtypes of the format that a tensor of torch can have, by their names there."""

_LONGEST = 100_000_000


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its dtype and shape, as the header states them."""

    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds, found to agree with its size."""

    entries: dict[str, Entry]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of ``path``.

    Raises CheckpointError where the file is missing, no plain file, or no whole safetensors file.
    """
    try:
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            raise CheckpointError(f"{path}: is {kind_of(mode)}, expected a plain file")
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with open(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 10 or length < 2 or length > size - 8:
                raise CheckpointError(
                    f"{path}: is no whole safetensors file: its {size:,} bytes cannot hold the "
                    "header that it announces"
                )
            if length > _LONGEST:
                raise CheckpointError(
                    f"{path}: announces a header of {length:,} bytes, expected at most {_LONGEST:,}"
                )
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return _checked(path, _parsed(path, text), size - 8 - length)


def wrong_name(name: str) -> str | None:
    """Why no tensor of a module can be called ``name``, or None where one can."""
    if not name or not name.isprintable():
        return "is empty or holds characters that cannot be printed"
    if name == "__metadata__":
        return "is what the format calls its own table"
    if "" in name.split("."):
        return "has an empty part"
    return None


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise CheckpointError(f"{path}: names {twice[0]!r} twice in its header")
        return found

    try:
        parsed = json.loads(text.decode(), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is no safetensors file: its header is no JSON") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{path}: is no safetensors file: its header is no JSON object")
    return parsed


def _checked(path: Path, parsed: dict[str, Any], data: int) -> Header:
    metadata = parsed.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise CheckpointError(f"{path}: its metadata is no table of strings")
    entries: dict[str, Entry] = {}
    spans: list[tuple[int, int, str]] = []
    for name, stated in parsed.items():
        wrong = wrong_name(name)
        if wrong:
            raise CheckpointError(f"{path}: holds a tensor whose name {name[:80]!r} {wrong}")
        entry, span = _entry(path, name, stated)
        entries[name] = entry
        spans.append((*span, name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            raise CheckpointError(
                f"{path}: the data of {name!r} starts at byte {start:,}, expected {end:,}"
            )
        end = stop
    if end != data:
        raise CheckpointError(
            f"{path}: its header describes {end:,} bytes of data, the file holds {data:,}"
        )
    return Header(entries, metadata)


def _entry(path: Path, name: str, stated: Any) -> tuple[Entry, tuple[int, int]]:
    if not (isinstance(stated, dict) and set(stated) == {"dtype", "shape", "data_offsets"}):
        raise CheckpointError(f"{path}: does not describe {name!r} as the format says")
    dtype, shape, offsets = stated["dtype"], stated["shape"], stated["data_offsets"]
    if not (isinstance(dtype, str) and dtype in DTYPES):
        raise CheckpointError(f"{path}: {name!r} has the dtype {dtype!r}, which torch has not")
    if not (_sizes(shape) and _sizes(offsets) and len(offsets) == 2):
        raise CheckpointError(f"{path}: {name!r} has a shape or offsets that are no sizes")
    start, stop = offsets
    if stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise CheckpointError(
            f"{path}: {name!r} is said to hold {dtype} {shape} in {stop - start:,} bytes"
        )
    return Entry(DTYPES[dtype], tuple(shape)), (start, stop)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(size) is int and 0 <= size < 2**63 for size in value
    )
