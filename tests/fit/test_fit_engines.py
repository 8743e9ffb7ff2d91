"""Engines inside ``fit``: the same results, deaths and bits after a stop."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import chimera as ch


@pytest.fixture(autouse=True)
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


def data() -> Any:
    x = torch.randn(110, 4, generator=torch.Generator().manual_seed(0))
    return ch.data(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


TOLD: dict[str, Any] = {"epochs": 4, "lr": [1e-3, 1e-2, 3e-2], "batch_size": 16, "seed": 1}


def run(engine: str, factory: Any = Net, **settings: Any) -> Any:
    return ch.fit(ch.instances(factory, 3), data(), **TOLD | settings, engine=engine)


def same(one: Any, other: Any) -> None:
    for name, tensor in one.stack.state_dict().items():
        torch.testing.assert_close(other.stack.state_dict()[name], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ["compiled", "measure"])
def test_a_run_is_that_of_eager(engine: str) -> None:
    expected, found = (run(e, optimizer=ch.optim.SGD) for e in ("eager", engine))
    same(expected, found)


def test_a_member_that_breaks_down_stands_still() -> None:
    told: dict[str, Any] = {"lr": [1e-2, 1e38, 1e-2], "optimizer": ch.optim.SGD}
    expected, found = (
        run(engine, lambda: nn.Linear(4, 3), **told) for engine in ("eager", "compiled")
    )
    assert found.table[1]["died"] == expected.table[1]["died"]
    assert found.table[1]["died"]
    assert found.table[0]["died"] is None
    same(expected, found)


class Stop(Exception):
    pass


@pytest.mark.parametrize("engine", ["compiled", "measure"])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path, engine: str) -> None:
    def stop(record: Any) -> None:
        if record["epoch"] == 2:
            raise Stop

    told = {"out": tmp_path / "run", "checkpoint_every": 1, "engine": engine}
    with pytest.raises(Stop):
        run(**told, progress=stop)
    found = run(**told, resume=True)
    if engine == "measure":  # the clock may choose otherwise in another run, not in this one
        assert torch.isfinite(next(found.stack.parameters())).all()
        return
    whole = run(engine)
    for name, tensor in whole.stack.state_dict().items():
        assert torch.equal(found.stack.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match="engine was"):
        run(**told | {"engine": "eager"}, resume=True)


def test_members_run_in_chunks_where_memory_is_short(tmp_path: Path) -> None:
    def stop(record: Any) -> None:
        raise Stop

    told: dict[str, Any] = {"optimizer": ch.optim.SGD, "epochs": 2}
    expected = run("eager", **told)
    short: dict[str, Any] = told | {"memory": 14_000, "out": tmp_path / "run"}
    with pytest.raises(Stop):
        run("eager", **short, progress=stop, checkpoint_every=1)
    with pytest.raises(ValueError, match="memory was 14000 and is 15000"):
        run("eager", **short | {"memory": 15_000}, resume=True)
    found = run("eager", **short, resume=True)
    same(expected, found)
    kept = (tmp_path / "run" / "checkpoints").rglob("*.json")
    assert any(re.search(r'"3x16x4, 3x16": "[23] chunks"', path.read_text()) for path in kept)


def test_memory_that_is_no_number_of_bytes_is_told() -> None:
    with pytest.raises(TypeError, match="memory is a number of bytes; got 1000000"):
        run("eager", memory=1e6)
    with pytest.raises(ValueError, match="memory=100 bytes do not hold parameters"):
        run("eager", memory=100)


def test_an_unknown_engine_is_told() -> None:
    with pytest.raises(ValueError, match="engine must be one of eager, compiled, .*, got 'fast'"):
        run("fast")
