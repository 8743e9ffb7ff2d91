"""Members that differ in numeric settings alone: one group, each with its own numbers."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

import chimera as ch
from chimera.stack import numbers as numbers_file
from chimera.stack.rules.numeric import NUMERIC

# For every class: arguments of the constructor, values of each setting, the shape of an input.
_CHANCES = {"p": (0.1, 0.5, 0.9)}
_NORM = {"eps": (1e-5, 1e-2, 0.5)}
_TRACKED = {**_NORM, "momentum": (0.1, 0.7, 1.0)}
_SLOPES = (0.01, 0.2, 0.7)
CASES: list[
    tuple[type[nn.Module], dict[str, Any], dict[str, tuple[float, ...]], tuple[int, ...]]
] = [
    (nn.Dropout, {}, _CHANCES, (4, 6)),
    (nn.AlphaDropout, {}, _CHANCES, (4, 6)),
    (nn.Dropout1d, {}, _CHANCES, (4, 6, 3)),
    (nn.Dropout1d, {}, _CHANCES, (6, 3)),
    (nn.Dropout2d, {}, _CHANCES, (4, 6, 2, 2)),
    (nn.Dropout3d, {}, _CHANCES, (4, 6, 3, 2, 2)),
    (nn.Dropout3d, {}, _CHANCES, (6, 3, 2, 2)),
    (nn.FeatureAlphaDropout, {}, _CHANCES, (4, 6, 3)),
    (nn.LeakyReLU, {}, {"negative_slope": _SLOPES}, (4, 6)),
    (nn.RReLU, {}, {"lower": (0.0625, 0.1, 0.2), "upper": (0.25, 0.3, 0.7)}, (4, 6)),
    (nn.ELU, {}, {"alpha": (0.5, 1.0, 2.0)}, (4, 6)),
    (nn.CELU, {}, {"alpha": (0.5, 1.0, 2.0)}, (4, 6)),
    (nn.Softplus, {}, {"beta": (0.5, 1.0, 30.0), "threshold": (0.2, 1.0, 20.0)}, (4, 6)),
    (nn.Softshrink, {}, {"lambd": _SLOPES}, (4, 6)),
    (nn.Hardshrink, {}, {"lambd": _SLOPES}, (4, 6)),
    (
        nn.Threshold,
        {"value": 0.3, "threshold": 0.1},
        {"threshold": _SLOPES, "value": _SLOPES},
        (4, 6),
    ),
    (nn.Hardtanh, {}, {"min_val": (-1.0, -0.5, -0.2), "max_val": (0.3, 0.5, 1.0)}, (4, 6)),
    (
        nn.LocalResponseNorm,
        {"size": 3},
        {"alpha": (1e-4, 0.1, 1.0), "beta": (0.5, 0.75, 1.0), "k": (0.5, 1.0, 2.0)},
        (4, 6, 3),
    ),
    (nn.LayerNorm, {"normalized_shape": 6}, _NORM, (4, 6)),
    (nn.RMSNorm, {"normalized_shape": 6}, _NORM, (4, 6)),
    (nn.GroupNorm, {"num_groups": 2, "num_channels": 6}, _NORM, (4, 6, 3)),
    (nn.BatchNorm1d, {"num_features": 6}, _TRACKED, (4, 6)),
    (nn.BatchNorm1d, {"num_features": 6, "affine": False}, _TRACKED, (4, 6, 3)),
    (nn.BatchNorm1d, {"num_features": 6, "momentum": None}, _NORM, (4, 6)),
    (nn.BatchNorm2d, {"num_features": 6}, _TRACKED, (4, 6, 2, 2)),
    (nn.BatchNorm3d, {"num_features": 6, "track_running_stats": False}, _TRACKED, (4, 6, 3, 2, 2)),
    (nn.InstanceNorm1d, {"num_features": 6}, _NORM, (4, 6, 5)),
    (nn.InstanceNorm1d, {"num_features": 6}, _NORM, (6, 5)),
    (nn.InstanceNorm1d, {"num_features": 6, "track_running_stats": True}, _TRACKED, (4, 6, 5)),
    (
        nn.InstanceNorm2d,
        {"num_features": 6, "affine": True, "track_running_stats": True},
        _TRACKED,
        (4, 6, 2, 2),
    ),
    (
        nn.InstanceNorm3d,
        {"num_features": 6, "track_running_stats": True},
        _TRACKED,
        (4, 6, 2, 2, 2),
    ),
    *(
        (
            kind,
            {"input_size": 3, "hidden_size": 4, "num_layers": 2},
            {"dropout": (0.1, 0.5, 0.9)},
            (4, 16, 3),
        )
        for kind in (nn.RNN, nn.GRU, nn.LSTM)
    ),
    # Zero, and a probability of 1, beside others.
    *(
        (kind, {}, {"p": (0.0, 0.5, 1.0)}, shape)
        for kind, shape in (
            (nn.Dropout, (4, 6)),
            (nn.AlphaDropout, (4, 6)),
            (nn.Dropout1d, (4, 6, 3)),
            (nn.Dropout2d, (4, 6, 2, 2)),
            (nn.Dropout3d, (4, 6, 3, 2, 2)),
            (nn.FeatureAlphaDropout, (4, 6, 3)),
        )
    ),
    *(
        (
            kind,
            {"input_size": 3, "hidden_size": 4, "num_layers": 3},
            {"dropout": (0.0, 0.5, 1.0)},
            (4, 16, 3),
        )
        for kind in (nn.RNN, nn.GRU, nn.LSTM)
    ),
    (nn.LeakyReLU, {}, {"negative_slope": (0.0, 0.2, 1.0)}, (4, 6)),
    (nn.RReLU, {}, {"lower": (0.0, 0.1, 0.2), "upper": (0.25, 0.3, 0.7)}, (4, 6)),
    (nn.ELU, {}, {"alpha": (0.0, 1.0, 2.0)}, (4, 6)),
    (nn.Softplus, {}, {"threshold": (0.0, -1.0, 20.0)}, (4, 6)),
    (nn.Softshrink, {}, {"lambd": (0.0, 0.2, 0.7)}, (4, 6)),
    (nn.Hardshrink, {}, {"lambd": (0.0, 0.2, 0.7)}, (4, 6)),
    (
        nn.Threshold,
        {"threshold": 0.3, "value": 0.1},
        {"threshold": (0.0, -0.2, 0.3), "value": (-0.4, 0.0, 0.7)},
        (4, 6),
    ),
    (nn.Hardtanh, {}, {"min_val": (-1.0, 0.0, 0.2), "max_val": (0.0, 0.5, 1.0)}, (4, 6)),
    (
        nn.LocalResponseNorm,
        {"size": 3},
        {"alpha": (0.0, 0.1, 1.0), "beta": (0.5, 0.0, 1.0)},
        (4, 6, 3),
    ),
    *(
        (kind, {"num_features": 6, **tracks}, {"momentum": (0.0, 0.1, 1.0)}, shape)
        for kind, tracks, shape in (
            (nn.BatchNorm1d, {}, (4, 6)),
            (nn.InstanceNorm1d, {"track_running_stats": True}, (4, 6, 5)),
        )
    ),
]
_IDS = [f"{kind.__name__}-{len(shape)}-{i}" for i, (kind, _, _, shape) in enumerate(CASES)]


class _Net(nn.Module):
    """A layer between others, so that gradients of its input are compared, too."""

    def __init__(self, layer: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.randn(shape))
        self.layer = layer
        self.noise = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layer(x * self.before)
        return self.noise(y[0] if isinstance(y, tuple) else y)


def _members(case: Any, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    kind, arguments, values, shape = case
    members = []
    for i in range(3):
        own = {name: numbers[i] for name, numbers in values.items()}
        net = _Net(kind(**{**arguments, **own}), shape)
        with torch.no_grad():
            for tensor in [*net.layer.parameters(), *net.layer.buffers()]:
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand_like(tensor) + 0.5)
        members.append(net.to(dtype))
    return members


def test_every_numeric_setting_has_a_case() -> None:
    known = {(kind, name) for kind, _, values, _ in CASES for name in values}
    assert known == {
        (kind, name)
        for kind, rule in NUMERIC.items()
        if not rule.forward.__module__.endswith(("_losses", "_attention"))
        for name in rule.kinds
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES, ids=_IDS)
def test_equal_to_the_layers_alone(case: Any, training: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    stack = ch.Stack(_members(case, dtype)).train(training)
    x = torch.randn(3, *case[3], dtype=dtype) * 2
    ch.verify(stack, ch.each(x), raises=True)
    ch.verify(stack, x[0], raises=True)
    stack(ch.each(x))
    assert not ch.explain(stack).alone
    (group,) = stack.groups.values()
    assert len(next(group.parameters())) == 3


@pytest.mark.parametrize("case", CASES, ids=_IDS)
def test_another_members_number_is_caught(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shows that the comparison above can fail for each of the settings."""
    true = numbers_file.Numbers.tensors
    monkeypatch.setattr(
        numbers_file.Numbers,
        "tensors",
        lambda self, device: [t.roll(1) for t in true(self, device)],
    )
    torch.manual_seed(0)
    stack = ch.Stack(_members(case, torch.float64)).train()
    assert not ch.verify(stack, torch.randn(case[3], dtype=torch.float64) * 2).ok


@pytest.mark.parametrize("kind", [nn.Dropout, nn.AlphaDropout])
def test_masks_are_those_of_the_member_alone(kind: type[nn.Module]) -> None:
    chances = [0.1, 0.25, 0.5, 0.9]
    stack = ch.Stack([kind(p) for p in chances], seed=3).train()
    x = torch.ones(50, 7)
    for step in range(2):
        together = stack(x)
        for member, p in enumerate(chances):
            with ch.randomness(seed=3, member=member, step=step):
                alone = kind(p)(x)
            assert torch.equal(together[member] == together[member].max(), alone == alone.max())
            torch.testing.assert_close(together[member], alone)


def test_twenty_steps_of_training() -> None:
    torch.manual_seed(0)
    members = [
        nn.Sequential(
            nn.Linear(5, 8),
            nn.BatchNorm1d(8, eps=10.0**-i, momentum=0.1 * i),
            nn.ELU(i),
            nn.Dropout(p),
        )
        for i, p in enumerate((0.1, 0.2, 0.6), start=1)
    ]
    stack = ch.Stack(members, seed=1)
    optimizer = ch.optim.AdamW(stack, lr=[1e-3, 1e-2, 3e-2])
    ch.verify(
        stack, torch.randn(6, 5), torch.randn(6, 8),
        loss=nn.functional.mse_loss, optimizer=optimizer, steps=20, raises=True,
    )  # fmt: skip


@pytest.mark.parametrize("inplace", [nn.LeakyReLU, nn.ELU, nn.Dropout, nn.Threshold])
def test_in_place(inplace: Any) -> None:
    values = {nn.Threshold: [(0.1, 0.2), (0.3, 0.4)]}.get(inplace, [(0.1,), (0.3,)])
    stack = ch.Stack(
        [nn.Sequential(nn.Linear(4, 4), inplace(*v, inplace=True)) for v in values]
    ).train()
    x = torch.randn(5, 4)
    ch.verify(stack, x, raises=True)
    stack(x)
    assert not ch.explain(stack).alone


def test_half_precision_rounds_once() -> None:
    slopes = [0.1, 0.3, 0.7]
    stack = ch.Stack([nn.LeakyReLU(slope) for slope in slopes])
    x = torch.randn(100).bfloat16()
    for member, slope in enumerate(slopes):
        assert torch.equal(stack(x)[member], nn.LeakyReLU(slope)(x))


def test_members_keep_their_own_numbers() -> None:
    stack = ch.Stack([nn.Sequential(nn.Dropout(p)) for p in (0.1, 0.2, 0.3)])
    for made in (stack, copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        assert [made[i][0].p for i in range(3)] == [0.1, 0.2, 0.3]
        assert len(made.groups) == 1


def test_writing_back_a_member_with_another_number() -> None:
    stack = ch.Stack([nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.1)) for _ in range(3)])
    x = torch.randn(4, 2)
    stack(x)
    member = stack[1]
    member[1].negative_slope = 0.5
    stack[1] = member
    assert [stack[i][1].negative_slope for i in range(3)] == [0.1, 0.5, 0.1]
    ch.verify(stack, x, raises=True)
    torch.testing.assert_close(stack(x)[1], member(x))
    assert not ch.explain(stack).alone


def _drops(kind: type[nn.Module], p: float) -> list[nn.Module]:
    return [kind(p), nn.Dropout(0.5), kind(p), nn.AlphaDropout(0.3), nn.Dropout(p / 2)]


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("kind", [nn.Dropout, nn.AlphaDropout])
def test_later_draws_are_those_alone_where_a_member_draws_nothing(
    kind: type[nn.Module], wrapped: bool
) -> None:
    class Net(nn.Module):
        def __init__(self, p: float) -> None:
            super().__init__()
            self.drops = nn.Sequential(*_drops(kind, p))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = checkpoint(self.drops, x, use_reentrant=False) if wrapped else x
            y = y if wrapped else self.drops(x)
            return y * torch.rand(7) + torch.randn(50, 7)

    chances = [0.0, 0.25, 1.0, 0.0, 0.9]
    stack = ch.Stack([Net(p) for p in chances], seed=3).train()
    assert len(stack.groups) == 1
    for step in range(2):
        x, own = (torch.ones(50, 7, requires_grad=True) for _ in range(2))
        together = stack(x)
        together.pow(2).sum().backward()
        for member, p in enumerate(chances):
            with ch.randomness(seed=3, member=member, step=step):
                alone = Net(p)(own)
            alone.pow(2).sum().backward()
            torch.testing.assert_close(together[member], alone)
        torch.testing.assert_close(x.grad, own.grad)
    assert wrapped == bool(ch.explain(stack).alone)


def test_conditions_split_members_of_which_some_draw_nothing() -> None:
    class Net(nn.Module):
        def __init__(self, p: float, shift: float) -> None:
            super().__init__()
            self.drop, self.shift = nn.Dropout(p), nn.Parameter(torch.tensor(shift))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.drop(x + self.shift)
            x = self.drop(x) if self.shift > 0 else x
            return nn.functional.dropout(x, 0.5, self.training)

    stack = ch.Stack([Net(0.25 * (i % 5), (-1.0) ** i * 9) for i in range(12)]).train()
    x = torch.randn(30)
    ch.verify(stack, x, raises=True)
    stack(x)
    assert not ch.explain(stack).alone


def test_training_steps_of_members_of_which_some_draw_nothing() -> None:
    torch.manual_seed(0)
    members = [
        nn.Sequential(nn.Linear(5, 8), nn.Dropout(p), nn.Linear(8, 8), nn.Dropout(0.5))
        for p in (0.0, 0.3, 1.0)
    ]
    stack = ch.Stack(members, seed=1)
    ch.verify(
        stack, torch.randn(6, 5), torch.randn(6, 8),
        loss=nn.functional.mse_loss, optimizer=ch.optim.SGD(stack, lr=0.1), steps=5, raises=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "kinds", [(nn.LayerNorm, "eps"), (nn.Softplus, "beta"), (nn.LeakyReLU, "negative_slope")]
)
def test_what_torch_computes_in_another_way_is_another_structure(
    kinds: tuple[Any, str],
) -> None:
    kind, name = kinds
    given = (4,) if kind is nn.LayerNorm else ()
    other = -0.5 if kind is nn.LeakyReLU else 0.0
    stack = ch.Stack([nn.Sequential(kind(*given, **{name: v})) for v in (0.5, other)])
    assert len(stack.groups) == 2
    assert f"0.{name}: value is 0.5 against {other}" in str(ch.explain(stack))
    ch.verify(stack, torch.randn(3, 4), raises=True)


class _Reader(nn.Module):
    """Uses the number of a layer outside of the layer."""

    def __init__(self, p: float, use: str) -> None:
        super().__init__()
        self.drop, self.use, self.linear = nn.Dropout(p), use, nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = self.drop.p
        if self.use == "functional":
            return nn.functional.dropout(self.linear(x), p, self.training)
        if self.use == "condition":
            return self.linear(x) if p > 0.2 else x
        if self.use == "caught":
            try:
                return self.linear(x) * p
            except TypeError:
                return x
        return torch.mul(self.linear(x), p)


@pytest.mark.parametrize("use", ["functional", "condition", "caught", "product"])
def test_numbers_used_outside_of_their_layer(use: str) -> None:
    stack = ch.Stack([_Reader(p, use) for p in (0.1, 0.2, 0.3)]).train()
    x = torch.randn(4, 3)
    ch.verify(stack, x, raises=True)
    stack(x)
    assert "drop.p" in ch.explain(stack).alone[0].reason


class _Schedule(nn.Module):
    """Changes its own dropout in forward."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop, self.linear = nn.Dropout(p), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.drop(self.linear(x))
        self.drop.p = 0.25
        return y


def test_numbers_written_in_forward() -> None:
    stack = ch.Stack([_Schedule(p) for p in (0.1, 0.2, 0.3)], seed=5).train()
    modules = stack.modules_list()
    x = torch.randn(4, 3)
    for step in range(3):
        together = stack(x)
        for member, module in enumerate(modules):
            with ch.randomness(seed=5, member=member, step=step):
                torch.testing.assert_close(together[member], module(x))
    assert [stack[i].drop.p for i in range(3)] == [0.25] * 3


class _Forward(nn.LeakyReLU):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.negative_slope


def test_a_subclass_has_no_numeric_rule() -> None:
    stack = ch.Stack([_Forward(s) for s in (0.1, 0.2)])
    assert len(stack.groups) == 2
    torch.testing.assert_close(stack(torch.ones(2)), torch.tensor([[0.1, 0.1], [0.2, 0.2]]))


def test_a_number_that_is_none() -> None:
    layers = [nn.BatchNorm1d(3, momentum=m) for m in (None, 0.1)]
    stack = ch.Stack(layers)
    assert len(stack.groups) == 2
    ch.verify(stack, torch.randn(4, 3), raises=True)


def test_conditions_split_members_with_their_numbers() -> None:
    class Net(nn.Module):
        def __init__(self, slope: float, shift: float) -> None:
            super().__init__()
            self.leaky, self.shift = nn.LeakyReLU(slope), nn.Parameter(torch.tensor(shift))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.shift
            return self.leaky(x) if x.sum() > 0 else self.leaky(x * 2)

    stack = ch.Stack([Net(0.1 * (i + 1), (-1.0) ** i * 9) for i in range(12)])
    x = torch.randn(3)
    ch.verify(stack, x, raises=True)
    stack(x)
    assert not ch.explain(stack).alone


@given(
    chances=st.lists(st.floats(0.01, 0.99), min_size=2, max_size=6),
    data=st.data(),
)
@settings(deadline=None, max_examples=20)
def test_any_numbers(chances: list[float], data: st.DataObject) -> None:
    n = len(chances)
    column = st.lists(st.floats(1e-6, 2.0), min_size=n, max_size=n)
    eps, slopes, alphas = (data.draw(column) for _ in range(3))
    torch.manual_seed(0)
    stack = ch.Stack(
        [
            nn.Sequential(
                nn.Linear(3, 6), nn.LayerNorm(6, eps=e), nn.LeakyReLU(s), nn.Dropout(p), nn.ELU(a)
            )
            for e, s, p, a in zip(eps, slopes, chances, alphas, strict=True)
        ]
    ).double()
    assert len(stack.groups) == 1
    ch.verify(stack.train(), torch.randn(5, 3).double(), raises=True)


def test_a_recorded_call_is_told_from_one_with_other_numbers() -> None:
    stack = ch.Stack([nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(s)) for s in (0.1, 0.2, 0.2)])
    before = stack.constants()
    stack[2] = stack[2]
    assert stack.constants() == before
    stack[2] = stack[0]
    assert stack.constants() != before
    before, member = stack.constants(), stack[1]
    member[0].bias.requires_grad_(False)
    stack[1] = member
    assert stack.constants() != before


@pytest.mark.parametrize("uppers", [(0.3, 0.3, 0.3), (0.2, 0.3, 0.9)])
def test_slopes_of_a_shared_input_are_those_of_the_members_alone(uppers):
    x = torch.linspace(-2, 2, 40).view(8, 5)
    modules = [nn.RReLU(0.1, upper) for upper in uppers]
    stack = ch.Stack(modules, seed=3)
    for member, row in enumerate(stack(x)):
        with ch.randomness(seed=3, member=member, step=0):
            assert torch.equal(row, modules[member](x))
    assert not ch.explain(stack).alone
    assert len(stack.groups) == 1
