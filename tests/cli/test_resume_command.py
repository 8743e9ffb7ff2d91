"""``chimera fit --resume`` as a user types it, and every way in which a run ends too soon."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chimera.cli import main
from chimera.fit.training import Training
from chimera.store import Lock

NETS = """
import os
import torch
from torch import nn

with open("imported", "a") as file:
    file.write("x")


class Net(nn.Module):
    def __init__(self, hidden: int = 4):
        super().__init__()
        self.first = nn.Linear(64, hidden)
        self.last = nn.Linear(hidden, 10)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))
"""
FIT = ["fit", "digits", "--module", "nets.py:Net", "--members", "3", "--checkpoint-every", "1"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def chimera(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "chimera", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(seen: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not seen():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steps(out: str) -> list[int]:
    folder = Path(out, "checkpoints")
    return sorted(int(path.parent.name) for path in folder.glob("*/complete.json"))


def stopped(out: str, number: signal.Signals, epochs: str = "2000") -> str:
    """A run that a signal stopped after its first checkpoint; what it said."""
    process = chimera(*FIT, "--epochs", epochs, "--engine", "eager", "--out", out)
    wait_for(lambda: bool(steps(out)), process)
    process.send_signal(number)
    printed, told = process.communicate()
    assert (process.returncode, printed) == (128 + number, "")
    return told


def interrupted(out: str, epochs: int) -> None:
    """A run of ``epochs`` that stopped in the first of them, with a checkpoint."""
    before = Training.epoch
    calls = []

    def epoch(self: Any) -> Any:
        calls.append(self)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGTERM)
        return before(self)

    Training.epoch = epoch  # type: ignore[method-assign]
    try:
        assert main([*FIT, "--epochs", str(epochs), "--out", out]) == 143
    finally:
        Training.epoch = before  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_with_a_checkpoint(number: signal.Signals) -> None:
    told = stopped("run", number)
    said = re.fullmatch(
        r"chimera: stopped at step (\d+), in epoch \d+ of 2000; "
        r"chimera fit --resume run goes on\n",
        told,
    )
    assert said
    assert steps("run")[-1] == int(said[1])
    assert sorted(os.listdir("run")) == [
        "checkpoints",
        "config.json",
        "environment.json",
        "metrics.jsonl",
    ]


def test_a_resumed_run_ends_as_one_that_never_stopped(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, "--epochs", "4", "--out", "whole"]) == 0
    interrupted("run", 4)
    capsys.readouterr()
    assert main(["fit", "--resume", "run"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.splitlines()[0].startswith("3 members of Net() on digits")
    for name in ("members.csv", "metrics.jsonl"):
        assert (here / "run" / name).read_bytes() == (here / "whole" / name).read_bytes()
    (here / "nets.py").unlink()
    assert main(["fit", "--resume", "run"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "The run in run is finished: 3 members, 4 epochs; see members.csv\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--epochs", "5"], "--epochs: the run was started with 3, got 5; leave it out"),
        (["--lr", "0.1"], "--lr: the run was started with '1e-4:1e-1', got '0.1'"),
        (["--set", "hidden=5"], "--set: the run was started with [], got ['hidden=5']"),
        (["--out", "other"], "--out and --resume exclude each other"),
    ],
)
def test_what_is_given_must_be_what_the_run_was_started_with(
    more: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted("run", 3)
    capsys.readouterr()
    assert main(["fit", "--resume", "run", *more]) == 2
    assert said in capsys.readouterr().err
    assert main(["fit", "--resume", "run", "--members", "3"]) == 0


def test_a_changed_file_is_not_imported(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted("run", 3)
    (here / "nets.py").write_text(NETS.replace("torch.relu", "torch.tanh"))
    times = (here / "imported").read_text()
    capsys.readouterr()
    assert main(["fit", "--resume", "run"]) == 2
    assert re.search(r"nets.py has changed.*was \w{64}, is \w{64}", capsys.readouterr().err)
    assert (here / "imported").read_text() == times


def test_a_changed_config_is_an_error_with_key_old_and_new(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted("run", 3)
    path = here / "run/config.json"
    config = json.loads(path.read_text())
    config["epochs"] = config["command"]["epochs"] = 30
    path.write_text(json.dumps(config))
    capsys.readouterr()
    assert main(["fit", "--resume", "run"]) == 2
    assert "epochs was 3 and is 30" in capsys.readouterr().err
    config["data"]["sha256"] = "0" * 64
    path.write_text(json.dumps(config))
    assert main(["fit", "--resume", "run"]) == 2
    assert f'data.sha256 was "{"0" * 64}" and is' in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": 3}', '{"run": "a", "command": {}}'])
def test_a_damaged_config_is_named(
    here: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "run").mkdir()
    (here / "run/config.json").write_text(text)
    assert main(["fit", "--resume", "run"]) == 1
    assert "run/config.json" in capsys.readouterr().err


def test_resume_needs_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--resume", "nowhere"]) == 2
    assert "'nowhere' is not there" in capsys.readouterr().err
    (here / "empty").mkdir()
    assert main(["fit", "--resume", "empty"]) == 2
    assert "holds no run that was started" in capsys.readouterr().err
    assert sorted(os.listdir(here)) == ["empty", "nets.py"]


def test_a_run_killed_before_its_first_checkpoint_starts_at_step_0(here: Path) -> None:
    interrupted("run", 3)
    for name in ("checkpoints", "metrics.jsonl"):
        (here / "run" / name).rename(here / name)
    assert main(["fit", "--resume", "run"]) == 0
    assert len((here / "run/metrics.jsonl").read_text().splitlines()) == 3


def test_out_on_an_unfinished_run_names_resume(capsys: pytest.CaptureFixture[str]) -> None:
    interrupted("run", 3)
    capsys.readouterr()
    assert main([*FIT, "--out", "run"]) == 2
    assert "chimera fit --resume run" in capsys.readouterr().err


def test_one_killed_before_its_config_is_started_again_by_the_same_command(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run/.chimera-lock").write_text("")
    (here / "run/.config.json.0123456789abcdef.chimera-tmp").mkdir()
    (here / "run/.0123456789abcdef.chimera-tmp").touch()
    assert main([*FIT, "--epochs", "1", "--out", "run"]) == 0
    assert not [name for name in os.listdir("run") if name.startswith(".")]


@pytest.mark.parametrize("how", ["--out", "--resume"])
def test_a_directory_in_use_is_refused_before_anything_else(
    here: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted("run", 3)
    times = (here / "imported").read_text()
    capsys.readouterr()
    with Lock(here / "run"):
        arguments = ["fit", "--resume", "run"] if how == "--resume" else [*FIT, "--out", "run"]
        assert main(arguments) == 3
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    assert (here / "imported").read_text() == times


def test_two_started_at_once_in_one_directory(here: Path) -> None:
    both = [chimera(*FIT, "--epochs", "6", "--out", "run") for _ in range(2)]
    ends = [(process.communicate()[1], process.returncode) for process in both]
    codes = sorted(code for _, code in ends)
    assert codes[0] == 0
    assert codes[1] in (2, 3), ends  # the other's lock, or the other's run
    assert len((here / "run/metrics.jsonl").read_text().splitlines()) == 6


def test_another_host_s_lock_needs_force_unlock(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted("run", 3)
    (here / "run/.chimera-lock").write_text('{"host": "elsewhere", "pid": 12}')
    capsys.readouterr()
    assert main(["fit", "--resume", "run"]) == 3
    assert "process 12 of host 'elsewhere'" in capsys.readouterr().err
    assert main(["fit", "--resume", "run", "--force-unlock"]) == 0


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stands(here: Path) -> None:
    interrupted("run", 3)
    (before,) = steps("run")[-1:]
    size = max(path.stat().st_size for path in (here / "run").rglob("members-0.safetensors"))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    process = chimera("fit", "--resume", "run", preexec_fn=limit)
    _, told = process.communicate()
    assert process.returncode == 1
    assert len(told.splitlines()) == 1
    assert re.search(r"bytes needed and [\d,]+ bytes free", told)
    assert f"the checkpoint of step {before} stands" in told
    assert steps("run")[-1] == before
    assert not list((here / "run").rglob("*tmp"))
    assert main(["fit", "--resume", "run"]) == 0


def test_the_second_signal_ends_at_once(here: Path) -> None:
    (here / "slow.py").write_text(
        NETS.replace("    def forward", "    wait = True\n\n    def forward").replace(
            "        return self.last",
            "        if os.path.exists('run/metrics.jsonl'):\n"
            "            import time\n"
            "            time.sleep(60)\n"
            "        return self.last",
        )
    )
    process = chimera("fit", "digits", "--module", "slow.py:Net", "--members", "2", "--out", "run")
    wait_for(lambda: Path("run/metrics.jsonl").exists(), process)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    process.communicate()


def test_a_process_stopped_and_continued_goes_on(here: Path) -> None:
    process = chimera(*FIT, "--epochs", "4", "--out", "run")
    wait_for(lambda: bool(steps("run")), process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    process.send_signal(signal.SIGCONT)
    _, told = process.communicate()
    assert (process.returncode, told) == (0, "")


@pytest.mark.parametrize(
    ("closed", "code", "told"),
    [
        ("| head -1; exit ${PIPESTATUS[0]}", 0, ""),
        (">&-", 0, ""),
        ("> /dev/full", 1, "chimera: [Errno 28] No space left on device\n"),
    ],
)
def test_an_output_that_takes_nothing_does_not_spoil_the_run(
    closed: str, code: int, told: str, here: Path
) -> None:
    command = f"{sys.executable} -m chimera {' '.join(FIT)} --epochs 1 --out run {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, told)
    assert done.stdout.count("\n") <= 1
    assert Path("run/members.safetensors").exists()
