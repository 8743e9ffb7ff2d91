"""A run that was stopped, at whatever step, ends with the bits of one that never was."""

import json
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


class Recurrent(nn.Module):
    """torch's own caches of a recurrent layer, and what calls note in tuples and tables."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 3)
        self.calls: tuple[int, torch.Size | None] = (0, None)
        self.sizes: dict[int, int] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.calls = (self.calls[0] + 1, x.shape)
        self.sizes[len(x)] = self.sizes.get(len(x), 0) + 1
        return self.out(self.gru(x.view(-1, 2, 2))[0][:, -1]) / self.sizes[len(x)]


def mixed() -> list[nn.Module]:
    nets: list[nn.Module] = ch.instances(MLP, 5, 4, 3, hidden=6, dropout=0.2, seed=0)
    (nets[2],) = ch.instances(nn.Linear, 1, 4, 3, seed=0)
    return nets


NETS: dict[str, Callable[[], list[nn.Module]]] = {
    "mixed": mixed,
    "remembers": lambda: ch.instances(Remembers, 8, seed=0),
    "tied": lambda: ch.instances(Tied, 3, seed=0),
    "alone": lambda: ch.instances(Recurrent, 1, seed=0),
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
        assert repr(mine.get("calls")) == repr(theirs.get("calls"))
        assert mine.get("sizes") == theirs.get("sizes")
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


GAIN = 1.0


def helped(x: Tensor) -> Tensor:
    return x * GAIN


class Helped(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, width), nn.Linear(width, 3)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(helped(torch.tanh(self.drop(self.a(x)))))


def closing(value: float) -> type[nn.Module]:
    class Closing(Helped):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * value

    return Closing


def helped_nets(kind: type[nn.Module] = Helped) -> list[nn.Module]:
    return ch.instances(kind, 3, seed=0)


def _hooked(factor: float) -> list[nn.Module]:
    nets = helped_nets()
    for net in nets:
        net.a.register_forward_hook(lambda module, args, out: out * factor)  # type: ignore[union-attr]
    return nets


def _frozen(*members: int) -> list[nn.Module]:
    nets = helped_nets()
    for member in members:
        nets[member].a.requires_grad_(False)
    return nets


def _evaluating() -> list[nn.Module]:
    nets = helped_nets()
    for net in nets:
        net.drop.eval()
    return nets


def _dropping(rate: float) -> list[nn.Module]:
    nets = helped_nets()
    nets[1].drop.p = rate  # type: ignore[assignment]
    return nets


CHANGES: dict[str, tuple[Callable[[], list[nn.Module]], Callable[[], list[nn.Module]], str]] = {
    "a hook": (helped_nets, lambda: _hooked(2.0), r"hooks.a was not there and is .*lambda"),
    "another hook": (lambda: _hooked(1.0), lambda: _hooked(2.0), "hooks.a was .* and is"),
    "frozen": (helped_nets, lambda: _frozen(0, 1, 2), 'frozen.a.weight was not there and is "all"'),
    "one frozen": (
        lambda: _frozen(1),
        lambda: _frozen(1, 2),
        'was "members 1" and is "members 1, 2"',
    ),
    "a mode": (helped_nets, _evaluating, r'evaluating\[0\] was not there and is "drop"'),
    "a number of a member": (
        lambda: _dropping(0.2),
        lambda: _dropping(0.3),
        "differing_sha256 was",
    ),
    "a closure": (
        *(lambda: helped_nets(closing(1.0)), lambda: helped_nets(closing(3.0))),
        r'reads.closing.<locals>.Closing.forward.value was "1.0" and is "3.0"',
    ),
}


class _Enough(Exception):
    pass


def _stopped(nets: list[nn.Module], out: Path, **more: Any) -> None:
    def stop(row: Any) -> None:
        raise _Enough

    with pytest.raises(_Enough):
        ch.fit(nets, blobs(), epochs=2, out=out, checkpoint_every=1, progress=stop, **more)


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_in_the_members_is_refused(name: str, tmp_path: Path) -> None:
    before, after, said = CHANGES[name]
    _stopped(before(), tmp_path / "run")
    with pytest.raises(ValueError, match=f"not the run that was started.*{said}"):
        ch.fit(after(), blobs(), epochs=2, out=tmp_path / "run", resume=True)
    ch.fit(before(), blobs(), epochs=2, out=tmp_path / "run", resume=True)


def test_a_changed_global_or_hyperparameter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 2, "out": tmp_path / "run", "resume": True}
    _stopped(helped_nets(), tmp_path / "run", hyperparameters={"h": [4, 4, 4]})
    with pytest.raises(ValueError, match=r'hyperparameters.h\[2\] was "4" and is "5"'):
        ch.fit(helped_nets(), blobs(), hyperparameters={"h": [4, 4, 5]}, **options)
    with monkeypatch.context() as patch:
        patch.setitem(globals(), "GAIN", 2.0)
        with pytest.raises(ValueError, match=r"reads.Helped.forward.helped was"):
            ch.fit(helped_nets(), blobs(), hyperparameters={"h": [4, 4, 4]}, **options)
    ch.fit(helped_nets(), blobs(), hyperparameters={"h": [4, 4, 4]}, **options)


def _weights(out: Path) -> Any:
    return json.loads((out / "config.json").read_text())["weights_sha256"]


def _linears(seed: int) -> list[nn.Module]:
    return list(ch.instances(nn.Linear, 3, 4, 3, seed=seed))


def test_members_that_start_elsewhere_are_told_and_take_on_the_checkpoint(tmp_path: Path) -> None:
    whole = ch.fit(_linears(0), blobs(), epochs=2)
    _stopped(_linears(0), tmp_path / "run")
    started = _weights(tmp_path / "run")
    with pytest.warns(ch.ChimeraWarning, match="other weights than those that the run was started"):
        resumed = ch.fit(_linears(1), blobs(), epochs=2, out=tmp_path / "run", resume=True)
    assert_same(whole, resumed)
    assert _weights(tmp_path / "run") == started


def test_a_run_without_a_checkpoint_starts_with_what_it_is_given(tmp_path: Path) -> None:
    def stop(row: Any) -> None:
        raise _Enough

    with pytest.raises(_Enough):
        ch.fit(_linears(0), blobs(), epochs=2, out=tmp_path / "run", progress=stop)
    ch.fit(_linears(1), blobs(), epochs=2, out=tmp_path / "new")
    before = _weights(tmp_path / "run")
    resumed = ch.fit(_linears(1), blobs(), epochs=2, out=tmp_path / "run", resume=True)
    assert_same(ch.fit(_linears(1), blobs(), epochs=2), resumed)
    assert _weights(tmp_path / "run") == _weights(tmp_path / "new") != before
