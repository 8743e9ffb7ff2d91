"""Files appear whole or not at all."""

import os
import resource
import stat
from pathlib import Path

import pytest

from chimera.store import is_leftover, staged, write_atomic


@pytest.fixture
def small_files():
    """A limit on the size of files: what a full disk looks like to a process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("data", ["naïve ☃\n", b"\x00\xff", "", "x" * 100_000])
def test_what_is_written_is_read(tmp_path: Path, data):
    path = tmp_path / "file"
    for _ in range(2):
        write_atomic(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert os.listdir(tmp_path) == ["file"]


def test_new_files_get_the_permissions_of_the_umask(tmp_path: Path):
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_full_disk_leaves_the_old_file_and_nothing_beside(tmp_path: Path, small_files):
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(OSError) as caught:
        write_atomic(path, b"x" * 10_000)
    assert "10,000 bytes needed" in caught.value.__notes__[0]
    assert str(path) in caught.value.__notes__[0]
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_an_exception_in_the_block_leaves_nothing(tmp_path: Path):
    def write_half() -> None:
        with staged(tmp_path / "file") as beside:
            beside.write_text("half")
            raise KeyError("planted")

    with pytest.raises(KeyError):
        write_half()
    assert os.listdir(tmp_path) == []


def test_what_is_beside_is_in_the_same_directory_and_known_as_a_leftover(tmp_path: Path):
    with staged(tmp_path / ("long" * 50)) as beside:
        beside.write_text("x")
        (name,) = os.listdir(tmp_path)
        assert is_leftover(name)
    assert not is_leftover("file.chimera-tmp")
    assert not is_leftover(".bashrc")


def test_only_plain_files_are_replaced(tmp_path: Path):
    target = tmp_path / "target"
    target.write_text("untouched")
    (tmp_path / "link").symlink_to(target)
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    for name, said in [
        ("link", "a symbolic link"),
        ("directory", "a directory"),
        ("pipe", "a pipe"),
    ]:
        with pytest.raises(ValueError, match=f"{name}' is {said}"):
            write_atomic(tmp_path / name, "x")
    with pytest.raises(ValueError, match="'/dev/null' is a device"):
        write_atomic("/dev/null", "x")
    assert sorted(os.listdir(tmp_path)) == before
    assert target.read_text() == "untouched"


def test_a_missing_directory_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"the directory .*nowhere does not exist"):
        write_atomic(tmp_path / "nowhere" / "file", "x")
