"""The rules: what they choose, and what they say of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch
from chimera.engine.choice import ENGINES, FEWEST, AutoOnGpu, pays_after, rule_of
from chimera.engine.kinds import Kind

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("engine", "device", "makes"),
    [
        ("eager", CPU, None),
        ("eager", GPU, None),
        ("compiled", CPU, "compiled"),
        ("compiled", GPU, "compiled"),
        ("graphed", GPU, "graphed"),
        ("auto", CPU, "compiled"),
        ("auto", GPU, "graphed"),
        ("measure", CPU, "compiled"),
        ("measure", GPU, "graphed"),
    ],
)
def test_every_engine_has_a_rule_on_every_device(engine, device, makes):
    rule = rule_of(engine, device)
    assert (None if rule is None else rule.makes) == makes
    assert rule is None or rule.name == engine
    assert engine in ENGINES


def test_more_operations_pay_sooner_and_none_before_the_fewest():
    needed = [pays_after(count) for count in (10, 100, 1000, 4000)]
    assert needed == sorted(needed, reverse=True)
    assert needed[-1] >= FEWEST


def test_auto_decides_by_the_length_of_the_run_alone():
    for expected in (1, FEWEST - 1):
        kind, rule = Kind(calls=1), rule_of("auto", CPU)
        assert not rule.ready(kind, expected)
        assert kind.choice == "eager"
        assert f"{expected} calls do not pay" in kind.reason
    kind, rule = Kind(calls=1), rule_of("auto", CPU)
    assert rule.ready(kind, 10**6)
    assert not rule.worth(kind, 100, pays_after(100) - 1)
    assert kind.choice == "eager"
    assert rule.worth(Kind(calls=1), 100, pays_after(100))


def test_auto_on_a_gpu_graphs_what_repeats():
    kind, rule = Kind(calls=1), AutoOnGpu()
    assert not rule.ready(kind, None)
    kind.calls = 3
    assert rule.ready(kind, None)
    assert rule.worth(kind, 50, None)
    assert kind.reason == "one launch takes 50 operations"


def test_measuring_times_both_and_settles(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    stack = ch.Stack(ch.instances(nn.Linear, 3, 4, 2))
    step = ch.train_step(stack, F.cross_entropy, ch.optim.Adam(stack), engine="measure")
    x, y = torch.randn(5, 4), torch.randint(0, 2, (5,))
    for _ in range(12):
        step(x, y)
    assert not step.settled
    assert step.choices == {}
    step(x, y)
    assert step.settled
    assert step.choices["5x4, 5"] in ("eager", "compiled")
    assert "measured: eager" in str(ch.explain(step))


@pytest.mark.parametrize("choice", ["eager", "compiled"])
def test_what_was_chosen_before_is_chosen_at_once(monkeypatch, choice):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    stack = ch.Stack(ch.instances(nn.Linear, 3, 4, 2))
    step = ch.train_step(stack, F.cross_entropy, ch.optim.Adam(stack), engine="measure")
    step.prefer({"5x4, 5": choice})
    step(torch.randn(5, 4), torch.randint(0, 2, (5,)))
    assert step.choices == {"5x4, 5": choice}
    assert "as the run chose before" in str(ch.explain(step))
