"""Every stack rule with an error planted in it: ``ch.verify`` must see it.

The errors are those that rules are prone to. Each applies to every rule that has what it spoils;
a rule for which none applies, or whose errors go unseen, fails.
"""

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from layer_cases import CASES, Case, case, normal
from layer_proof import given
from torch import Tensor, nn

import chimera as ch
from chimera.paths.nest import flatten
from chimera.stack.rules import RULES
from chimera.stack.rules.together import together

MEMBERS = 2


class Small(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sum() > 1


def _while() -> nn.Module:
    halve = nn.Linear(4, 4)
    with torch.no_grad():
        halve.weight.mul_(0.3)
    return ch.While(Small(), halve, limit=20)


OTHERS: dict[str, Case] = {"While": case(_while, normal(3, 4))}


def known(kind: type[nn.Module]) -> Case:
    return CASES.get(kind.__name__) or OTHERS[kind.__name__]


def of_members(spoil: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with every floating tensor ``[members, ...]`` spoilt."""
    leaves, shape = flatten(value)
    return shape.rebuild(
        [
            together(lambda size, tensor: spoil(tensor), leaf)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
            else leaf
            for leaf in leaves
        ]
    )


@contextmanager
def spoilt(module: nn.Module, spoil: Callable[[Tensor], Tensor], only: str = ""):
    """The tensors of a module whose names hold ``only``, spoilt for the time of the block."""
    homes = [
        (home, name, tensor)
        for each in module.modules()
        for home in (each._parameters, each._buffers)
        for name, tensor in home.items()
        if only in name and tensor is not None and tensor.is_floating_point()
    ]
    try:
        for home, name, tensor in homes:
            home[name] = of_members(spoil, tensor)
        yield
    finally:
        for home, name, tensor in homes:
            home[name] = tensor


def neighbours_weight(forward):
    def broken(module, *args, **named):
        with spoilt(module, lambda tensor: tensor.roll(1, 0)):
            return forward(module, *args, **named)

    return broken


def dropped_bias(forward):
    def broken(module, *args, **named):
        with spoilt(module, torch.zeros_like, only="bias"):
            return forward(module, *args, **named)

    return broken


def first_members_weight(forward):
    def broken(module, *args, **named):
        with spoilt(module, lambda tensor: tensor[:1].expand_as(tensor)):
            return forward(module, *args, **named)

    return broken


def neighbours_input(forward):
    def broken(module, *args, **named):
        return forward(module, *of_members(lambda tensor: tensor.roll(1, 0), args), **named)

    return broken


def wrong_axis(forward):
    """The first input with its last axis backwards, the others as they are."""

    def broken(module, first, *args, **named):
        return forward(module, of_members(lambda tensor: tensor.flip(-1), first), *args, **named)

    return broken


def first_members_output(forward):
    def broken(module, *args, **named):
        return of_members(
            lambda tensor: tensor[:1].expand_as(tensor), forward(module, *args, **named)
        )

    return broken


def lost_gradient(forward):
    def broken(module, *args, **named):
        return of_members(lambda tensor: tensor.detach(), forward(module, *args, **named))

    return broken


FAULTS = {
    fault.__name__: fault
    for fault in (
        *(neighbours_weight, dropped_bias, first_members_weight, neighbours_input, wrong_axis),
        *(first_members_output, lost_gradient),
    )
}


def applies(fault: str, kind: type[nn.Module]) -> bool:
    """Whether a kind of layer has what a fault spoils."""
    module = known(kind).modules(1)[0]
    args, _ = known(kind).arguments(1)
    if fault == "dropped_bias":
        return any("bias" in name for name, _ in module.named_parameters())
    if fault.endswith("_weight"):
        return next(module.parameters(), None) is not None
    if fault in ("neighbours_input", "wrong_axis"):
        return args[0].is_floating_point()
    return True


PLANTED = [
    (kind, fault)
    for kind in sorted(RULES, key=lambda kind: kind.__name__)
    for fault in FAULTS
    if applies(fault, kind)
]


def verified(kind: type[nn.Module]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack = ch.Stack(known(kind).modules(MEMBERS, torch.float64))
        return ch.verify(stack, given(known(kind), torch.float64, MEMBERS))


@pytest.mark.parametrize(
    ("kind", "fault"), [pytest.param(k, f, id=f"{k.__name__}-{f}") for k, f in PLANTED]
)
def test_a_planted_error_is_seen(kind, fault, monkeypatch):
    rule = RULES[kind]
    monkeypatch.setitem(RULES, kind, replace(rule, forward=FAULTS[fault](rule.forward)))
    assert verified(kind).wrong


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
def test_no_rule_is_wrong_without_one(kind):
    assert verified(kind).wrong == ()


def test_every_rule_has_several():
    counts = {kind: sum(kind is other for other, _ in PLANTED) for kind in RULES}
    assert min(counts.values()) >= 3
