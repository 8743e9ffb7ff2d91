"""``chimera summary`` as a user types it."""

import json
from pathlib import Path

import pytest

from chimera.cli import main

NETS = """
from torch import nn


class Net(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.first = nn.LazyLinear(width)
        self.last = nn.Linear(width, 3)

    def forward(self, x):
        return self.last(self.first(x).relu())


class Needs(nn.Module):
    def __init__(self, width):
        super().__init__()


class Broken(Net):
    def __init__(self):
        super().__init__()
        raise RuntimeError("no luck")


class Stray(Net):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(20, 20)]

    def forward(self, x):
        return super().forward(self.layers[0](x))


class Nothing:
    pass
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "bad.py").write_text("import there_is_no_such_thing\n")
    return tmp_path


def test_a_tree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "nets.py:Net", "--input", "2,20", "--set", "width=16"]) == 0
    printed = capsys.readouterr().out
    assert "├─ first Linear  2×20 → 2×16" in printed  # noqa: RUF001
    assert "parameters     387 (1.51 KiB)" in printed
    assert "time" not in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_json_and_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "nets.py:Net", "--input", "batch,20", "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["parameters"] == 195
    assert data["root"]["output"] == [{"shape": ["batch", 3], "dtype": "float32"}]
    assert main(["summary", "nets.py:Net", "--input", "2,20", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("| module | input | output |")


def test_a_page_and_times(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    assert (
        main(["summary", "nets.py:Net", "--input", "2,20", "--html", "out.html", "--measure"]) == 0
    )
    printed = capsys.readouterr().out
    assert printed.endswith("Written to out.html\n")
    assert "ms forward" in printed
    assert "<title>Net</title>" in (here / "out.html").read_text()


def test_without_findings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "nets.py:Stray", "--input", "2,20"]) == 0
    assert "[unregistered-module]" in capsys.readouterr().out
    assert main(["summary", "nets.py:Stray", "--input", "2,20", "--no-check"]) == 0
    assert "unregistered" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["none.py:Net", "--input", "2,20"], "there is no file none.py"),
        (["bad.py:Net", "--input", "2,20"], "bad.py does not import: line 1: ModuleNotFoundError"),
        (["nets.py:Nothing", "--input", "2,20"], "expected a subclass of torch.nn.Module"),
        (["nets.py:Needs", "--input", "2,20"], "Needs needs width: give --set width=VALUE"),
        (["nets.py:Broken", "--input", "2,20"], "nets.py:Broken cannot be made"),
        (["nets.py:Net", "--input", "2x20"], "--input: expected sizes or names such as 2,20"),
        (["nets.py:Net"], "--input requires an argument"),
        (
            ["nets.py:Net", "--input", "2,20", "--input", "2,20"],
            "nets.py:Net does not run on --input 2,20 --input 2,20",
        ),
        (["nets.py:Net", "--input", "2,20", "--html", "no/such.html"], "the directory no does not"),
        (["nets.py:Net", "--input", "2,20", "--html", "."], "--html: . is a directory"),
        (["nets.py:Net", "--input", f"{2**63},20"], "axis 0 must be below 2**63"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["summary", *options]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
