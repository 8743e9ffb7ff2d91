"""When checkpoints are written, which stay, and what resume asks for."""

import json
import math
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import chimera as ch
from chimera.fit import MLP, Data
from chimera.fit.checkpoints import Checkpoints
from chimera.fit.signals import Interrupted
from chimera.fit.writer import Writer
from chimera.store import Folders, LockedError


def blobs() -> Data:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return ch.data(x, (x[:, 0] > 0).long())


def nets(**options: Any) -> list[nn.Module]:
    made: list[nn.Module] = ch.instances(MLP, 3, 4, 2, hidden=4, seed=0, **options)
    return made


def train(out: Path | None, modules: Any = None, **options: Any) -> Any:
    given = {"epochs": 4, "batch_size": 8, "lr": 0.01}
    return ch.fit(modules or nets(), blobs(), out=out, **{**given, **options})


class Stop(Exception):
    pass


def stop(record: dict[str, Any]) -> None:
    if record["epoch"] == 2:
        raise Stop


def steps(out: Path) -> list[int]:
    return Folders(out / "checkpoints", "").complete()


@pytest.mark.parametrize(("seconds", "expected"), [(math.inf, [12]), (0.0, [9, 12])])
def test_one_is_due_after_some_seconds_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: list[int]
) -> None:
    monkeypatch.setattr(sys.modules[Checkpoints.__module__], "_SECONDS", seconds)
    monkeypatch.setattr(Writer, "busy", False)
    train(tmp_path / "run")
    assert set(expected) <= set(steps(tmp_path / "run"))
    assert len(steps(tmp_path / "run")) <= len(expected) + 1


def best_epoch(result: Any) -> int:
    figures = [max(record["validation_accuracy"]) for record in result.epochs]
    return figures.index(max(figures)) + 1


def test_the_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    result = train(tmp_path / "run", checkpoint_every=1, keep=2, epochs=8, lr=0.3)
    best = 3 * best_epoch(result)
    assert steps(tmp_path / "run") == sorted({best, 21, 24})
    assert best < 21
    assert sorted(os.listdir(tmp_path / "run/checkpoints")) == [
        str(step) for step in sorted({best, 21, 24}, key=str)
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"resume": "yes"}, "resume must be True, False or"),
        ({"resume": True, "out": None}, "resume needs out="),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        train(**{"out": tmp_path / "run", **options})
    assert not (tmp_path / "run").exists()


def test_auto_starts_goes_on_and_gives_what_is_finished(tmp_path: Path) -> None:
    whole = train(None)
    with pytest.raises(Stop):
        train(tmp_path / "run", resume="auto", checkpoint_every=1, progress=stop)
    seen: list[int] = []
    for expected in ([3, 4], []):
        seen.clear()
        result = train(
            tmp_path / "run", resume="auto", progress=lambda record: seen.append(record["epoch"])
        )
        assert seen == expected
        assert repr(result.table) == repr(whole.table)
        assert repr(result.epochs) == repr(whole.epochs)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"epochs": 5}, "epochs was 4 and is 5"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"lr": 0.02}, r"optimizer.groups\[0\].lr was 0.01 and is 0.02"),
        ({"modules": nets(dropout=0.5)}, r"network\[0\].structure_sha256 was"),
        ({"modules": [*nets(), *nets()]}, "members was 3 and is 6"),
        ({"optimizer": ch.optim.SGD}, "optimizer.name was .AdamW. and is .SGD."),
        ({"loss": lambda output, target: output.mean()}, "loss was .cross_entropy. and is"),
    ],
)
def test_a_change_is_an_error_with_key_old_and_new(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "run", checkpoint_every=1, progress=stop)
    with pytest.raises(ValueError, match=said):
        train(tmp_path / "run", resume=True, **options)


def test_other_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "run", checkpoint_every=1, progress=stop)
    data = blobs()
    data.train.x[0, 0] += 1
    with pytest.raises(ValueError, match=r"data.sha256 was"):
        ch.fit(nets(), data, epochs=4, batch_size=8, lr=0.01, out=tmp_path / "run", resume=True)


def test_lines_after_the_checkpoint_are_cut(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "run", checkpoint_every=1, progress=stop)
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"epoch": 3}\n{"epoch": 99')
    train(tmp_path / "run", resume=True)
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_a_second_run_in_the_same_process_is_refused(tmp_path: Path) -> None:
    def again(record: dict[str, Any]) -> None:
        train(tmp_path / "run", resume="auto")

    with pytest.raises(LockedError, match=f"process {os.getpid()}"):
        train(tmp_path / "run", progress=again)
    assert not (tmp_path / "run/.chimera-lock").exists()


def test_ctrl_c_is_a_keyboard_interrupt_and_handlers_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(record: dict[str, Any]) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        train(tmp_path / "run", progress=interrupt)
    assert isinstance(caught.value, Interrupted)
    assert "stopped at step 4, in epoch 2 of 4" in str(caught.value)
    assert steps(tmp_path / "run") == [4]
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert before == after


class Hoards(nn.Module):
    """Puts tensors into a list in forward, which no file can say."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen = [x.detach().mean()]
        return self.layer(x)


def test_what_cannot_be_written_down_is_said_and_the_run_goes_on(tmp_path: Path) -> None:
    with pytest.warns(ch.ChimeraWarning, match="cannot be resumed.*seen"):
        result = train(tmp_path / "run", ch.instances(Hoards, 2, seed=0))
    assert result.summary["broken"] == 0
    assert (tmp_path / "run/members.safetensors").exists()
    assert steps(tmp_path / "run") == []


def test_a_checkpoint_that_cannot_be_written_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    before = Folders.write

    def refuse(self: Folders, number: int, *rest: Any) -> Path:
        written.append(number)
        if number == 9:
            raise OSError(28, "No space left on device")
        return before(self, number, *rest)

    monkeypatch.setattr(Folders, "write", refuse)
    with pytest.raises(OSError, match="No space left") as caught:
        train(tmp_path / "run", checkpoint_every=1, epochs=50)
    assert caught.value.__notes__ == ["the checkpoint of step 6 stands"]
    assert written == [3, 6, 9]
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) < 50


def test_a_run_on_another_machine_says_that_bits_may_differ(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(tmp_path / "run", checkpoint_every=1, progress=stop)
    path = tmp_path / "run/environment.json"
    path.write_text(path.read_text().replace('"torch": "', '"torch": "0.'))
    with pytest.warns(ch.ChimeraWarning, match="its last bits may differ: packages was"):
        train(tmp_path / "run", resume=True)


class Moves(nn.Module):
    """An object that stays the same one while what it holds changes."""

    def __init__(self, held: Callable[[], Any]) -> None:
        super().__init__()
        self.layer, self.held = nn.Linear(4, 2), held()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.held, torch.Generator):
            return self.layer(x) + torch.randn(2, generator=self.held)
        if isinstance(self.held, np.ndarray):
            self.held += 1
        elif isinstance(self.held, Iterator):
            next(self.held)
        else:
            return self.layer(x) * (1 + self.held.random())
        return self.layer(x)


@pytest.mark.parametrize(
    "held",
    [
        torch.Generator,
        lambda: np.random.default_rng(0),
        lambda: random.Random(0),
        lambda: np.zeros(2),
        lambda: iter(range(1000)),
    ],
    ids=["torch", "numpy", "python", "array", "iterator"],
)
def test_an_object_that_moved_is_said(held: Callable[[], Any], tmp_path: Path) -> None:
    nets = [Moves(held) for _ in range(2)]
    with pytest.warns(ch.ChimeraWarning, match="cannot be resumed.*held: a call changed"):
        train(tmp_path / "run", nets)
    assert steps(tmp_path / "run") == []


class Draws(nn.Linear):
    """Noise of a generator that torch does not know of."""

    def forward(self, x: Tensor) -> Tensor:
        noise = random.random() if self.in_features == 4 else np.random.rand()
        return super().forward(x[:, : self.in_features]) * (1 + noise)


@pytest.mark.parametrize(("width", "whose"), [(4, "Python's random"), (3, "numpy.random")])
def test_a_generator_that_no_checkpoint_holds_is_said(
    width: int, whose: str, tmp_path: Path
) -> None:
    nets = [Draws(width, 2) for _ in range(2)]
    with pytest.warns(ch.ChimeraWarning, match=f"cannot be resumed.*draws from {whose}, whose"):
        train(tmp_path / "run", nets)
    assert steps(tmp_path / "run") == []


class Running(nn.Module):
    """A loss that keeps a mean of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(output, target)
        self.mean = 0.9 * self.mean + 0.1 * loss.detach().mean()
        return loss / self.mean


def test_a_loss_that_keeps_state_is_said(tmp_path: Path) -> None:
    with pytest.warns(ch.ChimeraWarning, match="cannot be resumed.*loss: what it holds changed"):
        train(tmp_path / "run", ch.instances(nn.Linear, 2, 4, 2, seed=0), loss=Running())
