"""``ch.fit``: what a member learns does not depend on the others, and what it needs to be told."""

import functools
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import chimera as ch
from chimera.fit import MLP, Data
from chimera.fit.result import Result


def blobs(samples: int = 120, classes: int = 3) -> Data:
    """Classes that a line can part."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(samples) % classes
    centres = 3 * torch.randn(classes, 4, generator=generator)
    return ch.data(centres[y] + torch.randn(samples, 4, generator=generator), y)


def slope(samples: int = 120) -> Data:
    """Two targets, linear in the inputs."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, generator=generator)
    return ch.data(x, x @ torch.tensor([[1.0, 2.0], [0.0, -1.0], [1.0, 0.0], [0.5, 0.5]]))


class Everything(nn.Module):
    """Dropout, batch norm, a shared layer and a ``while``."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.shared = nn.Linear(6, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = nn.functional.dropout(self.shared(self.shared(x)), 0.2, self.training)
        while x.abs().mean() > 1:
            x = x / 2
        return self.out(x)


def nets(n: int, hidden: int = 8, **options: Any) -> list[nn.Module]:
    made: list[nn.Module] = ch.instances(MLP, n, 4, 3, hidden=hidden, seed=0, **options)
    return made


def weights(result: Result, position: int) -> dict[str, Tensor]:
    state: dict[str, Tensor] = result.stack[position].state_dict()
    return state


def test_members_learn_classes() -> None:
    modules = nets(3)
    before = [p.clone() for m in modules for p in m.parameters()]
    result = ch.fit(modules, blobs(), lr=ch.LogUniform(1e-3, 1e-1), epochs=15, batch_size=16)
    assert result.summary["best"] > 0.8
    assert result.summary["ensemble"] > 0.8
    assert [row["member"] for row in result.table] == [0, 1, 2]
    assert len({row["lr"] for row in result.table}) == 3
    assert all(1e-3 <= row["lr"] <= 1e-1 for row in result.table)
    assert [record["epoch"] for record in result.epochs] == list(range(1, 16))
    assert result.epochs[0]["train_loss"][0] > result.epochs[-1]["train_loss"][0]
    for module, is_before in zip((p for m in modules for p in m.parameters()), before, strict=True):
        assert torch.equal(module, is_before)


def test_members_learn_numbers() -> None:
    modules = ch.instances(MLP, 2, 4, 2, depth=0, seed=0)
    result = ch.fit(modules, slope(), lr=0.05, epochs=60, batch_size=8)
    assert result.metric == "r2"
    assert result.summary["best"] > 0.99
    assert result.summary["ensemble"] > 0.99


def test_figures_in_the_table_are_those_of_the_plain_modules() -> None:
    data = blobs()
    result = ch.fit(nets(3), data, epochs=2, batch_size=16)
    for position, row in enumerate(result.table):
        module = result.stack[position].eval()
        for name in ("train", "validation", "test"):
            part = getattr(data, name)
            scores = module(part.x).detach()
            assert row[f"{name}_loss"] == pytest.approx(
                float(cross_entropy(scores, part.y)), rel=1e-4
            )
            assert row[f"{name}_accuracy"] == pytest.approx(
                float((scores.argmax(1) == part.y).float().mean())
            )
    probabilities = [module.eval()(data.test.x).softmax(1) for module in result.stack]
    share = (torch.stack(probabilities).mean(0).argmax(1) == data.test.y).float().mean()
    assert result.ensemble == pytest.approx(float(share))


@pytest.mark.parametrize("factory", [Everything, functools.partial(MLP, 4, 3, dropout=0.3)])
def test_a_member_learns_the_same_alone_and_among_others(factory: Any) -> None:
    modules = [m.double() for m in ch.instances(factory, 4, seed=1)]
    options: dict[str, Any] = {"epochs": 3, "batch_size": 16, "lr": ch.LogUniform(1e-3, 1e-2)}
    many = ch.fit(modules, blobs(), **options)
    two = ch.fit(modules[:2], blobs(), **options)
    for position in range(2):
        one, other = many.table[position], two.table[position]
        assert one["lr"] == other["lr"]
        assert one.pop("died") is other.pop("died") is None
        for name, value in one.items():
            assert value == pytest.approx(other[name], rel=1e-9), name
        for name, tensor in weights(two, position).items():
            torch.testing.assert_close(tensor, weights(many, position)[name], rtol=1e-6, atol=1e-9)


def test_the_same_call_gives_the_same_bits_and_another_seed_other_ones() -> None:
    modules = nets(3, dropout=0.2)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": ch.LogUniform(1e-3, 1e-2)}
    first, again = (ch.fit(modules, blobs(), **options) for _ in range(2))
    other = ch.fit(modules, blobs(), seed=1, **options)
    assert first.table == again.table
    assert first.epochs == again.epochs
    assert torch.equal(weights(first, 1)["out.weight"], weights(again, 1)["out.weight"])
    assert first.table[0]["lr"] != other.table[0]["lr"]


def test_members_see_the_data_in_orders_of_their_own() -> None:
    module = nets(1)[0]
    result = ch.fit([module, module], blobs(), epochs=1, batch_size=16)
    assert not torch.equal(weights(result, 0)["out.weight"], weights(result, 1)["out.weight"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_member_learns_on_a_gpu_what_it_learns_on_a_cpu() -> None:
    modules = [m.double() for m in ch.instances(Everything, 3, seed=1)]
    options: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": ch.LogUniform(1e-3, 1e-2)}
    here = ch.fit(modules, blobs(), **options)
    there = ch.fit(modules, blobs(), device="cuda", **options)
    assert there.stack.device.type == "cuda"
    for one, other in zip(here.table, there.table, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_a_stack_is_trained_in_place_and_modes_come_back() -> None:
    stack = ch.Stack(nets(2, dropout=0.5)).eval()
    before = [parameter.clone() for parameter in stack.parameters()]
    result = ch.fit(stack, blobs(), epochs=1, batch_size=16)
    assert result.stack is stack
    assert not stack.training
    assert not stack[0].training
    assert all(not torch.equal(p, b) for p, b in zip(stack.parameters(), before, strict=True))


def test_modules_that_are_kept_in_evaluation_stay_so_while_the_rest_trains() -> None:
    modules = [Everything() for _ in range(2)]
    for module in modules:
        module.norm.eval()
    result = ch.fit(modules, blobs(), epochs=1, batch_size=16)
    assert result.stack[0].training
    assert not result.stack[0].norm.training
    assert int(result.stack[0].norm.num_batches_tracked) == 0
    assert int(ch.fit([Everything()], blobs(), epochs=1).stack[0].norm.num_batches_tracked) > 0


def test_members_of_different_structures_are_trained_in_groups() -> None:
    modules = [*nets(2, hidden=4), *nets(2, hidden=8), nets(1, hidden=4)[0]]
    result = ch.fit(modules, blobs(), epochs=2, batch_size=16)
    assert [row["group"] for row in result.table] == [0, 0, 1, 1, 0]
    assert [module.hidden[0].out_features for module in result.stack] == [4, 4, 8, 8, 4]
    alone = ch.fit(modules[:1], blobs(), epochs=2, batch_size=16)
    assert alone.table[0]["test_loss"] == pytest.approx(result.table[0]["test_loss"], rel=1e-4)


def test_lazy_members_are_built_from_the_data() -> None:
    def lazy() -> nn.Module:
        return nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(3))

    modules = [lazy() for _ in range(3)]
    result = ch.fit(modules, blobs(), epochs=1, batch_size=16)
    assert isinstance(modules[0][0], nn.LazyLinear)
    assert [tuple(m[0].weight.shape) for m in result.stack] == [(5, 4)] * 3
    again = ch.fit([lazy()], blobs(), epochs=1, batch_size=16)
    assert again.table[0]["test_loss"] == pytest.approx(result.table[0]["test_loss"], rel=1e-4)
    assert result.table[0]["test_loss"] != result.table[1]["test_loss"]


def test_float64_members_get_float64_data() -> None:
    result = ch.fit([m.double() for m in nets(2)], blobs(), epochs=1, batch_size=16)
    assert result.stack[0].out.weight.dtype == torch.float64


def test_a_member_that_breaks_down_touches_no_other_and_is_never_chosen() -> None:
    modules = nets(3)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 16}
    well = ch.fit(modules, blobs(), **options)
    with torch.no_grad():
        modules[1].out.weight[0, 0] = math.nan
    result = ch.fit(modules, blobs(), **options)
    assert result.summary["broken"] == 1
    assert math.isnan(result.table[1]["test_accuracy"])
    assert math.isnan(result.table[1]["test_loss"])
    assert 1 not in result.ranking
    for position in (0, 2):
        assert result.table[position] == well.table[position]
    others = ch.fit(modules[:1], blobs(), **options)
    assert others.table[0]["test_loss"] == pytest.approx(result.table[0]["test_loss"], rel=1e-4)
    assert result.ensemble is not None
    assert math.isfinite(result.ensemble)


def margin(output: Tensor, target: Tensor) -> Tensor:
    """A loss that looks at its numbers."""
    worst = nn.functional.multi_margin_loss(output, target)
    if worst > 0.5:
        return worst
    return worst / 2


def test_a_loss_and_a_metric_of_the_users_own() -> None:
    def errors(output: Tensor, target: Tensor) -> int:
        return int((output.argmax(1) != target).sum())

    data = blobs()
    result = ch.fit(nets(3), data, loss=margin, metric=errors, epochs=2, batch_size=16, lr=0.01)
    assert result.metric == "errors"
    for position, row in enumerate(result.table):
        scores = result.stack[position].eval()(data.test.x)
        assert row["test_errors"] == errors(scores, data.test.y)
    losses = [row["validation_loss"] for row in result.table]
    assert result.ranking[0] == losses.index(min(losses))


def test_outputs_that_are_nested_go_with_a_loss_and_a_metric() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.linear(x), x]

    def loss(output: list[Tensor], target: Tensor) -> Tensor:
        return cross_entropy(output[0], target)

    def share(output: list[Tensor], target: Tensor) -> Tensor:
        assert output[1].shape == (len(target), 4)
        return (output[0].argmax(1) == target).double().mean()

    # As many members as outputs: neither may be taken for the other.
    result = ch.fit([Two(), Two()], blobs(), loss=loss, metric=share, epochs=2, batch_size=16)
    assert result.ensemble is None
    assert all(0 <= row["test_share"] <= 1 for row in result.table)


def test_progress_is_told_of_every_epoch() -> None:
    seen: list[dict[str, Any]] = []
    result = ch.fit(nets(2), blobs(), epochs=3, batch_size=16, progress=seen.append)
    assert seen == result.epochs


def test_other_optimizers_and_their_settings() -> None:
    optimizer = functools.partial(ch.optim.SGD, momentum=0.9)
    result = ch.fit(nets(2), blobs(), optimizer=optimizer, lr=[0.1, 0.01], epochs=5, batch_size=16)
    assert [row["lr"] for row in result.table] == [0.1, 0.01]
    assert "momentum" not in result.table[0]
    each = functools.partial(ch.optim.Adam, betas=([0.8, 0.9], 0.99), weight_decay=[0.0, 0.1])
    table = ch.fit(nets(2), blobs(), optimizer=each, epochs=1, batch_size=16).table
    assert [(row["beta1"], row["weight_decay"]) for row in table] == [(0.8, 0.0), (0.9, 0.1)]
    assert "beta2" not in table[0]
    plain = ch.fit(nets(2), blobs(), optimizer=ch.optim.SGD, lr=[0.1, 0.01], epochs=5)
    assert plain.table[0]["test_loss"] != result.table[0]["test_loss"]


X, Y = torch.zeros(20, 4), torch.arange(20) % 3
MODULES = [nn.Linear(4, 3)]


@pytest.mark.parametrize(
    ("modules", "options", "error", "message"),
    [
        ([], {}, ValueError, "empty"),
        (nn.Linear(4, 3), {}, TypeError, "list of modules, got one Linear"),
        (nn.Linear, {}, TypeError, "list of modules"),
        ([nn.Linear], {}, TypeError, "modules[0]"),
        (MODULES, {"data": (X, Y)}, TypeError, "data must come from ch.data(x, y) or ch.digits()"),
        (MODULES, {"lr": [0.1, 0.2]}, ValueError, "1 members need one number or 1 numbers"),
        (MODULES, {"lr": "fast"}, TypeError, "lr must be a number"),
        (MODULES, {"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        (MODULES, {"epochs": 1.5}, TypeError, "epochs must be a whole number, got 1.5"),
        (MODULES, {"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        (MODULES, {"batch_size": 13}, ValueError, "exceed the 12 training samples, got 13"),
        (MODULES, {"seed": 1.5}, TypeError, "seed must be an int"),
        (MODULES, {"optimizer": torch.optim.Adam}, TypeError, "write ch.optim.Adam"),
        (MODULES, {"optimizer": "adam"}, TypeError, "must be a class of ch.optim"),
        (MODULES, {"loss": nn.MSELoss}, TypeError, "give an instance of the class"),
        (MODULES, {"metric": 3}, TypeError, "metric must be a function"),
        (MODULES, {"progress": "bar"}, TypeError, "progress must be a function of an epoch"),
        (MODULES, {"out": 3}, TypeError, "out must be the path of a directory, got 3"),
        (MODULES, {"out": ""}, ValueError, "out is empty, expected the path of a directory"),
        (MODULES, {"config": 3}, TypeError, "config must be a dict of what JSON can say, got 3"),
        (MODULES, {"config": {"a": {1, 2}}}, TypeError, "config: 'a' is {1, 2}, which JSON cannot"),
        (MODULES, {"metric": lambda y, t: None}, TypeError, "metric must give one number"),
        (MODULES, {"metric": lambda y, t: y}, TypeError, "metric must give one number"),
        (MODULES, {"device": "nowhere"}, ValueError, "device 'nowhere' cannot be used here"),
        ([nn.Linear(4, 2)], {}, ValueError, "gave [2, 2], expected [2, 3], a score for each of 3"),
        ([nn.Linear(5, 3)], {}, RuntimeError, "mat1 and mat2"),
    ],
)
def test_mistakes_are_told_before_training(
    modules: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {"data": ch.data(X, Y), "batch_size": 4} | options
    with pytest.raises(error, match=re.escape(message)):
        ch.fit(modules, given.pop("data"), **given)
