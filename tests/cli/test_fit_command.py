"""``chimera fit`` as a user types it: the main job on real data, and every wrong thing at it."""

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

from chimera.cli import main

QUICK = ["--members", "3", "--epochs", "2"]
NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, hidden: int, dropout: float = 0.0, outputs: int = 10):
        super().__init__()
        if hidden > 10_000:
            raise ValueError("hidden is too large")
        self.first = nn.LazyLinear(hidden)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.last(self.dropout(torch.relu(self.first(x))))


class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 10)

    def forward(self, x):
        return self.layer(x)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def save(name: str, **arrays: object) -> None:
    numpy.savez(name, **arrays)  # type: ignore[arg-type]


def rows_of(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "members.csv").read_text().splitlines()))


@pytest.mark.parametrize("option", ["--out", "--resume"])
def test_an_empty_directory_name_is_told(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = [] if option == "--resume" else ["digits", "--module", "mlp", *QUICK]
    assert main(["fit", *given, option, ""]) == 2
    assert "out is empty, expected the path of a directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["nets.py"]


def test_any_whole_number_is_a_seed(capsys):
    tables = []
    for seed in ("-1", "1", "-1"):
        assert main(["fit", "digits", "--module", "mlp", "--seed", seed, *QUICK]) == 0
        tables.append(capsys.readouterr().out.split("Test accuracy")[0])
    assert tables[0] == tables[2] != tables[1]


def test_the_main_job(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "digits", "--module", "mlp", *QUICK, "--out", "runs/digits"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert max(map(len, lines)) <= 80
    title = "3 members of mlp() on digits (1078 train, 360 validation, 359 test samples)"
    assert lines[0] == title
    folder = here / "runs/digits"
    assert sorted(file.name for file in folder.iterdir()) == [
        "checkpoints",
        "config.json",
        "environment.json",
        "members.csv",
        "members.safetensors",
        "metrics.jsonl",
    ]
    members = rows_of(folder)
    assert len(members) == 3
    best = max(members, key=lambda row: float(row["validation_accuracy"]))
    (said,) = (line for line in lines if "best member by validation" in line)
    assert f"({best['member']})" in said
    assert float(said.split()[-1]) == pytest.approx(float(best["test_accuracy"]), abs=1e-4)
    figures = sorted(float(row["test_accuracy"]) for row in members)
    (said,) = (line for line in lines if "median member" in line)
    assert float(said.split()[-1]) == pytest.approx(figures[1], abs=1e-4)
    assert any("ensemble of 3: averaged probabilities" in line for line in lines)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    rates = {float(row["lr"]) for row in members}
    assert len(rates) == 3
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)


def test_a_class_of_the_user_s_with_settings(here: Path) -> None:
    options = ["--set", "hidden=8", "--set", "dropout=0.1", "--lr", "0.01", "--out", "run"]
    assert main(["fit", "digits", "--module", "nets.py:Net", *options, *QUICK]) == 0
    config = json.loads((here / "run/config.json").read_text())
    assert config["module"] == "nets.py:Net"
    assert config["arguments"] == {"hidden": 8, "dropout": 0.1}
    assert re.fullmatch("[0-9a-f]{64}", config["module_sha256"])
    members = rows_of(here / "run")
    assert {float(row["lr"]) for row in members} == {0.01}


def test_the_options_reach_the_run(here: Path) -> None:
    options = ["--seed", "7", "--epochs", "3", "--batch-size", "100", "--members", "2"]
    options += ["--device", "cpu", "--lr", "1e-3:1e-2", "--out", "run"]
    assert main(["fit", "digits", "--module", "mlp", *options]) == 0
    config = json.loads((here / "run/config.json").read_text())
    assert {key: config[key] for key in ("seed", "epochs", "batch_size", "members", "lr")} == {
        "seed": 7,
        "epochs": 3,
        "batch_size": 100,
        "members": 2,
        "lr": "1e-3:1e-2",
    }
    assert json.loads((here / "run/environment.json").read_text())["device"] == "cpu"


def test_a_seed_gives_the_same_run_and_another_seed_another(here: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        options = ["--seed", seed, "--out", name, *QUICK]
        assert main(["fit", "digits", "--module", "mlp", *options]) == 0
    tables = [(here / name / "members.csv").read_text() for name in "abc"]
    assert tables[0] == tables[1] != tables[2]


def test_own_data_of_classes_and_of_a_regression(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = numpy.random.default_rng(0)
    x = generator.normal(size=(60, 4)).astype(numpy.float32)
    save("classes.npz", x=x, y=(x[:, 0] > 0).astype(numpy.int64))
    save("numbers.npz", x=x, y=x @ numpy.ones((4, 2), numpy.float32))
    for name, said in (("classes", "averaged probabilities"), ("numbers", "averaged outputs")):
        assert main(["fit", f"{name}.npz", "--module", "mlp", *QUICK]) == 0
        assert said in capsys.readouterr().out


def test_members_trained_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "digits", "--module", "mlp", *QUICK, "--compare-loop", "2"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"in the stack +[\d.]+ m?s\n +one by one +[\d.]+ m?s, \d+\.\d times", printed)
    said = " ".join(printed.split())
    assert "2 of 3 members trained one by one with torch.optim.AdamW" in said
    assert "In float64 the two agree" in said


MISTAKES = [
    (["digits", "--module", "mpl"], "--module: expected a Python file as in file.py:name"),
    (["digits", "--module", "none.py:Net"], "--module: there is no file none.py"),
    (
        ["digits", "--module", "nets.py:Other"],
        "nets.py has no class or function Other; it defines Narrow, Net",
    ),
    (["digits", "--module", "nets.py"], "given without a name; it defines Narrow, Net"),
    (["digits", "--module", "nets.py:nn"], "nets.py:nn is of type module, expected a subclass"),
    (["digits", "--module", "nets.py:Net"], "Net needs hidden: give --set hidden=VALUE"),
    (["digits", "--module", "mlp", "--set", "width=3"], "mlp has no such argument; expected one"),
    (["digits", "--module", "mlp", "--set", "features=3"], "mlp has no such argument"),
    (["digits", "--module", "mlp", "--set", "hidden"], "expected key=value"),
    (["digits", "--module", "mlp", "--set", "hidden=big"], "to be a whole number, got 'big'"),
    (["digits", "--module", "mlp", "--set", "hidden=-1"], "hidden must be at least 1, got -1"),
    (
        ["digits", "--module", "nets.py:Net", "--set", "hidden=20000"],
        "Net(hidden=20000) cannot be made for digits: {here}/nets.py, line 10, in __init__: "
        "ValueError: hidden is too large",
    ),
    (["digits", "--module", "nets.py:Narrow"], "20"),
    (["digits", "--module", "nets.py:Net", "--set", "hidden=4", "--set", "outputs=3"], "10"),
    (["digits", "--module", "mlp", "--lr", "fast"], "--lr: expected a number above 0 or a range"),
    (["digits", "--module", "mlp", "--compare-loop", "9"], "at most the 3 members, got 9"),
    (["digits", "--module", "mlp", "--batch-size", "5000"], "batch_size"),
    (["digits", "--module", "mlp", "--device", "abacus"], "abacus"),
    (["letters", "--module", "mlp"], "DATA: expected digits, an .npz file"),
    (["none.npz", "--module", "mlp"], "none.npz: no such file"),
    (["text.npz", "--module", "mlp"], "text.npz: not an .npz file"),
    (["only_x.npz", "--module", "mlp"], "only_x.npz: expected the arrays x and y, got x"),
    (["lengths.npz", "--module", "mlp"], "x and y must have the same length, got 30 and 20"),
    (["holes.npz", "--module", "mlp"], "x has NaN in row 3"),
    (["objects.npz", "--module", "mlp"], "y holds Python objects"),
]


@pytest.mark.parametrize(
    ("options", "told"), MISTAKES, ids=[" ".join(options) for options, _ in MISTAKES]
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    options: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = numpy.zeros((30, 4), numpy.float32), numpy.arange(30) % 3
    holes = x.copy()
    holes[3] = numpy.nan
    save("only_x.npz", x=x)
    save("lengths.npz", x=x, y=y[:20])
    save("holes.npz", x=holes, y=y)
    save("objects.npz", x=x, y=numpy.array([{}] * 30))
    Path("text.npz").write_text("x,y")
    before = sorted(here.iterdir())
    assert main(["fit", *options, *QUICK, "--out", "run"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("chimera: ")
    assert captured.err.count("\n") == 1
    assert told.format(here=here) in captured.err
    assert [file for file in sorted(here.iterdir()) if file.name != "__pycache__"] == before


@pytest.mark.parametrize("kind", ["not empty", "a file"])
def test_an_out_that_is_taken_is_refused_before_training(
    kind: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "a file":
        Path("run").write_text("mine")
    else:
        Path("run").mkdir()
        Path("run/mine").write_text("mine")
    options = ["--members", "3", "--epochs", "2000", "--engine", "eager", "--out", "run"]
    assert main(["fit", "digits", "--module", "mlp", *options]) == 2
    assert f"'run' is {kind}" in capsys.readouterr().err
    assert Path("run" if kind == "a file" else "run/mine").read_text() == "mine"


def test_without_scikit_learn_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert main(["fit", "digits", "--module", "mlp"]) == 2
    told = capsys.readouterr().err
    assert "chimera-nn[data]" in told
    assert told.count("\n") == 1


def test_an_error_in_the_user_s_forward_names_its_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("odd.py").write_text(
        "from torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        if self.training and len(x) < 32:\n"
        "            raise RuntimeError('the last batch is short')\n"
        "        return self.layer(x)\n"
    )
    assert main(["fit", "digits", "--module", "odd.py:Odd", *QUICK]) in (1, 2)
    told = capsys.readouterr().err
    assert f"{here}/odd.py, line 8, in forward: RuntimeError: the last batch is short" in told
    assert "Traceback" not in told


def wait_for(file: Path, process: "subprocess.Popen[bytes]") -> None:
    """Until ``file`` holds a line; a process that ends before has failed."""
    while not (file.exists() and "\n" in file.read_text()):
        assert process.poll() is None, "the run ended before its first epoch"
        time.sleep(0.02)


def test_ctrl_c_is_one_line_and_130(here: Path) -> None:
    command = [sys.executable, "-m", "chimera", "fit", "digits", "--module", "mlp"]
    command += ["--members", "2", "--epochs", "2000", "--engine", "eager", "--out", "run"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    wait_for(here / "run/metrics.jsonl", process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130
    assert re.fullmatch(
        rb"chimera: stopped at step \d+, in epoch \d+ of 2000; "
        rb"chimera fit --resume run goes on\n",
        told,
    )
    for line in (here / "run/metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["epoch"] >= 1


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_sees_a_bar_and_no_colour_is_honoured(colour: bool) -> None:
    """What a terminal of 80 columns gets on standard error; NO_COLOR takes the colours away."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    environment.pop("NO_COLOR", None)
    if not colour:
        environment["NO_COLOR"] = "1"
    command = [sys.executable, "-m", "chimera", "fit", "digits", "--module", "mlp", *QUICK]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    printed = process.communicate()[0].decode()
    os.close(ours)
    assert process.returncode == 0
    assert "training 3 members" in seen.decode()
    assert "100%" in seen.decode()
    assert bool(re.search(rb"\x1b\[[0-9;]*3[0-9]", seen)) == colour
    assert "\x1b" not in printed


@pytest.mark.parametrize(
    "option", [["--keep", "3"], ["--checkpoint-every", "1"], ["--force-unlock"]]
)
def test_what_is_kept_needs_a_directory(capsys, option):
    assert main(["fit", "digits", "--module", "mlp", *option]) == 2
    assert capsys.readouterr().err == (
        f"chimera: {option[0]} needs --out DIR: without it a run keeps nothing\n"
    )


def test_figures_stay_whole_beside_many_columns(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wide.py").write_text(
        "import torch\n\n\nclass Wide(torch.nn.Sequential):\n"
        "    def __init__(self, hidden=8, slope=0.1, bias=True, act='relu'):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.LazyLinear(hidden, bias),\n"
        "                         torch.nn.LeakyReLU(slope), torch.nn.LazyLinear(10))\n"
    )
    sets = ["hidden=4,8", "slope=0.1,0.2", "bias=True,False", "act=tanh,relu"]
    options = ["--members", "4", "--epochs", "1", *(w for s in sets for w in ("--set", s))]
    assert main(["fit", "digits", "--module", "wide.py:Wide", *options]) == 0
    table = capsys.readouterr().out.split("Test accuracy")[0]
    assert "…" not in table
    assert max(map(len, table.splitlines())) <= 80
    heading = next(line for line in table.splitlines() if "member" in line and "lr" in line)
    assert heading.split() == [
        "member",
        "lr",
        "hidden",
        "slope",
        "bias",
        "act",
        "validation",
        "test",
    ]
