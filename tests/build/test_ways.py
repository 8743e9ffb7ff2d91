"""Each way through While and Cond must run; the outcomes of a plain ``if`` need not."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import chimera as ch

SPEC = ch.spec(3, 4)


def positive(x):
    return x.mean() > 0


def twice(x):
    return bool(x.mean() > 0) and bool(x.sum() > 0)


class Guarded(nn.Module):
    """Ends the run on data that no layer should see."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if x.isnan().any():
            raise ValueError("not a number")
        if torch.isinf(x).any():
            raise ValueError("infinite")
        y = self.inner(x)
        if y.isnan().any():
            raise ValueError("not a number any more")
        return y


class Number(nn.Module):
    def forward(self, x):
        return x * x.sum().item()


class If(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.usual = nn.Linear(4, 5)
        self.other = nn.Linear(7, 5)

    def forward(self, x):
        if x.mean() > 0:
            return self.usual(x)
        return self.other(x)


def line(inputs: int = 4, outputs: int = 5) -> nn.Linear:
    return nn.Linear(inputs, outputs)


def guarded(inputs: int = 4, outputs: int = 5) -> nn.Module:
    return Guarded(line(inputs, outputs))


MISFITS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "otherwise": (
        lambda: nn.Sequential(ch.Cond(positive, line(), line(7))),
        "0.otherwise",
        "the Cond at 0 takes otherwise",
    ),
    "then": (
        lambda: ch.Cond(positive, line(7), line()),
        "then",
        "the Cond at (root) takes then",
    ),
    "what comes after": (
        lambda: nn.Sequential(ch.Cond(positive, line(), line(4, 6)), nn.ReLU(), line(5, 2)),
        "2",
        "the Cond at 0 takes otherwise",
    ),
    "what comes after, lazy": (
        lambda: nn.Sequential(
            ch.Cond(positive, nn.LazyLinear(5), nn.LazyLinear(6)), nn.ReLU(), line(5, 2)
        ),
        "2",
        "the Cond at 0 takes otherwise",
    ),
    "a condition that asks itself": (
        lambda: ch.Cond(twice, line(), line(7)),
        "otherwise",
        "the Cond at (root) takes otherwise",
    ),
    "in a branch": (
        lambda: ch.Cond(positive, line(), nn.Sequential(ch.Cond(positive, line(), line(6)))),
        "otherwise.0.otherwise",
        "the Cond at otherwise.0 takes otherwise",
    ),
    "among guards": (
        lambda: nn.Sequential(
            guarded(4, 4), ch.Cond(positive, guarded(), guarded(4, 6)), nn.ReLU(), line(5, 2)
        ),
        "3",
        "the Cond at 1 takes otherwise",
    ),
    "a second turn": (
        lambda: ch.While(positive, line(), limit=9),
        "body",
        "the While at (root) takes two turns",
    ),
    "no turn": (
        lambda: nn.Sequential(ch.While(positive, line(), limit=1), nn.ReLU(), line(5, 2)),
        "2",
        "the While at 0 takes no turn",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_way_through_a_block_that_does_not_run_is_a_misfit(name: str) -> None:
    make, path, said = MISFITS[name]
    for look in (ch.build, ch.shapes):
        with pytest.raises(RuntimeError) as caught:
            look(make(), SPEC)
        (note,) = caught.value.__notes__
        assert note.startswith(f"in the module at {path}: Linear")
        assert f"\n  where: {said}\n  mend: " in note


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "guards": lambda: nn.Sequential(
        guarded(4, 4),
        Guarded(ch.Cond(positive, guarded(), guarded())),
        Guarded(ch.While(positive, guarded(5, 5), limit=4)),
        guarded(5, 2),
    ),
    "guards in nested blocks": lambda: ch.Cond(
        positive, line(), ch.Cond(positive, guarded(), ch.Cond(positive, guarded(), line()))
    ),
    "many": lambda: nn.Sequential(
        *(ch.Cond(positive, line(4, 4), guarded(4, 4)) for _ in range(3)),
        *(ch.While(positive, guarded(4, 4), limit=4) for _ in range(3)),
    ),
    "shapes decide": lambda: ch.Cond(lambda x: x.shape[1] == 4, line(), line(7)),
    "shapes decide too": lambda: ch.Cond(
        lambda x: x.mean() > 0 and x.shape[1] == 7, line(7), line()
    ),
    "a branch that needs data": lambda: ch.Cond(positive, line(), nn.Sequential(line(), Number())),
    "a plain if": If,
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_no_misfit_is_built(name: str) -> None:
    ch.build(RIGHT[name](), SPEC)


def test_every_way_tells_its_shapes() -> None:
    net = ch.Cond(positive, nn.LazyLinear(5), ch.Cond(positive, nn.LazyLinear(5), line()))
    rows = {row.path: row for row in ch.shapes(net, SPEC).rows}
    assert {rows[path].calls for path in ("then", "otherwise.then", "otherwise.otherwise")} == {1}


def test_the_network_keeps_nothing_of_it() -> None:
    net = ch.build(ch.Cond(positive, line(), line()), SPEC)
    assert "holds" not in vars(net)
