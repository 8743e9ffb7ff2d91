"""``chimera fit`` over several processes as a user types it, with torch's own launchers."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chimera.cli import main
from chimera.scale.kernel import STATE, stat_of

NETS = """
import os, signal, time
from pathlib import Path
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        return self.out(x)


class Killed(Net):
    def forward(self, x):
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first and os.environ["RANK"] == "1" and list(Path("run").glob("checkpoints/*/c*.json")):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


class Slow(Net):
    def forward(self, x):
        if Path("sleep").exists():
            time.sleep(60)
        return super().forward(x)


class Wrong(Net):
    def forward(self, x):
        if len(x) == 32 and torch.is_grad_enabled() and os.environ["RANK"] == "1":
            raise ArithmeticError("broken on purpose")
        return super().forward(x)
"""
SHORT = ["fit", "digits", "--members", "5", "--epochs", "4"]
FIT = [*SHORT, "--checkpoint-every", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def started(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **options)


def wait_for(seen: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def figures(out: str) -> list[dict[str, str]]:
    with open(Path(out, "members.csv")) as file:
        return list(csv.DictReader(file))


def assert_alike(one: str, other: str) -> None:
    rows, others = figures(one), figures(other)
    assert [row["lr"] for row in rows] == [row["lr"] for row in others]
    for row, twin in zip(rows, others, strict=True):
        assert float(row["test_loss"]) == pytest.approx(float(twin["test_loss"]), rel=1e-4)


def test_a_stop_by_the_launcher_and_a_resume_by_one_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fit = [word.replace("4", "2000") for word in FIT]
    fit += ["--module", "nets.py:Net", "--devices", "2", "--out", "run"]
    process = started("chimera", *fit)
    wait_for(lambda: bool(list(Path("run").glob("checkpoints/*/complete.json"))), process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert err.count("chimera: stopped at step") == 1
    assert "chimera fit --resume run goes on" in err
    assert len(err.splitlines()) == 1
    assert out == ""
    newest = max(Path("run", "checkpoints").iterdir(), key=lambda path: int(path.name))
    assert {path.name for path in newest.glob("members-*")} == {
        "members-0.safetensors",
        "members-1.safetensors",
    }
    assert main(["fit", "--resume", "run", "--members", "6"]) == 2
    assert "--members: the run was started with 5" in capsys.readouterr().err


def test_a_rank_killed_under_the_launcher_starts_again_and_ends_the_same() -> None:
    assert main([*FIT, "--module", "nets.py:Net", "--out", "alone"]) == 0
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    fit = ["-m", "chimera", *FIT, "--module", "nets.py:Killed", "--out", "run"]
    process = started(*launcher, "--max-restarts", "1", *fit)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "Written to run" in out
    assert_alike("run", "alone")
    assert sorted(os.listdir("run")) == sorted(os.listdir("alone"))


def test_an_error_of_one_rank_is_one_line_with_its_frame() -> None:
    process = started("chimera", *SHORT, "--module", "nets.py:Wrong", "--devices", "2")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert len(err.splitlines()) == 1, err
    assert "nets.py, line 35, in forward: ArithmeticError: broken on purpose" in err
    assert "on rank 1, which holds the members" in err
    assert out == ""


def test_a_mistake_is_one_line_and_two() -> None:
    process = started(
        "chimera", *SHORT, "--module", "nets.py:Net", "--devices", "2", "--lr", "much"
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("chimera: --lr: expected a number above 0")
    assert len(err.splitlines()) == 1, err
    assert out == ""


@pytest.mark.parametrize("asleep", [signal.SIGSTOP, None])
def test_the_second_ctrl_c_ends_the_ranks_at_once(asleep: signal.Signals | None) -> None:
    """Be they in the middle of a step or stopped, as with Ctrl-Z."""
    fit = [word.replace("4", "2000") for word in FIT]
    process = started("chimera", *fit, "--module", "nets.py:Slow", "--devices", "2", "--out", "run")
    wait_for(lambda: bool(list(Path("run").glob("checkpoints/*/complete.json"))), process)
    ranks = children_of(process.pid)
    assert len(ranks) == 2
    Path("sleep").touch()
    if asleep is not None:
        os.kill(ranks[1], asleep)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    assert children_of(process.pid) == ranks
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    deadline = time.monotonic() + 10
    while any(runs(rank) for rank in ranks):
        assert time.monotonic() < deadline
    out, err = process.communicate()
    assert out == err == ""


def test_ranks_whose_launcher_was_killed_end_by_themselves_with_a_line_each() -> None:
    fit = [word.replace("4", "2000") for word in FIT]
    process = started("chimera", *fit, "--module", "nets.py:Net", "--devices", "2", "--out", "run")
    wait_for(lambda: bool(list(Path("run").glob("checkpoints/*/complete.json"))), process)
    ranks = children_of(process.pid)
    process.kill()
    _, err = process.communicate(timeout=60)  # ends when the ranks, which hold the pipe, have ended
    assert not any(runs(rank) for rank in ranks)
    lines = err.splitlines()
    assert 1 <= len(lines) <= 2, err
    assert all("its host or the launcher is gone" in line for line in lines), err
    before = set(Path("run").glob("checkpoints/*/complete.json"))
    resumed = started("chimera", "fit", "--resume", "run")
    wait_for(lambda: not set(Path("run").glob("checkpoints/*/complete.json")) <= before, resumed)
    resumed.send_signal(signal.SIGTERM)
    _, err = resumed.communicate(timeout=60)
    assert resumed.returncode == 143, err


def children_of(pid: int) -> list[int]:
    return sorted(
        int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    )


def runs(pid: int) -> bool:
    stat = stat_of(str(pid))
    return stat is not None and stat[STATE] not in "ZX"


@pytest.mark.parametrize("devices", ["0", "two", "-1", "2.5"])
def test_devices_that_are_none(devices: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--module", "nets.py:Net", f"--devices={devices}"]) == 2
    assert "--devices: expected a whole number of at least 1 or auto" in capsys.readouterr().err


def test_one_device_is_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--module", "nets.py:Net", "--devices", "1"]) == 0
    assert "on cpu: " in capsys.readouterr().out
