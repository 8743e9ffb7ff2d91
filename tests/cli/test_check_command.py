"""``chimera check`` as a user types it."""

import json
import re
from pathlib import Path

import pytest

from chimera.cli import main

NETS = """
import torch
from torch import nn


class Clean(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.layer = nn.Linear(20, width)

    def forward(self, x):
        return self.layer(x)


class Lost(Clean):
    def __init__(self, width: int = 4):
        super().__init__(width)
        self.more = [nn.Linear(width, width)]

    def forward(self, x):
        for layer in self.more:
            x = layer(self.layer(x))
        return x


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 3)

    def forward(self, words, weights):
        return (self.table(words) * weights).sum()
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def test_a_clean_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets.py:Clean", "--input", "2,20"]) == 0
    assert capsys.readouterr().out == "nets.py:Clean: nothing found\n"


def test_lost_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets.py:Lost", "--input", "batch,20"]) == 1
    printed = capsys.readouterr().out
    assert "error [unregistered-module] at the root (nets.py:18)" in printed
    assert "nn.ModuleList" in printed
    assert re.search(r"^nets.py:Lost: \d+ errors?", printed, re.MULTILINE)
    assert max(map(len, printed.splitlines())) <= 80


def test_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "nets.py:Lost", "--input", "2,20", "--format", "json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    (finding,) = (found for found in findings if found["rule"] == "unregistered-module")
    assert (finding["severity"], finding["file"], finding["line"]) == ("error", "nets.py", 18)


def test_fail_on_never() -> None:
    assert main(["check", "nets.py:Lost", "--input", "2,20", "--fail-on", "never"]) == 0


def test_settings_and_several_inputs() -> None:
    assert main(["check", "nets.py:Clean", "--set", "width=9", "--input", "2,20"]) == 0
    assert main(["check", "nets.py:Embedded", "--input", "5:int64", "--input", "5,3"]) == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["none.py:Net", "--input", "2,20"], "there is no file none.py"),
        (["nets.py:Clean"], "--input requires an argument"),
        (["nets.py:Clean", "--input", "2x20"], "--input: expected sizes or names such as 2,20"),
        (["nets.py:Clean", "--input", "2,20:number"], "'number' is no dtype of torch"),
        (["nets.py:Clean", "--input", "2,20", "--set", "width=a"], "to be a whole number"),
        (["nets.py:Clean", "--input", "2,20", "--set", "width=-1"], "Clean cannot be made"),
        (["nets.py:Clean", "--input", "2,20", "--format", "xml"], 'Choose from: "text", "json"'),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert told in captured.err
    assert captured.err.count("\n") == 1
