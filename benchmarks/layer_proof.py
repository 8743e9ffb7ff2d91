"""What is known of each class of ``torch.nn`` in a stack: the rule that runs it, and what held.

``prove`` runs a class of ``CASES``; ``ALONE`` lists what has no stacked form, with the reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from layer_cases import CASES, IMAGES, Case, case, integers, normal
from torch import Tensor, nn

import chimera as ch
from chimera.verify.loop import along

MEMBERS = 3
STEPS = 20


class Scaled(nn.Module):
    """A layer whose first floating input is scaled by a trained number, so that all can train."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype) * 0.9)
        self.layer = layer

    def forward(self, *args: Any, **named: Any) -> Any:
        first, *rest = args
        first = first * self.scale if first.is_floating_point() else first
        return self.layer(first, *rest, **named)


@dataclass(frozen=True)
class Proof:
    """What one class did.

    Attributes:
        rule: what ran it, as ``explain`` says.
        reason: why it ran one by one, else empty.
        wrong: every comparison that failed, by what was compared.
    """

    rule: str
    reason: str
    wrong: dict[str, list[str]]


def loss(output: Any, *_: Any) -> Tensor:
    """A scalar of any output."""
    return along(output) / 16


def prove(known: Case) -> Proof:
    """Hold a class against the loop: what ran it, and one forward and backward in two dtypes."""
    wrong: dict[str, list[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the layers alone say, too
        for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
            stack = ch.Stack(known.modules(MEMBERS, dtype))
            found = ch.verify(stack, given(known, dtype))
            wrong[name] = [str(one) for one in found.wrong]
        inputs = given(known, torch.float64)
        stack(*inputs.args, **inputs.kwargs)
        row = ch.explain(stack).rows[0]
    return Proof(row.rule, row.reason, wrong)


def prove_training(known: Case) -> list[str]:
    """What differs from the loop after ``STEPS`` steps of Adam in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = known.modules(MEMBERS, torch.float64)
        stack = ch.Stack([Scaled(module, torch.float64) for module in modules])
        stack.train(modules[0].training)
        optimizer = ch.optim.Adam(stack, lr=1e-3)
        inputs = given(known, torch.float64)
        found = ch.verify(stack, inputs, loss=loss, optimizer=optimizer, steps=STEPS)
    return [str(one) for one in found.wrong]


def given(known: Case, dtype: torch.dtype, members: int = MEMBERS) -> Any:
    """Inputs, one a member."""
    args, named = known.arguments(members, dtype)
    return ch.inputs(*map(ch.each, args), **{key: ch.each(each) for key, each in named.items()})


class Chosen(nn.Module):
    """Keeps the rows that a mask on data chooses."""

    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0].sum()


class Gathered(nn.Module):
    """Adds rows into zeros of its own making, by edges that are a member's own."""

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return torch.zeros(30, 16, dtype=x.dtype).index_add_(0, edges, x)


class Distinct(nn.Module):
    """Scales by how many numbers of the input are distinct."""

    def forward(self, x: Tensor) -> Tensor:
        return x * len(torch.unique(x.round()))


class _Cube(torch.autograd.Function):
    """In the form that torch.func cannot take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * grad


class Cubed(nn.Module):
    """Calls an ``autograd.Function`` of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return _Cube.apply(x)


class Hooked(nn.Module):
    """A layer with a hook of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 4)
        self.layer.register_forward_hook(_twice)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class UnderAutocast(nn.Module):
    """A layer of LSTM in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(16, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layer(x)[0]


def _twice(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


@dataclass(frozen=True)
class Alone:
    """Something that runs one by one: still exact, and reported by ``explain``."""

    why: str
    case: Case


def _bag(**options: Any) -> Callable[[], nn.Module]:
    return lambda: nn.EmbeddingBag(30, 16, **options)


def _offsets(generator: torch.Generator, members: int, dtype: torch.dtype) -> Tensor:
    return torch.tensor([0, 3, 3, 10]).expand(members, 4).contiguous()


def _lengths(generator: torch.Generator, members: int, dtype: torch.dtype) -> Tensor:
    return torch.tensor([5, 2, 3, 4]).expand(members, 4).contiguous()


def _probabilities(generator: torch.Generator, members: int, dtype: torch.dtype) -> Tensor:
    return normal(12, 4, 6)(generator, members, dtype).log_softmax(-1)


def _twelve(generator: torch.Generator, members: int, dtype: torch.dtype) -> Tensor:
    return torch.full((members, 4), 12)


ALONE: dict[str, Alone] = {
    "`x[mask]` with a mask on data": Alone(
        "members choose different numbers of rows, so that their tensors have no common shape",
        case(Chosen, IMAGES),
    ),
    "`Embedding(sparse=True)`": Alone(
        "sparse gradients have no member axis",
        case(lambda: nn.Embedding(30, 16, sparse=True), integers(30, 8, 6)),
    ),
    "`EmbeddingBag(sparse=True)`": Alone(
        "sparse gradients have no member axis",
        case(_bag(sparse=True, mode="sum"), integers(30, 8, 6)),
    ),
    "`EmbeddingBag(scale_grad_by_freq=True)`": Alone(
        "only torch's own kernel scales its gradients by frequency",
        case(_bag(scale_grad_by_freq=True), integers(30, 8, 6)),
    ),
    '`EmbeddingBag(mode="max")` with offsets': Alone(
        "the maxima of bags of unequal length have no batched form that breaks ties as torch does",
        case(_bag(mode="max"), integers(30, 20), _offsets),
    ),
    "`CTCLoss` with targets laid end to end": Alone(
        "members have targets of different lengths in one tensor",
        case(nn.CTCLoss, _probabilities, integers(5, 14), _twelve, _lengths),
    ),
    "`LSTM` under autocast, and packed sequences of `RNN` and `GRU`": Alone(
        "torch rounds inside of one kernel, which has no batched form; it cuts packed rows itself",
        case(UnderAutocast, normal(4, 6, 16)),
    ),
    "`index_add_` and the like into `torch.zeros(...)`, by indices of a member's own": Alone(
        "the zeros are one for all members; made by `x.new_zeros(...)` each has its own",
        case(Gathered, normal(8, 16), integers(30, 8)),
    ),
    "`torch.unique`, `nonzero`, `torch.where(mask)`": Alone(
        "how long the result is depends on the data",
        case(Distinct, normal(8, 16)),
    ),
    "`torch.autograd.Function` without `setup_context`": Alone(
        "`torch.func` cannot take this older form",
        case(Cubed, normal(8, 16)),
    ),
    "hooks of the user's own": Alone("a hook fires once a member", case(Hooked, normal(8, 16))),
}

__all__ = ["ALONE", "CASES", "MEMBERS", "STEPS", "Proof", "given", "prove", "prove_training"]
