"""Samples that stay in their file: mapped into memory, which the processes of a machine share.

Rows are read when they are asked for, and become tensors of the dtype that data in memory would
have. Nothing in a file is run: objects are refused.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

_NUMBERS = 1 << 20
"""How many are looked at together when all of an array is."""
_BLOCK = 1 << 22


class Mapped:
    """Rows of an array in a file, as a tensor ``[rows, ...]`` of which parts are taken.

    Args:
        array: ``[samples, ...]`` of real numbers, mapped.
        rows: which samples, in order, int64 ``[rows]``; all unless given.
        device: where taken rows go.
        dtype: what they are there; as data in memory would be unless given.
    """

    def __init__(
        self,
        array: numpy.ndarray,
        rows: Tensor | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._array = array
        self._rows = torch.arange(len(array)) if rows is None else rows
        self.device = torch.device("cpu") if device is None else device
        self.dtype = as_tensor(array[:0]).dtype if dtype is None else dtype

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self._rows), *self._array.shape[1:]))

    def __len__(self) -> int:
        return len(self._rows)

    def dim(self) -> int:
        return self._array.ndim

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def __getitem__(self, part: slice) -> Tensor:
        """Some rows, side by side."""
        return self._read(self._rows[part])

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The rows of ``index`` ``[k]``; ``dim`` is 0."""
        assert dim == 0
        return self._read(self._rows[index.cpu()])

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> Mapped:
        """The same rows, to be taken to ``device`` as ``dtype``."""
        return Mapped(self._array, self._rows, device, dtype or self.dtype)

    def take(self, rows: Tensor) -> Mapped:
        """Some of the rows, still in the file; ``rows`` int64 ``[k]``."""
        return Mapped(self._array, self._rows[rows], self.device, self.dtype)

    def _read(self, rows: Tensor) -> Tensor:
        return as_tensor(self._array[rows.numpy()]).to(self.device, self.dtype)


def pieces(samples: Tensor | Mapped) -> Iterator[Tensor]:
    """All rows, some at a time: as many from a file as from memory."""
    step = max(1, _NUMBERS // max(1, math.prod(samples.shape[1:])))
    for start in range(0, len(samples), step):
        yield samples[start : start + step]


def in_file(argument: str, array: numpy.ndarray) -> Mapped | numpy.ndarray:
    """An array that was mapped as it is to be held: rows in the file, or a copy of class numbers.

    Raises TypeError where ``array`` does not hold real numbers.
    """
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{argument} must hold real numbers, got an array of {array.dtype}")
    whole = argument == "y" and array.dtype.kind != "f"
    if whole or not array.ndim or not isinstance(array, numpy.memmap):
        return numpy.asarray(array)
    return Mapped(array)


def as_tensor(array: numpy.ndarray) -> Tensor:
    """A copy of an array of real numbers: floats as torch's default dtype, whole numbers exact."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(numpy.int64)
    native = array.astype(array.dtype.newbyteorder("="), copy=True, order="C")
    tensor = torch.from_numpy(numpy.asarray(native))
    return tensor.to(torch.get_default_dtype()) if tensor.is_floating_point() else tensor


def map_npy(path: Path) -> numpy.ndarray:
    """The array of an ``.npy`` file, mapped.

    Raises ValueError where it is none, is damaged, or holds what is no number.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    try:
        if not path.is_file():
            raise ValueError("it is no plain file")
        array = numpy.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(
            f"{path}: not an .npy file of numbers: {error}; numpy.save(path, x) writes one"
        ) from error
    if not isinstance(array, numpy.ndarray):
        raise ValueError(f"{path}: not an .npy file; numpy.save(path, x) writes one")
    return array


def map_stored(path: Path, name: str) -> numpy.ndarray | None:
    """The array ``name`` of an ``.npz`` file, mapped; None where it does not lie there as it is.

    Raises:
        ValueError, OSError, EOFError, zipfile.BadZipFile: the file is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            return None
        with archive.open(info) as content:
            version = numpy.lib.format.read_magic(content)
            read: Any = getattr(numpy.lib.format, f"read_array_header_{version[0]}_0", None)
            if read is None:  # a header that numpy reads in a way of its own
                return None
            shape, fortran, dtype = read(content)
            header = content.tell()
            while content.read(_BLOCK):  # to the end, where the sum of all is compared
                pass
    size = math.prod(shape)
    if dtype.hasobject or not size or header + size * dtype.itemsize != info.file_size:
        return None
    with open(path, "rb") as file:
        file.seek(info.header_offset)
        local = file.read(30)
    names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    start = info.header_offset + 30 + names + header
    order: Any = "F" if fortran else "C"
    return numpy.memmap(path, dtype, "r", start, shape, order)
