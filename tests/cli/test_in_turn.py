"""Several values of one argument, for the members in turn."""

import ast
import csv
import json
from pathlib import Path

import pytest
import safetensors.torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chimera.cli import main
from chimera.cli.in_turn import InTurn, of_member, parts_of

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden: int, dropout: float = 0.0, activation: str = "relu",
                 sizes: tuple = (), lr: float = 0.0):
        super().__init__()
        self.first = nn.LazyLinear(hidden)
        self.dropout = nn.Dropout(dropout)
        self.activation = getattr(torch, activation)
        self.last = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.last(self.dropout(self.activation(self.first(x))))
"""


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1", ["1"]),
        ("1,2", ["1", "2"]),
        ("(1,2)", ["(1,2)"]),
        ("(1,2),[3,{4:5,6:7}]", ["(1,2)", "[3,{4:5,6:7}]"]),
        ("relu,tanh", ["relu", "tanh"]),
        ("'a,b',c", ["'a,b'", "c"]),
        (r"'a\',b',c", [r"'a\',b'", "c"]),
        ("don't,1", ["don't,1"]),
        ("(1,2", ["(1,2"]),
        ("", [""]),
    ],
)
def test_commas_part_values_outside_of_brackets_and_quotes(text: str, parts: list[str]) -> None:
    assert parts_of(text) == parts


@given(st.lists(st.recursive(st.integers() | st.text(), st.lists), min_size=1, max_size=4))
@settings(deadline=None, max_examples=50)
@example(values=[[], "\\"])
@example(values=["\\'", 'a","b'])
def test_values_written_as_python_come_back(values: list[object]) -> None:
    parts = parts_of(",".join(map(repr, values)))
    assert [ast.literal_eval(part) for part in parts] == values


def test_members_get_values_in_turn() -> None:
    arguments = {"a": InTurn((1, 2)), "b": InTurn(("x", "y", "z")), "c": 7}
    assert [tuple(of_member(arguments, i).values()) for i in range(4)] == [
        (1, "x", 7), (2, "y", 7), (1, "z", 7), (2, "x", 7)
    ]  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


JOB = ["fit", "digits", "--module", "nets.py:Net", "--members", "6", "--epochs", "1"]


def test_members_of_different_sizes_in_one_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["--set", "hidden=16,24", "--set", "dropout=0.1,0.2,0.5", "--set", "sizes=(1,2)"]
    assert main([*JOB, *sets, "--out", "run", "--compare-loop", "3"]) == 0
    said = capsys.readouterr().out
    assert "Net(hidden=16/24, dropout=0.1/0.2/0.5, sizes=(1, 2)) on digits" in said
    assert " agree: worst" in said
    assert all(len(line) <= 80 for line in said.splitlines())
    with (here / "run" / "members.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["hidden"] for row in rows] == ["16", "24"] * 3
    assert [row["dropout"] for row in rows] == ["0.1", "0.2", "0.5"] * 2
    assert [row["group"] for row in rows] == ["0", "1"] * 3
    best = next(
        line.split() for line in said.splitlines() if line.strip().startswith(tuple("012345"))
    )
    assert best[2:4] == [rows[int(best[0])]["hidden"], rows[int(best[0])]["dropout"]]
    weights = safetensors.torch.load_file(here / "run" / "members.safetensors")
    assert weights["groups.0.first.weight"].shape == (3, 16, 64)
    assert weights["groups.1.first.weight"].shape == (3, 24, 64)
    config = json.loads((here / "run" / "config.json").read_text())
    assert config["arguments"]["hidden"] == {"in turn": [16, 24]}
    assert config["arguments"]["sizes"] == [1, 2]


def test_dropout_alone_keeps_one_group(here: Path) -> None:
    sets = ["--set", "hidden=16", "--set", "dropout=0.1,0.2"]
    assert main([*JOB, *sets, "--out", "run"]) == 0
    with (here / "run" / "members.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["group"] for row in rows] == ["0"] * 6
    assert [row["dropout"] for row in rows] == ["0.1", "0.2"] * 3


def test_a_member_is_the_one_of_a_run_with_its_value_alone(here: Path) -> None:
    """In float32 the first epoch's figures are close; another value would be far."""
    for name, hidden in (("mixed", "16,24"), ("alone", "24")):
        assert main([*JOB, "--set", f"hidden={hidden}", "--lr", "0.003", "--out", name]) == 0
    tables = []
    for name in ("mixed", "alone"):
        with (here / name / "members.csv").open() as file:
            tables.append([float(row["train_loss"]) for row in csv.DictReader(file)])
    mixed, alone = tables
    assert mixed[1::2] == pytest.approx(alone[1::2], rel=1e-3)
    assert mixed[0::2] != pytest.approx(alone[0::2], rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("hidden=1,2,3,4,5,6,7", "--set hidden: 7 values for 6 members"),
        ("hidden=16,wide", "--set hidden=wide: Net expects hidden to be a whole number"),
        ("hidden=16,", "expected a value between commas"),
    ],
)
def test_mistakes(
    here: Path, capsys: pytest.CaptureFixture[str], setting: str, message: str
) -> None:
    assert main([*JOB, "--set", setting, "--out", "run"]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "run").exists() or not list((here / "run").iterdir())


def test_a_column_that_the_table_has(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*JOB, "--set", "hidden=16", "--set", "lr=0.1,0.2", "--out", "run"]) == 2
    assert "the table has a column lr of its own" in capsys.readouterr().err
