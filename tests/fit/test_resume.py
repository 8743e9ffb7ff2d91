"""A run that was stopped, at whatever step, ends with the bits of one that never was."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chimera as ch
from chimera.fit import MLP, Data
from chimera.fit.result import Result
from chimera.fit.signals import Terminated
from chimera.store import TensorFile


def blobs(samples: int = 60) -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, generator=generator)
    return ch.data(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())


class Remembers(nn.Module):
    """Dropout, batch norm, a ``while``, an attribute, a buffer and a count that calls change."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 3)
        self.calls = 0
        self.register_buffer("mean", torch.zeros(6), persistent=False)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        if self.last is not None:
            x = x + 0.01 * self.last
        self.last = x.detach().mean(0)
        x = nn.functional.dropout(x + self.mean / self.calls, 0.2, self.training)
        while x.abs().mean() > 0.5:
            x = x / 2
        return self.out(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.again = self.shared
        self.scale = torch.tensor(0.5)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.again(self.shared(x))) * self.scale)


def mixed() -> list[nn.Module]:
    nets: list[nn.Module] = ch.instances(MLP, 5, 4, 3, hidden=6, dropout=0.2, seed=0)
    (nets[2],) = ch.instances(nn.Linear, 1, 4, 3, seed=0)
    return nets


NETS: dict[str, Callable[[], list[nn.Module]]] = {
    "mixed": mixed,
    "remembers": lambda: ch.instances(Remembers, 8, seed=0),
    "tied": lambda: ch.instances(Tied, 3, seed=0),
}
OPTIONS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "lr": ch.LogUniform(1e-3, 1e-1),
    "checkpoint_every": 1,
}


class StopAt:
    """A loss that sends a signal to its own process at its n-th call."""

    def __init__(self, call: int, number: int = signal.SIGTERM) -> None:
        self.left, self.number = call, number

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return nn.functional.cross_entropy(output, target)


def train(
    nets: list[nn.Module], out: Path | None, loss: StopAt | None = None, **more: Any
) -> Result:
    return ch.fit(nets, blobs(), loss=loss or StopAt(-1), out=out, **{**OPTIONS, **more})


def assert_same(one: Result, other: Result) -> None:
    """Both results are the same, to the bit."""
    assert repr(one.table) == repr(other.table)
    assert repr(one.epochs) == repr(other.epochs)
    assert repr(one.ensemble) == repr(other.ensemble)
    states = [result.stack.state_dict() for result in (one, other)]
    assert list(states[0]) == list(states[1])
    for name, tensor in states[0].items():
        assert tensor.contiguous().view(torch.uint8).equal(states[1][name].view(torch.uint8)), name
    for module, twin in zip(one.stack, other.stack, strict=True):
        mine, theirs = vars(module), vars(twin)
        assert mine.get("calls") == theirs.get("calls")
        for name in ("last", "scale"):
            if isinstance(mine.get(name), Tensor):
                assert torch.equal(mine[name], theirs[name])


def files(out: Path) -> list[Any]:
    """What the files of a run say; safetensors puts its metadata in any order."""
    held = TensorFile(out / "members.safetensors")
    tensors = {name: (t.dtype, t.tolist()) for name, t in held.read().items()}
    names = ("metrics.jsonl", "members.csv")
    return [held.meta, tensors, *((out / name).read_bytes() for name in names)]


def stopped_and_resumed(make: Callable[[], list[nn.Module]], out: Path, call: int) -> Result:
    with pytest.raises(Terminated) as caught:
        train(make(), out, StopAt(call))
    assert caught.value.code == 143
    assert "resume=True" in str(caught.value)
    assert not list((out / "checkpoints").glob("*.tmp"))
    return train(make(), out, resume=True)


@pytest.mark.parametrize("name", NETS)
def test_stopped_at_any_moment_a_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    make = NETS[name]
    whole = train(make(), tmp_path / "whole")
    plain = train(make(), None)
    assert_same(plain, whole)
    counted = StopAt(-1)
    train(make(), None, counted)
    calls = -1 - counted.left
    for number, call in enumerate(range(1, calls, max(1, calls // 7))):
        out = tmp_path / str(number)
        result = stopped_and_resumed(make, out, call)
        assert_same(result, whole)
        assert files(out) == files(tmp_path / "whole")
        assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "whole"))
