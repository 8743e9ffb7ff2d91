"""Compressed arrays that the ranks of a machine share: written out once, mapped, then removed."""

import os
from pathlib import Path
from typing import Any

import numpy
import pytest

import chimera as ch

LOAD = """
from chimera.fit.mapped import Mapped
data = ch.data(PATH)
held = {line.split()[4]  # the file's inode
        for line in open("/proc/self/maps") if "chimera-" in line and ".npy" in line}
with open(f"{FOLDER}/{RANK}.json", "w") as file:
    json.dump([data.sha256(), isinstance(data.train.x, Mapped), isinstance(data.train.y, Mapped),
               sorted(held)], file)
"""


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, str]:
    """A compressed archive, and the hash of its data in memory."""
    generator = numpy.random.default_rng(0)
    x, y = generator.normal(size=(300, 5)), generator.normal(size=(300, 2))
    numpy.savez_compressed(tmp_path / "both.npz", x=x, y=y)
    return tmp_path / "both.npz", ch.data(x, y).sha256()


def here(tmp_path: Path, size: int) -> dict[str, str]:
    (tmp_path / "temporary").mkdir()
    return {"LOCAL_WORLD_SIZE": str(size), "TMPDIR": str(tmp_path / "temporary")}


def left(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "temporary").rglob("*") if not path.is_dir()]


def test_ranks_map_one_file_which_is_gone_afterwards(
    ranks: Any, place: tuple[Path, str], tmp_path: Path
) -> None:
    path, digest = place
    ended = ranks.run(f"PATH = {str(path)!r}\n{LOAD}", 3, env=here(tmp_path, 3))
    assert ended.codes == [0, 0, 0], ended.err
    first, *others = ended.said
    assert first[:3] == [digest, True, True]
    assert len(first[3]) == 2  # x and y
    assert others == [first, first]
    assert left(tmp_path) == []


def test_a_rank_that_comes_again_writes_it_out_again(
    ranks: Any, place: tuple[Path, str], tmp_path: Path
) -> None:
    path, digest = place
    again = "for _ in range(3):\n    assert ch.data(PATH).sha256() == DIGEST\n"
    code = f"PATH, DIGEST = {str(path)!r}, {digest!r}\n{again}{LOAD}"
    ended = ranks.run(code, 2, env=here(tmp_path, 2))
    assert ended.codes == [0, 0], ended.err
    assert [said[:3] for said in ended.said] == [[digest, True, True]] * 2


def test_one_process_alone_reads_what_is_compressed(place: tuple[Path, str]) -> None:
    data = ch.data(place[0])
    assert type(data.train.x).__name__ == "Tensor"
    assert data.sha256() == place[1]


def test_a_damaged_archive_is_told_and_leaves_nothing(
    ranks: Any, place: tuple[Path, str], tmp_path: Path
) -> None:
    path, _ = place
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)
    ended = ranks.run(f"PATH = {str(path)!r}\n{LOAD}", 2, env=here(tmp_path, 2))
    assert ended.codes == [1, 1]
    assert all("both.npz: " in err and "the file is damaged" in err for err in ended.err)
    assert left(tmp_path) == []


def test_a_full_disk_is_said_with_what_was_needed(
    ranks: Any, place: tuple[Path, str], tmp_path: Path
) -> None:
    path, _ = place
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    ended = ranks.run(f"{limit}PATH = {str(path)!r}\n{LOAD}", 2, env=here(tmp_path, 2))
    assert ended.codes == [1, 1]
    for err in ended.err:
        assert "OSError: [Errno 27] File too large" in err
        assert "bytes needed and" in err
    assert left(tmp_path) == []


@pytest.mark.parametrize("kind", ["link", "open to all"])
def test_a_folder_that_another_could_write_to_is_refused(
    kind: str, place: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"chimera-{os.getuid()}"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(PermissionError, match="no folder that you alone can write to") as caught:
        ch.data(place[0])
    assert "TMPDIR" in caught.value.__notes__[0]
