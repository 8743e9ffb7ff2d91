"""Data from a file, and files that are refused."""

import os
from pathlib import Path

import numpy
import pytest
import torch

from chimera.fit import load_npz


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    x = numpy.arange(40.0).reshape(20, 2)
    numpy.savez_compressed(tmp_path / "mine.npz", x=x, y=numpy.arange(20) % 4, z=numpy.zeros(1))
    data = load_npz(tmp_path / "mine.npz", split=(0.5, 0.25, 0.25), seed=1)
    assert (data.name, data.classes, len(data.train), data.seed) == ("mine.npz", 4, 10, 1)
    rows = torch.cat([data.train.x, data.validation.x, data.test.x]).sort(0).values
    assert torch.equal(rows, torch.from_numpy(x).float())


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.npz: no such file"):
        load_npz(tmp_path / "none.npz")


def test_a_folder_or_another_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no zip")
    for name in ("", "text.npz"):
        with pytest.raises(ValueError, match=r"not an \.npz file; numpy\.savez"):
            load_npz(tmp_path / name)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    numpy.savez(tmp_path / "mine.npz", x=numpy.zeros(3), labels=numpy.zeros(3))
    with pytest.raises(ValueError, match="expected the arrays x and y, got x, labels"):
        load_npz(tmp_path / "mine.npz")


class Trap:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    trap = numpy.array([Trap(tmp_path / "ran")], dtype=object)
    numpy.savez(tmp_path / "mine.npz", x=numpy.zeros(1), y=trap)
    with pytest.raises(ValueError, match="y holds Python objects"):
        load_npz(tmp_path / "mine.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("save", [numpy.savez, numpy.savez_compressed])
def test_a_damaged_file_is_told(tmp_path: Path, save: object) -> None:
    path = tmp_path / "mine.npz"
    save(path, x=numpy.arange(4000.0), y=numpy.arange(4000.0))  # type: ignore[operator]
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.npz: x cannot be read, the file is damaged"):
        load_npz(path)
