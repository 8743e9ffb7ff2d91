"""JSON lines grow by whole lines."""

import json
import math
import resource
from pathlib import Path

import pytest

from chimera.store import JsonLines


def test_records_are_there_when_append_returns(tmp_path: Path):
    records = [{"epoch": i, "loss": [0.1 * i, 2.0]} for i in range(5)]
    with JsonLines(tmp_path / "m.jsonl") as lines:
        for count, record in enumerate(records, 1):
            lines.append(record)
            read = (tmp_path / "m.jsonl").read_text().splitlines()
            assert [json.loads(line) for line in read] == records[:count]


def test_a_second_opening_goes_on(tmp_path: Path):
    for i in range(2):
        with JsonLines(tmp_path / "m.jsonl") as lines:
            lines.append({"i": i})
    assert (tmp_path / "m.jsonl").read_text() == '{"i": 0}\n{"i": 1}\n'


@pytest.mark.parametrize("whole", ["", '{"i": 0}\n', '{"i": 0}\n{"i": 1}\n'])
@pytest.mark.parametrize("half", ["", '{"i', "x" * 200_000])
def test_a_half_line_is_cut_when_opened(tmp_path: Path, whole: str, half: str):
    path = tmp_path / "m.jsonl"
    path.write_text(whole + half)
    JsonLines(path).close()
    assert path.read_text() == whole


def test_numbers_that_json_has_not_become_null(tmp_path: Path):
    with JsonLines(tmp_path / "m.jsonl") as lines:
        lines.append({"loss": [1.5, math.nan, -math.inf], "deep": {"a": (math.inf,)}})
    line = (tmp_path / "m.jsonl").read_text()
    assert json.loads(line) == {"loss": [1.5, None, None], "deep": {"a": [None]}}


def test_what_json_cannot_say_leaves_no_trace(tmp_path: Path):
    with JsonLines(tmp_path / "m.jsonl") as lines:
        lines.append({"i": 0})
        with pytest.raises(TypeError):
            lines.append({"i": object()})
    assert (tmp_path / "m.jsonl").read_text() == '{"i": 0}\n'


def test_a_full_disk_leaves_whole_lines(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with JsonLines(tmp_path / "m.jsonl") as lines:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            lines.append({"text": "x" * 3000})
            with pytest.raises(OSError):
                lines.append({"text": "y" * 3000})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (line,) = (tmp_path / "m.jsonl").read_text().splitlines()
    assert json.loads(line)["text"] == "x" * 3000


def test_what_is_no_plain_file_is_refused(tmp_path: Path):
    (tmp_path / "link").symlink_to(tmp_path / "m.jsonl")
    for path in (tmp_path, tmp_path / "link", tmp_path / "nowhere" / "m.jsonl"):
        with pytest.raises(ValueError, match="path: "):
            JsonLines(path)
