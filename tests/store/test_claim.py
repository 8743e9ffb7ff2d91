"""A run directory is new or empty, and writable."""

import os
from pathlib import Path

import pytest

from chimera.store import claim_empty


def test_a_new_directory_is_made_with_its_parents(tmp_path: Path):
    assert claim_empty(tmp_path / "runs" / "digits") == tmp_path / "runs" / "digits"
    assert os.listdir(tmp_path / "runs" / "digits") == []


def test_an_empty_directory_is_taken(tmp_path: Path):
    claim_empty(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_what_unfinished_writes_left_counts_as_nothing(tmp_path: Path):
    (tmp_path / ".config.json.0123456789abcdef.chimera-tmp").mkdir()
    claim_empty(tmp_path)


@pytest.mark.parametrize("name", ["config.json", ".hidden"])
def test_a_directory_that_holds_something_is_refused(tmp_path: Path, name: str):
    (tmp_path / name).write_text("x")
    with pytest.raises(ValueError, match=f"^out: .* is not empty \\(it holds {name}\\)"):
        claim_empty(tmp_path)
    assert os.listdir(tmp_path) == [name]


def test_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"^here: .* is a file, expected a new or an empty"):
        claim_empty(tmp_path / "file", argument="here")
    with pytest.raises(ValueError, match=r"^out: .* cannot be written to"):
        claim_empty(tmp_path / "file" / "below")


def test_a_dangling_link_is_refused(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"^out: .* cannot be written to"):
        claim_empty(tmp_path / "link")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_without_permission_is_refused(tmp_path: Path):
    tmp_path.chmod(0o555)
    with pytest.raises(ValueError, match=r"^out: .* cannot be written to"):
        claim_empty(tmp_path)


def test_a_place_where_nothing_can_be_made_is_refused():
    with pytest.raises(ValueError, match=r"^out: '/proc/run' cannot be written to"):
        claim_empty("/proc/run")
