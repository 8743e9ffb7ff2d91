"""Every way in which Python asks a tensor for a value is seen; nothing else is touched."""

import operator

import pytest
import torch

from chimera.decide.watch import CONVERSIONS, Asked, Sentinel, Watch, convert

ONE = torch.tensor(1.5)
WHOLE = torch.tensor(3)

ASKS = {
    "if": (lambda: "yes" if ONE > 0 else "no", "bool"),
    "while": (lambda: next(1 for _ in range(3) if ONE), "bool"),
    "not": (lambda: not ONE, "bool"),
    "and": (lambda: ONE and 1, "bool"),
    "assert": (lambda: _asserted(), "bool"),
    "bool": (lambda: bool(ONE), "bool"),
    "is_nonzero": (lambda: torch.is_nonzero(ONE), "bool"),
    "method is_nonzero": (lambda: ONE.is_nonzero(), "bool"),
    "int": (lambda: int(ONE), "int"),
    "float": (lambda: float(ONE), "float"),
    "complex": (lambda: complex(ONE), "complex"),
    "index": (lambda: operator.index(WHOLE), "index"),
    "range": (lambda: range(WHOLE), "index"),
    "subscript": (lambda: [1, 2, 3, 4][WHOLE], "index"),
    "slice": (lambda: [1, 2, 3, 4][:WHOLE], "index"),
    "item": (lambda: ONE.item(), "item"),
    "tolist": (lambda: ONE.tolist(), "tolist"),
    "requires_grad": (lambda: ONE.requires_grad, "requires_grad"),
    "chained comparison": (lambda: 0 < ONE < 2, "bool"),
    "any of a list": (lambda: any([ONE > 0]), "bool"),
    "max of a list": (lambda: max([ONE, WHOLE]), "bool"),
    "in a list": (lambda: ONE in [WHOLE], "bool"),
}


def _asserted():
    assert ONE > 0


@pytest.mark.parametrize("name", ASKS)
def test_every_question_is_seen(name):
    ask, conversion = ASKS[name]
    seen = []

    def answer(tensor, kind):
        seen.append(kind)
        if kind == "requires_grad":
            return False
        return convert(tensor.item() if kind != "tolist" else tensor.tolist(), kind)

    expected = ask()
    with Watch(answer):
        assert ask() == expected
    assert conversion in seen


def test_every_conversion_listed_is_asked_above():
    assert set(CONVERSIONS.values()) == {conversion for _, conversion in ASKS.values()}


@pytest.mark.parametrize(
    ("value", "conversion", "expected"),
    [
        *((1.0, "bool", True), (0, "bool", False), (float("nan"), "bool", True)),
        *((2.7, "int", 2), (True, "int", 1), (3, "float", 3.0), (3, "complex", 3 + 0j)),
        *((3, "index", 3), (0.1, "item", 0.1), ([[1, 2]], "tolist", [[1, 2]])),
    ],
)
def test_convert(value, conversion, expected):
    converted = convert(value, conversion)
    assert converted == expected
    assert type(converted) is type(expected)


def test_what_is_no_question_goes_through():
    def never(tensor, kind):
        raise AssertionError

    with Watch(never):
        x = torch.ones(3, requires_grad=True)
        assert x.shape == (3,)
        assert len(x) == 3
        assert x.dim() == 1
        assert torch.equal((x + 1) * 2, torch.full((3,), 4.0))
        assert torch.where(x > 0, x, -x).dtype == torch.float32


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.grad_fn,
        lambda x: x.is_leaf,
        lambda x: x.grad,
        lambda x: x.register_hook(print),
        lambda x: x.retain_grad(),
    ],
)
@pytest.mark.parametrize("make", [Sentinel, lambda: Watch(lambda *_: False)])
def test_what_a_batched_tensor_cannot_answer_is_refused_even_if_caught(ask, make):
    mode = make()
    with mode, pytest.raises(Asked, match="the module asks a tensor for its"):
        ask(torch.ones(3, requires_grad=True))
    assert isinstance(mode.refused, Asked)


def test_a_sentinel_lets_questions_through_that_have_an_answer():
    sentinel = Sentinel()
    with sentinel:
        assert bool(ONE)
        assert ONE.item() == 1.5
    assert sentinel.refused is None


def test_a_sentinel_remembers_what_vmap_refused():
    sentinel = Sentinel()

    def catches(x):
        try:
            return x * x.item()
        except RuntimeError:
            return x

    with sentinel:
        torch.vmap(catches)(torch.ones(3))
    assert isinstance(sentinel.refused, RuntimeError)


def test_a_sentinel_does_not_let_requires_grad_lie():
    weights = torch.ones(3, requires_grad=True)
    assert torch.vmap(lambda w: w * 2 if w.requires_grad else w)(weights).sum() == 3  # the lie
    with Sentinel(), pytest.raises(Asked, match="requires_grad"):
        torch.vmap(lambda w: w * 2 if w.requires_grad else w)(weights)


def test_replacements_run_in_the_place_of_functions():
    watch = Watch(lambda *_: None, {torch.sin: lambda x: x + 100})
    with watch:
        moved = torch.sin(torch.zeros(()))
        same = torch.cos(torch.zeros(()))
    assert moved.item() == 100
    assert same.item() == 1
    assert watch.replaced == 1
