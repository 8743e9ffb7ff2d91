"""Data that stays in its files: the same data as in memory, mapped."""

import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from numpy.lib.format import open_memmap
from torch import nn

import chimera as ch
from chimera.fit import Data, load_npz
from chimera.fit.mapped import Mapped, map_stored

DTYPES = ("<f4", ">f8", "f2", "u1", "<u2", "i8", "?")


def arrays(dtype: str, shape: tuple[int, ...] = (50, 3, 2)) -> tuple[Any, Any]:
    generator = numpy.random.default_rng(0)
    return generator.integers(0, 2, shape).astype(dtype), generator.integers(0, 3, shape[0])


def assert_same(mine: Data, memory: Data) -> None:
    assert mine.sha256() == memory.sha256()
    assert (mine.spec(), mine.features, mine.classes) == (
        memory.spec(),
        memory.features,
        memory.classes,
    )
    index = torch.tensor([3, 0, 3, 7])
    for name in ("train", "validation", "test"):
        part, other = getattr(mine, name), getattr(memory, name)
        assert isinstance(part.x, Mapped)
        assert torch.equal(part.x[2:5], other.x[2:5])
        assert torch.equal(part.x.index_select(0, index), other.x.index_select(0, index))
        assert torch.equal(part.y[:], other.y)
        assert torch.equal(part.y.index_select(0, index), other.y.index_select(0, index))
        assert isinstance(part.y, Mapped) == (mine.classes is None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fortran", [False, True])
def test_files_say_what_memory_says(dtype: str, fortran: bool, tmp_path: Path) -> None:
    x, y = arrays(dtype)
    x = numpy.asfortranarray(x) if fortran else x
    numpy.savez(tmp_path / "both.npz", odd=numpy.zeros(3, "u1"), x=x, y=y)
    numpy.save(tmp_path / "x.npy", x)
    numpy.save(tmp_path / "y.npy", y)
    memory = ch.data(x, y)
    pair = ch.data(tmp_path / "x.npy", str(tmp_path / "y.npy"))
    assert_same(load_npz(tmp_path / "both.npz"), memory)
    assert_same(ch.data(tmp_path / "both.npz"), memory)
    assert_same(pair, memory)
    assert pair.name == "x.npy,y.npy"
    assert_same(pair.to("cpu", torch.float64), memory.to("cpu", torch.float64))


@pytest.mark.parametrize("shape", [(50,), (50, 2, 3)])
def test_targets_of_a_regression_stay_in_their_file_too(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    x, _ = arrays("<f4")
    y = numpy.random.default_rng(1).normal(size=shape)
    numpy.savez(tmp_path / "both.npz", y=y, x=x)
    numpy.save(tmp_path / "x.npy", x)
    numpy.save(tmp_path / "y.npy", y)
    memory = ch.data(x, y)
    assert memory.classes is None
    assert_same(ch.data(tmp_path / "both.npz"), memory)
    assert_same(ch.data(tmp_path / "x.npy", tmp_path / "y.npy"), memory)


def test_what_is_compressed_is_read_as_a_whole(tmp_path: Path) -> None:
    x, y = arrays("<f4")
    numpy.savez_compressed(tmp_path / "both.npz", x=x, y=y)
    data = load_npz(tmp_path / "both.npz")
    assert isinstance(data.train.x, torch.Tensor)
    assert data.sha256() == ch.data(x, y).sha256()


def test_a_run_is_the_same_from_files_and_memory(tmp_path: Path) -> None:
    x = numpy.random.default_rng(0).normal(size=(80, 4))
    y = (x[:, 0] > 0).astype("i8")
    numpy.savez(tmp_path / "both.npz", x=x, y=y)
    nets = ch.instances(nn.Linear, 3, 4, 2, seed=0)
    results = [
        ch.fit(nets, data, epochs=2) for data in (load_npz(tmp_path / "both.npz"), ch.data(x, y))
    ]
    assert results[0].table == results[1].table
    assert results[0].epochs == results[1].epochs


def test_a_regression_is_the_same_from_files_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figure is put together some targets at a time: the same, and what all at once give."""
    x = numpy.random.default_rng(0).normal(size=(80, 4))
    y = numpy.stack([x.sum(1), numpy.ones(80), x[:, 0]], 1)
    numpy.savez(tmp_path / "both.npz", x=x, y=y)
    nets = ch.instances(nn.Linear, 3, 4, 3, seed=0)
    whole = ch.fit(nets, ch.data(x, y), epochs=2)
    monkeypatch.setattr(sys.modules[Mapped.__module__], "_NUMBERS", 15)
    mine, memory = (
        ch.fit(nets, data, epochs=2) for data in (load_npz(tmp_path / "both.npz"), ch.data(x, y))
    )
    assert mine.table == memory.table
    for row, other in zip(mine.table, whole.table, strict=True):
        assert row["test_r2"] == pytest.approx(other["test_r2"], rel=1e-12)
        assert row["test_loss"] == other["test_loss"]


def test_memory_does_not_hold_what_the_file_holds(tmp_path: Path) -> None:
    shape = (1 << 17, 256)
    open_memmap(tmp_path / "x.npy", "w+", "f8", shape).flush()  # 256 MiB, none of them written
    numpy.save(tmp_path / "y.npy", numpy.zeros(1 << 17, "i8"))
    before = _anonymous()
    data = ch.data(tmp_path / "x.npy", tmp_path / "y.npy")
    assert len(data.train.x[:10]) == 10
    assert (
        _anonymous() - before < 48 << 20
    )  # the file has 64 MiB, of which 16 are looked at together


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) << 10
    pytest.skip("the kernel does not tell")


def test_not_finite_numbers_are_named_with_their_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[Mapped.__module__], "_NUMBERS", 16)
    x, y = arrays("<f4", (50, 3))
    x[41, 1], x[44, 2] = numpy.nan, numpy.inf
    numpy.save(tmp_path / "x.npy", x)
    numpy.save(tmp_path / "y.npy", y)
    with pytest.raises(ValueError, match="x has NaN in row 41 and in 1 more rows"):
        ch.data(tmp_path / "x.npy", tmp_path / "y.npy")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    x, y = arrays("<f4")
    numpy.savez(tmp_path / "both.npz", x=x, y=y)
    content = bytearray((tmp_path / "both.npz").read_bytes())
    content[len(content) // 2 - 300] ^= 1
    (tmp_path / "both.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"both\.npz: . cannot be read, the file is damaged"):
        load_npz(tmp_path / "both.npz")
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY no")
    (tmp_path / "y.npy").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.npy: not an \.npy file"):
        ch.data(tmp_path / "x.npy", tmp_path / "y.npy")
    with pytest.raises(ValueError, match=r"none\.npy: no such file"):
        ch.data(tmp_path / "none.npy", tmp_path / "y.npy")


class Trap:
    def __reduce__(self) -> Any:
        return os.mkdir, ("trapped",)


def test_objects_are_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    numpy.save("x.npy", numpy.array([Trap()]), allow_pickle=True)
    numpy.save("y.npy", numpy.zeros(1))
    numpy.savez("both.npz", x=numpy.array([Trap()]), y=numpy.zeros(1))
    with pytest.raises(ValueError, match="npy"):
        ch.data("x.npy", "y.npy")
    with pytest.raises(ValueError, match="holds Python objects"):
        load_npz("both.npz")
    assert not Path("trapped").exists()


@pytest.mark.parametrize(("x", "y"), [("x.npy", None), ("x.npy", [1]), ("x.csv", "y.csv")])
def test_other_paths_are_refused(x: str, y: Any) -> None:
    with pytest.raises(ValueError, match=r"two \.npy files, or of one \.npz"):
        ch.data(x, y)


def test_a_header_that_claims_more_than_the_file(tmp_path: Path) -> None:
    numpy.save(tmp_path / "x.npy", numpy.zeros(4))
    content = (tmp_path / "x.npy").read_bytes().replace(b"(4,)", b"(9,)")
    with zipfile.ZipFile(tmp_path / "both.npz", "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", content)
    with pytest.raises(ValueError, match=r"both\.npz: y cannot be read"):
        load_npz(tmp_path / "both.npz")
    assert map_stored(tmp_path / "both.npz", "x") is None
