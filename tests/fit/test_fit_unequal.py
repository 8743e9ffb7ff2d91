"""``ch.fit`` over members of different structures; clipping; columns of the caller's."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import chimera as ch
from chimera.fit.agreement import agreement
from chimera.fit.compare import compare_loop


def data(classes: bool = True) -> Any:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 6, generator=generator)
    y = (x[:, 0] + x[:, 1] ** 2 > 0.7).long() if classes else x[:, :2].sin()
    return ch.data(x, y)


def unequal(outputs: int = 2) -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Dropout(p), nn.Linear(width, outputs))
        if width
        else nn.Linear(6, outputs)
        for width, p in ((8, 0.1), (0, 0.0), (12, 0.1), (8, 0.4), (0, 0.0))
    ]


@pytest.mark.parametrize("classes", [True, False])
def test_unequal_members(classes: bool, tmp_path: Path) -> None:
    members = unequal()
    result = ch.fit(
        members, data(classes), epochs=3, lr=[1e-3, 2e-3, 1e-2, 1e-3, 3e-2], out=tmp_path / "run"
    )
    assert [row["group"] for row in result.table] == [0, 1, 2, 0, 1]
    assert result.ensemble is not None
    best = result.best(5)
    assert {type(module) for module in best} == {nn.Sequential, nn.Linear}
    with (tmp_path / "run" / "members.csv").open() as file:
        assert [row["group"] for row in csv.DictReader(file)] == ["0", "1", "2", "0", "1"]
    weights = safetensors.torch.load_file(tmp_path / "run" / "members.safetensors")
    assert {name: tuple(t.shape) for name, t in weights.items() if name.startswith("groups")} == {
        "groups.0.0.weight": (2, 8, 6), "groups.0.0.bias": (2, 8),
        "groups.0.3.weight": (2, 2, 8), "groups.0.3.bias": (2, 2),
        "groups.1.weight": (2, 2, 6), "groups.1.bias": (2, 2),
        "groups.2.0.weight": (1, 12, 6), "groups.2.0.bias": (1, 12),
        "groups.2.3.weight": (1, 2, 12), "groups.2.3.bias": (1, 2),
    }  # fmt: skip
    comparison = compare_loop(members, result, 5)
    assert comparison.agrees, comparison


def test_a_member_trains_as_it_would_alone_in_its_place() -> None:
    together = ch.fit(unequal(), data(), epochs=2, lr=1e-2)
    equal = ch.fit([unequal()[0]] * 4, data(), epochs=2, lr=1e-2)
    mine, alone = together.table[0], equal.table[0]
    assert mine["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-4)


def test_the_ensemble_of_unequal_members_is_their_average() -> None:
    samples = data()
    result = ch.fit(unequal(), samples, epochs=1)
    with torch.no_grad():
        parts = [module.eval()(samples.test.x).softmax(1) for module in result.stack]
    right = (torch.stack(parts).mean(0).argmax(1) == samples.test.y).double().mean()
    assert result.ensemble == pytest.approx(float(right))


def test_clipping_reaches_every_member() -> None:
    limits = [0.01, 0.1, 0.05, 0.2, 0.01]
    members = unequal()
    result = ch.fit(members, data(), epochs=2, lr=1e-2, clip=limits, optimizer=ch.optim.SGD)
    assert [row["clip"] for row in result.table] == limits
    steps = 2 * -(-72 // 32)
    for start, trained, limit in zip(members, result.stack, limits, strict=True):
        way = torch.cat(
            [
                (a - b).flatten()
                for a, b in zip(trained.parameters(), start.parameters(), strict=True)
            ]
        ).norm()
        assert 0 < way <= 1.01 * steps * 1e-2 * limit
    comparison = compare_loop(members, result, 5)
    assert comparison.agrees, comparison


def test_agreement_notices_a_loop_without_clipping(monkeypatch: pytest.MonkeyPatch) -> None:
    result = ch.fit(unequal(), data(), epochs=1, lr=1e-2, clip=0.01, optimizer=ch.optim.SGD)
    room = sys.modules["chimera.fit.agreement"]
    monkeypatch.setattr(room, "clip_alone", lambda module, limit: None)
    rates = torch.full((5,), 1e-2, dtype=torch.float64)
    error, _ = agreement(unequal(), data(), result.settings, rates)
    assert error > 1e-3


def test_columns_of_the_callers() -> None:
    names = ["a", "b", "c", "d", "e"]
    result = ch.fit(
        unequal(), data(), epochs=1, hyperparameters={"name": names, "width": torch.arange(5)}
    )
    assert [row["name"] for row in result.table] == names
    assert [row["width"] for row in result.table] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"width": [1, 2]}, ValueError, "width needs one value for each of the 5 members, 2 came"),
        ({"width": "abcde"}, TypeError, "width must be a list"),
        ({"lr": [1] * 5}, ValueError, "a column lr of its own"),
        ({"test_loss": [1] * 5}, ValueError, "a column test_loss of its own"),
        ({"clip": [1] * 5}, ValueError, "a column clip of its own"),
        ([1], TypeError, "must map names"),
        ({3: [1] * 5}, TypeError, "a name must be a string"),
    ],
)
def test_wrong_columns(given: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        ch.fit(unequal(), data(), epochs=1, hyperparameters=given, clip=[1.0] * 5)


def test_wrong_clip() -> None:
    with pytest.raises(ValueError, match="clip is a number or one per member: the stack has 5"):
        ch.fit(unequal(), data(), epochs=1, clip=[1.0])


def test_modes_come_back() -> None:
    stack = ch.Stack([module.train(i % 2 == 0) for i, module in enumerate(unequal())])
    before = stack.modes()
    ch.fit(stack, data(), epochs=1)
    assert stack.modes() == before


class Stop(Exception):
    """Ends a run from its progress."""


def test_a_run_of_unequal_members_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == 2:
            raise Stop

    told: dict[str, Any] = {"epochs": 4, "lr": 1e-2, "clip": 0.5, "checkpoint_every": 1}
    whole = ch.fit(unequal(), data(), **told, out=tmp_path / "whole")
    with pytest.raises(Stop):
        ch.fit(unequal(), data(), **told, out=tmp_path / "run", progress=stop)
    resumed = ch.fit(unequal(), data(), **told, out=tmp_path / "run", resume=True)
    assert resumed.table == whole.table
    for one, other in zip(resumed.stack, whole.stack, strict=True):
        assert [repr(module) for module in one.modules()] == [repr(m) for m in other.modules()]
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            assert torch.equal(mine, theirs)
    with pytest.raises(ValueError, match="clip"):
        ch.fit(unequal(), data(), **told | {"clip": 0.25}, out=tmp_path / "run", resume=True)
