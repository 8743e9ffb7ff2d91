"""Numbered folders: whole or not there, and every fault in one is named."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from chimera.store import CheckpointError, Folders
from chimera.store.folders import MANIFEST, MARKER


def fill(folder: Path) -> None:
    (folder / "a").write_bytes(b"x" * 1000)
    (folder / "b").write_text("y")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = Folders(tmp_path / "all", "me")
    for number in (3, 20, 100):
        made.write(number, fill)
    return made


def test_folders_are_found_in_the_order_of_their_numbers(folders: Folders) -> None:
    assert folders.complete() == [3, 20, 100]
    assert folders.check(20) == folders.root / "20"
    assert sorted(os.listdir(folders.root / "20")) == ["a", "b", MARKER, MANIFEST]


def test_nothing_is_there_before_the_first(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "all", "me")
    assert folders.complete() == []
    folders.clean()
    assert not folders.root.exists()


def test_a_failure_leaves_the_others_and_nothing_beside(folders: Folders) -> None:
    def broken(folder: Path) -> None:
        fill(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space") as caught:
        folders.write(20, broken, needs=4321)
    assert "4,321 bytes needed and" in caught.value.__notes__[0]
    assert sorted(os.listdir(folders.root)) == ["100", "20", "3"]
    folders.check(20)


def test_pruning_keeps_what_is_named_and_removes_leftovers(folders: Folders) -> None:
    (folders.root / "7.tmp").mkdir()
    (folders.root / "8.old").mkdir()
    (folders.root / "9").mkdir()  # without its marker
    (folders.root / "mine").mkdir()
    (folders.root / "007").mkdir()
    folders.prune([100, 3])
    assert sorted(os.listdir(folders.root)) == ["007", "100", "3", "mine"]


def test_a_folder_put_aside_is_not_read_again(folders: Folders) -> None:
    assert folders.put_aside(100).name == "100.damaged"
    folders.write(100, fill)
    assert folders.put_aside(100).name == "100.damaged-2"
    assert folders.complete() == [3, 20]


def rewrite(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    said = json.loads(path.read_text())
    change(said)
    path.write_text(json.dumps(said))


def replaced_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_a_link(path: Path) -> None:
    twin = path.with_name("twin")
    path.rename(twin)
    path.symlink_to(twin)


def replaced_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["a", "b", MANIFEST, MARKER])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Path.unlink, "missing"),
        (replaced_by_a_pipe, "a pipe, expected a plain file"),
        (replaced_by_a_link, "a symbolic link, expected a plain file"),
        (replaced_by_a_directory, "a directory, expected a plain file"),
        (longer, ""),
        (shorter, ""),
    ],
)
def test_a_fault_in_a_file_names_the_file(
    folders: Folders, name: str, fault: Callable[[Path], None], said: str
) -> None:
    path = folders.root / "20" / name
    fault(path)
    with pytest.raises(CheckpointError) as caught:
        folders.check(20)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_manifest_that_grew_is_refused_before_it_is_read(folders: Folders) -> None:
    os.truncate(folders.path(20) / MANIFEST, 10**11)
    with pytest.raises(CheckpointError, match=r"manifest\.json: has 100,000,000,000 bytes"):
        folders.check(20)


def test_one_file_is_checked_without_the_others(folders: Folders) -> None:
    (folders.path(20) / "a").write_bytes(b"z" * 1000)
    folders.check_file(20, "b")
    with pytest.raises(CheckpointError, match=r"20/a: is damaged"):
        folders.check_file(20, "a")
    with pytest.raises(CheckpointError, match="does not list 'c'"):
        folders.check_file(20, "c")


def test_a_folder_of_another_number_or_owner_is_refused(folders: Folders) -> None:
    shutil.copytree(folders.root / "20", folders.root / "21")
    with pytest.raises(CheckpointError, match="is of folder 20 of the run 'me', expected 21"):
        folders.check(21)
    with pytest.raises(CheckpointError, match="expected 20 of 'you'"):
        Folders(folders.root, "you").check(20)


def test_a_file_of_another_folder_is_refused(folders: Folders) -> None:
    folders.write(20, lambda folder: (folder / "a").write_bytes(b"z" * 1000) and None)
    shutil.copy(folders.root / "3" / "a", folders.root / "20" / "a")
    with pytest.raises(CheckpointError, match="its content has changed"):
        folders.check(20)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "", "a\0b", MARKER])
def test_a_hostile_name_in_a_manifest_is_refused(folders: Folders, name: str) -> None:
    folder = folders.root / "20"

    def change(said: dict[str, object]) -> None:
        said["files"] = {name: {"bytes": 1, "sha256": "0" * 64}}

    rewrite(folder / MANIFEST, change)
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    (folder / MARKER).write_text(folders._marker(20, digest))
    with pytest.raises(CheckpointError, match="no file's name here|does not describe"):
        folders.check(20)


def test_a_number_that_is_a_link_is_refused(folders: Folders) -> None:
    folders.root.joinpath("20").rename(folders.root / "twin")
    (folders.root / "20").symlink_to(folders.root / "twin")
    with pytest.raises(CheckpointError, match="a symbolic link, expected a directory"):
        folders.check(20)
