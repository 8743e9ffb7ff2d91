"""Files read with suspicion."""

from pathlib import Path

import pytest

from chimera.store import CheckpointError, read_json
from chimera.store.plain import read_plain, sha256_of


def test_json_comes_back(tmp_path: Path) -> None:
    (tmp_path / "f").write_text('{"a": [1, null]}')
    assert read_json(tmp_path / "f", 100) == {"a": [1, None]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no JSON"),
        ('{"a": 1, "a": 2}', "holds a name twice"),
        ('{"a": NaN}', "holds NaN"),
        ("[" * 100_000, "is no JSON"),
        ("\udcff", "is no JSON"),
        ("1" * 101, "101 bytes, expected at most 100"),
    ],
)
def test_what_is_no_strict_json_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "f").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match=said):
        read_json(tmp_path / "f", 100 if text == "1" * 101 else 1 << 20)


def test_a_device_is_not_opened() -> None:
    for name in ("/dev/zero", "/dev/tty"):
        with pytest.raises(CheckpointError, match="a device, expected a plain file"):
            read_plain(Path(name), 10)


def test_a_file_of_another_size_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "f", "wb") as file:
        file.truncate(1 << 40)  # sparse: reading it would take hours
    with pytest.raises(CheckpointError, match="1,099,511,627,776 bytes, expected 3"):
        sha256_of(tmp_path / "f", 3)
