"""The rules: what they choose, and what they say of it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch
from chimera.engine.choice import ENGINES, FEWEST, NEVER, AutoOnGpu, pays_after, rule_of
from chimera.engine.cost import Cost, cost_of
from chimera.engine.kinds import Kind
from chimera.engine.trace import recorded

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


def test_what_saves_more_pays_sooner_and_none_before_the_fewest():
    needed = [pays_after(Cost(100, 100, size)) for size in (0, 10**8, 10**9, 10**12)]
    assert needed == sorted(needed, reverse=True)
    assert needed[-1] == FEWEST
    assert pays_after(Cost(100, 10, 0)) > pays_after(Cost(100, 100, 0))
    assert pays_after(Cost(3, 0, 0)) == NEVER


def test_a_recording_is_counted_by_what_a_compiler_fuses():
    def work(x, w):
        y = torch.mm(x, w)  # a product, which stays
        return [torch.relu(y.t()) + 1]  # a view, which costs nothing; two passes

    graph = recorded(work, [torch.ones(4, 3), torch.ones(3, 5)])
    cost = cost_of([graph])
    assert (cost.passes, cost.nbytes) == (2, 2 * 2 * 4 * 20)
    assert cost.operations == len(graph.graph.nodes)


def test_auto_decides_by_the_length_of_the_run_alone():
    for expected in (1, FEWEST - 1):
        kind, rule = Kind(calls=1), rule_of("auto", CPU)
        assert not rule.ready(kind, expected)
        assert kind.choice == "eager"
        assert f"{expected} calls do not pay" in kind.reason
    kind, rule = Kind(calls=1), rule_of("auto", CPU)
    assert rule.ready(kind, 10**6)
    cost = Cost(300, 100, 10**6)
    assert not rule.worth(kind, cost, pays_after(cost) - 1)
    assert kind.choice == "eager"
    assert rule.worth(Kind(calls=1), cost, pays_after(cost))


def test_auto_on_a_gpu_graphs_what_repeats():
    kind, rule = Kind(calls=1), AutoOnGpu()
    assert not rule.ready(kind, None)
    kind.calls = 3
    assert rule.ready(kind, None)
    assert rule.worth(kind, Cost(50, 20, 0), None)
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
