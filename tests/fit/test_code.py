"""What a loss is made of: the same when made again, another with another value that it holds."""

import functools
import linecache
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chimera.fit.code import code_of


def weighted(weight: Any) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return weight * F.cross_entropy(output, target)

    return loss


def plain(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


class Own(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.scale * F.cross_entropy(output, target)


def _defaults(value: Any) -> Callable[..., Any]:
    def loss(output: Tensor, target: Tensor, scale: float = value) -> Tensor:
        return scale * output

    return loss


GLOBAL = """
def helper(x): return x * WEIGHT
def direct(o, t): return o * WEIGHT
def through(o, t): return helper(o)
"""


def _globals(value: float) -> tuple[Any, Any]:
    """Two functions of a module in which ``WEIGHT`` is ``value``."""
    name = "losses_of_a_user"
    linecache.cache[name] = (len(GLOBAL), None, GLOBAL.splitlines(keepends=True), name)
    held: dict[str, Any] = {"WEIGHT": value, "__name__": name, "TABLE": {value: object()}}
    exec(compile(GLOBAL, name, "exec"), held)
    return held["direct"], held["through"]


def _closing(value: float) -> type[nn.Module]:
    class Closing(nn.Module):
        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return value * output

    return Closing


MADE: dict[str, Callable[[Any], Any]] = {
    "partial": lambda v: functools.partial(F.cross_entropy, label_smoothing=v),
    "partial of a partial": lambda v: functools.partial(functools.partial(plain), v),
    "closure": weighted,
    "closure over a tensor": lambda v: weighted(torch.tensor([v, 1.0])),
    "closure over a closure": lambda v: weighted(weighted(v)),
    "closure over values": lambda v: weighted({"a": [v, None], "b": "c"}),
    "torch's module": lambda v: nn.CrossEntropyLoss(weight=torch.tensor([1.0, v])),
    "torch's setting": lambda v: nn.CrossEntropyLoss(label_smoothing=v),
    "a module": Own,
    "a default": lambda v: _defaults(v),
    "a lambda": lambda v: (lambda o, t: o * 0.25) if v == 0.25 else (lambda o, t: o * 0.5),
    "a global": lambda v: _globals(v)[0],
    "a global function": lambda v: _globals(v)[1],
    "a class that closes over it": lambda v: _closing(v)(),
    "a class attribute": lambda v: type("Made", (Own,), {"factor": v})(1.0),
    "nested modules": lambda v: nn.Sequential(Own(1.0), Own(v)),
}


@pytest.mark.parametrize("name", MADE)
def test_values_that_are_held_count(name: str) -> None:
    make = MADE[name]
    assert code_of(make(0.25)) == code_of(make(0.25)) is not None
    assert code_of(make(0.25)) != code_of(make(0.5))


def test_functions() -> None:
    assert code_of(plain) == code_of(plain) is not None
    assert code_of(plain) != code_of(weighted)
    assert code_of(F.cross_entropy) is None
    assert code_of(functools.partial(F.cross_entropy)) is None
    assert code_of(3) is None


def test_a_closure_over_itself_and_over_a_name_without_a_value() -> None:
    def outer() -> Callable[[int], Any]:
        def loop(n: int) -> Any:
            return loop(n - 1) if n else later

        if not outer:
            later = 1
        return loop

    assert code_of(outer()) == code_of(outer()) is not None


def test_what_one_process_alone_knows_does_not_count() -> None:
    def made(device: Any, local_rank: int) -> Callable[..., Any]:
        return lambda output, target: output.to(device) * local_rank

    known = code_of(made("cuda:0", 0))
    assert code_of(made("cuda:1", 1)) == code_of(made(torch.device("cpu"), 2)) == known


def test_lambdas_of_one_line_are_told_apart() -> None:
    one, other = (lambda o, t: o == t), (lambda o, t: o != t)
    assert code_of(one) != code_of(other)
