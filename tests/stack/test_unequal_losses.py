"""Losses and attention of which members differ in a number alone: one group, each with its own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chimera as ch
from chimera.stack import numbers as numbers_file
from chimera.stack.rules.numeric import NUMERIC

N = 3
G = torch.Generator().manual_seed(5)


def normal(*shape: int) -> Tensor:
    return torch.randn(N, *shape, generator=G, dtype=torch.float64)


def signs(*shape: int) -> Tensor:
    return torch.randint(2, (N, *shape), generator=G) * 2.0 - 1


def classes(*shape: int) -> Tensor:
    return torch.randint(4, (N, *shape), generator=G)


def shares(*shape: int) -> Tensor:
    return normal(*shape).softmax(-1)


CASES: list[tuple[type[nn.Module], dict[str, Any], dict[str, tuple[float, ...]], list[Tensor]]] = [
    (nn.SmoothL1Loss, {}, {"beta": (0.3, 1.0, 2.0)}, [normal(5, 4), normal(5, 4)]),
    (nn.SmoothL1Loss, {"reduction": "none"}, {"beta": (0.3, 1.0, 2.0)}, [normal(5), normal(5)]),
    (nn.HuberLoss, {}, {"delta": (0.3, 1.0, 2.0)}, [normal(5, 4), normal(5, 4)]),
    (nn.HingeEmbeddingLoss, {}, {"margin": (0.3, 1.0, 2.0)}, [normal(5, 4), signs(5, 4).long()]),
    (
        nn.CosineEmbeddingLoss,
        {"reduction": "sum"},
        {"margin": (0.1, 0.3, 0.5)},
        [normal(9, 3), normal(9, 3), signs(9).long()],
    ),
    (
        nn.MarginRankingLoss,
        {},
        {"margin": (0.3, 1.0, 2.0)},
        [normal(5), normal(5), signs(5)],
    ),
    (nn.MultiMarginLoss, {}, {"margin": (0.3, 1.0, 2.0)}, [normal(5, 4), classes(5)]),
    (nn.MultiMarginLoss, {"p": 2}, {"margin": (0.3, 1.0, 2.0)}, [normal(4), classes()]),
    (
        nn.TripletMarginLoss,
        {"swap": True},
        {"margin": (0.3, 1.0, 2.0), "eps": (1e-6, 0.1, 0.5)},
        [normal(5, 4), normal(5, 4), normal(5, 4)],
    ),
    (nn.PairwiseDistance, {"p": 1.0}, {"eps": (1e-6, 0.1, 0.5)}, [normal(5, 4), normal(5, 4)]),
    (nn.PairwiseDistance, {"keepdim": True}, {"eps": (1e-6, 0.1, 0.5)}, [normal(4), normal(4)]),
    (nn.CosineSimilarity, {}, {"eps": (1e-8, 1.5, 4.0)}, [normal(5, 4), normal(5, 4)]),
    (nn.CosineSimilarity, {"dim": 0}, {"eps": (1e-8, 1.5, 4.0)}, [normal(5, 4), normal(5, 4)]),
    (
        nn.PoissonNLLLoss,
        {"log_input": False, "full": True},
        {"eps": (1e-8, 0.1, 0.5)},
        [normal(5, 4).exp(), normal(5, 4).exp().round()],
    ),
    (nn.PoissonNLLLoss, {}, {"eps": (1e-8, 0.1, 0.5)}, [normal(5, 4), normal(5, 4).exp().round()]),
    (
        nn.GaussianNLLLoss,
        {"full": True},
        {"eps": (1e-6, 0.5, 2.0)},
        [normal(5, 4), normal(5, 4), normal(5, 4).exp()],
    ),
    (
        nn.GaussianNLLLoss,
        {},
        {"eps": (1e-6, 0.5, 2.0)},
        [normal(5, 4), normal(5, 4), normal(5).exp()],
    ),
    (nn.CrossEntropyLoss, {}, {"label_smoothing": (0.1, 0.3, 0.9)}, [normal(5, 4), classes(5)]),
    (
        nn.CrossEntropyLoss,
        {"weight": torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64), "ignore_index": 1},
        {"label_smoothing": (0.1, 0.3, 0.9)},
        [normal(5, 4), classes(5)],
    ),
    (
        nn.CrossEntropyLoss,
        {"reduction": "none"},
        {"label_smoothing": (0.1, 0.3, 0.9)},
        [normal(2, 4, 3), classes(2, 3)],
    ),
    (nn.CrossEntropyLoss, {}, {"label_smoothing": (0.1, 0.3, 0.9)}, [normal(5, 4), shares(5, 4)]),
]
NONE = [  # zero, and all there is, beside others
    (nn.SmoothL1Loss, {}, {"beta": (0.0, 1.0, 2.0)}, [normal(5, 4), normal(5, 4)]),
    (nn.HingeEmbeddingLoss, {}, {"margin": (0.0, -1.0, 2.0)}, [normal(5, 4), signs(5, 4).long()]),
    (
        nn.CosineEmbeddingLoss,
        {},
        {"margin": (0.0, -0.3, 0.5)},
        [normal(9, 3), normal(9, 3), signs(9).long()],
    ),
    (nn.MarginRankingLoss, {}, {"margin": (0.0, -1.0, 2.0)}, [normal(5), normal(5), signs(5)]),
    (nn.MultiMarginLoss, {}, {"margin": (0.0, -1.0, 2.0)}, [normal(5, 4), classes(5)]),
    (nn.PairwiseDistance, {}, {"eps": (0.0, 0.1, 0.5)}, [normal(5, 4), normal(5, 4)]),
    (nn.CosineSimilarity, {}, {"eps": (0.0, 1.5, 4.0)}, [normal(5, 4), normal(5, 4)]),
    (nn.CrossEntropyLoss, {}, {"label_smoothing": (0.0, 0.3, 1.0)}, [normal(5, 4), classes(5)]),
    (nn.CrossEntropyLoss, {}, {"label_smoothing": (0.0, 0.3, 1.0)}, [normal(5, 4), shares(5, 4)]),
]
CASES += NONE
HERE = ("numeric_losses", "numeric_attention")


class Scaled(nn.Module):
    """A loss of an input with a parameter before it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand((), dtype=torch.float64) + 0.5)
        self.layer = layer

    def forward(self, x: Tensor, *others: Any) -> Any:
        return self.layer(x * self.scale, *others)


def members(case: Any, wrap: Callable[[nn.Module], nn.Module] = Scaled) -> list[nn.Module]:
    kind, arguments, values, _ = case
    torch.manual_seed(0)
    return [
        wrap(kind(**arguments, **{name: numbers[i] for name, numbers in values.items()}))
        for i in range(N)
    ]


def test_every_numeric_setting_has_a_case() -> None:
    known = {(kind, name) for kind, _, values, _ in CASES for name in values}
    known |= {(nn.MultiheadAttention, "dropout")}
    assert known == {
        (kind, name)
        for kind, rule in NUMERIC.items()
        if rule.forward.__module__.endswith(HERE)
        for name in rule.kinds
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_equal_to_the_losses_alone(case: Any, dtype: torch.dtype) -> None:
    stack = ch.Stack([module.to(dtype) for module in members(case)])
    assert len(stack.groups) == 1
    args = [a.to(dtype) if a.is_floating_point() else a for a in case[3]]
    ch.verify(stack, ch.inputs(*map(ch.each, args)), raises=True)
    stack(*map(ch.each, args))
    assert not ch.explain(stack).alone


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_another_members_number_is_caught(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if case[0] is nn.PoissonNLLLoss and "log_input" not in case[1]:
        pytest.skip("eps enters without log_input alone")
    true = numbers_file.Numbers.tensors
    monkeypatch.setattr(
        numbers_file.Numbers,
        "tensors",
        lambda self, device: [t.roll(1) for t in true(self, device)],
    )
    assert not ch.verify(ch.Stack(members(case)), ch.inputs(*map(ch.each, case[3]))).ok


def test_a_class_that_cannot_be_counts_where_there_is_smoothing_alone() -> None:
    values = (0.0, 0.1)
    stack = ch.Stack([nn.CrossEntropyLoss(label_smoothing=s) for s in values])
    x, y = torch.randn(2, 5, 4), torch.randint(3, (2, 5))
    x[..., 3] = -torch.inf
    own = x.clone().requires_grad_()
    x.requires_grad_()
    found = stack(ch.each(x), ch.each(y))
    found.sum().backward()
    for i, value in enumerate(values):
        alone = nn.functional.cross_entropy(own[i], y[i], label_smoothing=value)
        alone.backward()
        torch.testing.assert_close(found[i], alone, equal_nan=True)
    torch.testing.assert_close(x.grad, own.grad, equal_nan=True)
    assert len(stack.groups) == 1


def test_no_difference_at_all_has_no_gradient_where_beta_is_zero() -> None:
    stack = ch.Stack([nn.SmoothL1Loss(beta=beta) for beta in (0.0, 1.0)])
    x = torch.zeros(2, 3, requires_grad=True)
    stack(ch.each(x), torch.zeros(3)).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 3))


def test_inputs_that_do_not_fit_are_refused_as_alone() -> None:
    stack = ch.Stack([nn.MarginRankingLoss(margin) for margin in (0.1, 0.2)])
    with pytest.raises(RuntimeError, match="should have same dimension"):
        stack(torch.randn(3), torch.randn(3), torch.ones(3, 1))
    gaussian = ch.Stack([nn.GaussianNLLLoss(eps=eps) for eps in (0.1, 0.2)])
    with pytest.raises(ValueError, match="negative entry"):
        gaussian(torch.randn(3), torch.randn(3), -torch.ones(3))


def test_a_last_target_that_is_ignored_altogether_is_nan_as_alone() -> None:
    stack = ch.Stack([nn.CrossEntropyLoss(label_smoothing=s) for s in (0.1, 0.2)])
    x, y = torch.randn(3, 4), torch.full((3,), -100)
    assert stack(x, y).isnan().all()
    assert stack[0](x, y).isnan()


class Attends(nn.Module):
    def __init__(self, dropout: float, **how: Any) -> None:
        super().__init__()
        self.how = how
        self.layer = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        y, weights = self.layer(x, x, x, **self.how)
        return nn.functional.dropout(y, 0.5, self.training), weights  # draws after the layer


MASK = torch.ones(5, 5, dtype=torch.bool).triu(1)
HOW = [
    {},
    {"need_weights": False},
    {"need_weights": False, "attn_mask": MASK, "is_causal": True},
    {"attn_mask": MASK, "average_attn_weights": False},
    {"need_weights": False, "attn_mask": MASK.double() * -2.0},
]


@pytest.mark.parametrize("chances", [(0.1, 0.4, 0.8), (0.0, 0.4, 1.0)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("how", HOW)
def test_dropout_of_attention(
    how: dict[str, Any], training: bool, chances: tuple[float, ...]
) -> None:
    torch.manual_seed(0)
    stack = ch.Stack([Attends(p, **how).double() for p in chances]).train(training)
    assert len(stack.groups) == 1
    x = torch.randn(N, 2, 5, 8, dtype=torch.float64)
    for _ in range(2):
        ch.verify(stack, ch.each(x), raises=True)
        stack(ch.each(x))
    assert not ch.explain(stack).alone


def test_another_members_dropout_of_attention_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    true = numbers_file.Numbers.tensors
    monkeypatch.setattr(
        numbers_file.Numbers,
        "tensors",
        lambda self, device: [t.roll(1) for t in true(self, device)],
    )
    stack = ch.Stack([Attends(p).double() for p in (0.1, 0.4, 0.8)])
    assert not ch.verify(stack, torch.randn(2, 5, 8, dtype=torch.float64)).ok


def test_transformers_that_differ_in_dropout_alone() -> None:
    torch.manual_seed(0)
    stack = ch.Stack(
        [nn.TransformerEncoderLayer(8, 2, 16, dropout=p, batch_first=True) for p in (0.1, 0.3)]
    )
    assert len(stack.groups) == 1
    x = torch.randn(2, 5, 8)
    ch.verify(stack, x, raises=True)
    stack(x)
    assert not ch.explain(stack).alone
