"""A member that breaks down stands still; the others never notice."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chimera as ch
from chimera.fit import Data
from chimera.fit.result import Result


def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 4, generator=generator)
    return ch.data(x, (x[:, 0] > 0).long())


class Trap(torch.autograd.Function):
    """The identity; at its member's hour the output, or the gradient alone, is not finite."""

    @staticmethod
    def forward(x: Tensor, hit: Tensor, value: float, backward: bool) -> Tensor:
        return x.clone() if backward else torch.where(hit, value, x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, hit, value, backward = inputs
        ctx.save_for_backward(hit)
        ctx.value, ctx.backward = value, backward

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (hit,) = ctx.saved_tensors
        return torch.where(hit, ctx.value, grad) if ctx.backward else grad, None, None, None

    generate_vmap_rule = True


class Net(nn.Module):
    """Breaks down in training at the call that its buffer ``hour`` names."""

    def __init__(self, value: float = math.nan, backward: bool = False) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 8), nn.Linear(8, 2)
        self.norm = nn.BatchNorm1d(8)
        self.value, self.backward_only = value, backward
        self.register_buffer("hour", torch.tensor(-1))
        self.register_buffer("calls", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(torch.relu(self.first(x)))
        if self.training:
            self.calls = self.calls + 1
            h = Trap.apply(h, self.calls == self.hour, self.value, self.backward_only)
        return self.out(nn.functional.dropout(h, 0.1, self.training))


def nets(hours: dict[int, int], **options: Any) -> list[Net]:
    made: list[Net] = ch.instances(Net, 4, seed=0, **options)
    for member, hour in hours.items():
        made[member].hour.fill_(hour)
    return made


def train(modules: list[Net], **options: Any) -> Result:
    given = {"epochs": 4, "batch_size": 8, "lr": ch.LogUniform(1e-3, 1e-2)}
    return ch.fit(modules, data(), **{**given, **options})


def optimizers() -> list[Any]:
    return [ch.optim.SGD, ch.optim.Adam, ch.optim.AdamW]


@pytest.mark.parametrize("optimizer", optimizers())
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("backward", [False, True])
def test_the_others_are_those_of_the_run_in_which_it_stayed_finite(
    optimizer: Any, value: float, backward: bool
) -> None:
    options = {"value": value, "backward": backward}
    healthy = train(nets({}, **options), optimizer=optimizer)
    broken = train(nets({1: 7}, **options), optimizer=optimizer)
    assert [row["died"] is None for row in broken.table] == [True, False, True, True]
    assert broken.table[1]["died"].startswith("epoch 2, step 7: ")
    where = "gradient of first." if backward else "loss"
    assert where in broken.table[1]["died"]
    for position in (0, 2, 3):
        assert repr(broken.table[position]) == repr(healthy.table[position])
        mine, theirs = broken.stack[position].state_dict(), healthy.stack[position].state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    for before, after in zip(healthy.epochs, broken.epochs, strict=True):
        for name in ("train_loss", "validation_loss", "validation_accuracy"):
            alive = [before[name][p] == after[name][p] for p in (0, 2, 3)]
            assert all(alive)
            assert math.isnan(after[name][1]) == (after["epoch"] >= 2)


def test_a_dead_member_keeps_the_weights_it_had_before_the_step() -> None:
    short = train(nets({}), epochs=1)  # 4 steps
    broken = train(nets({1: 5}), epochs=3, optimizer=ch.optim.AdamW)
    mine, theirs = broken.stack[1].state_dict(), short.stack[1].state_dict()
    for name in ("first.weight", "out.bias", "norm.weight"):
        assert torch.equal(mine[name], theirs[name]), name
    assert broken.ranking
    assert 1 not in broken.ranking
    assert broken.summary["broken"] == 1
    assert math.isnan(broken.table[1]["test_accuracy"])


def test_several_break_down_at_their_own_times() -> None:
    result = train(nets({0: 2, 2: 9, 3: 9}))
    steps = [row["died"] and row["died"].split(":")[0] for row in result.table]
    assert steps == ["epoch 1, step 2", None, "epoch 3, step 9", "epoch 3, step 9"]


def test_all_may_break_down() -> None:
    result = train(nets({0: 1, 1: 1, 2: 2, 3: 3}))
    assert result.summary["broken"] == 4
    assert result.ensemble is None


def test_large_but_finite_gradients_are_no_breakdown() -> None:
    """Their sum overflows; each of them does not."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return 1e38 * output.mean()

    result = train(nets({}), loss=loss, lr=1e-45, optimizer=ch.optim.SGD, epochs=1)
    assert [row["died"] for row in result.table] == [None] * 4


def test_a_breakdown_is_remembered_by_a_run_that_goes_on(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == 3:
            raise Stop

    whole = train(nets({1: 7}))
    with pytest.raises(Stop):
        train(nets({1: 7}), out=tmp_path / "run", checkpoint_every=1, progress=stop)
    result = train(nets({1: 7}), out=tmp_path / "run", resume=True)
    assert repr(result.table) == repr(whole.table)
    assert repr(result.epochs) == repr(whole.epochs)
    rows = (tmp_path / "run/members.csv").read_text().splitlines()
    assert "epoch 2, step 7: loss not finite" in rows[2]


class Counted(Net):
    """Counts by its norm alone, in place, which can be recorded."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(torch.relu(self.first(x)))
        if self.training:
            hit = self.norm.num_batches_tracked == self.hour
            h = Trap.apply(h, hit, self.value, self.backward_only)
        return self.out(h)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_dead_member_keeps_its_buffers(engine: str) -> None:
    """As the forward of the step left them that it did not take; others' go on."""

    def run(epochs: int) -> Result:
        members = ch.instances(Counted, 4, seed=0)
        members[1].hour.fill_(7)
        return train(members, epochs=epochs, engine=engine)

    short, long = run(2), run(4)
    assert long.table[1]["died"].startswith("epoch 2, step 7: ")
    assert [int(m.norm.num_batches_tracked) for m in long.stack] == [16, 7, 16, 16]
    mine, before = long.stack[1].state_dict(), short.stack[1].state_dict()
    for name, tensor in before.items():  # when the other is compiled, it is so from another step on
        torch.testing.assert_close(mine[name], tensor, msg=name)
    assert not torch.equal(long.stack[0].norm.running_var, short.stack[0].norm.running_var)


def test_a_run_that_goes_on_keeps_them(tmp_path: Path) -> None:
    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == 3:
            raise KeyError

    options = {"out": tmp_path / "run", "checkpoint_every": 1}
    with pytest.raises(KeyError):
        train(nets({1: 7, 2: 14}), progress=stop, **options)
    result = train(nets({1: 7, 2: 14}), out=tmp_path / "run", resume=True)
    assert [int(member.calls) for member in result.stack] == [16, 7, 14, 16]
