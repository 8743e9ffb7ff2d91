"""Recorded and compiled steps against eager ones."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch
from chimera.engine import choice, fast
from chimera.engine.graph import StepGraph, Tensors

X, Y = torch.randn(4, 8, 6), torch.randint(0, 4, (4, 8))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(5, 4)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


class Asking(Net):
    def forward(self, x):
        return super().forward(x) if x.sum() > -1e9 else x


RATES = [1e-3, 1e-2, 3e-2, 1e-2]


def adamw(stack):
    return ch.optim.AdamW(stack, lr=RATES[: len(stack)])


def trained(engine, nets, steps=6, optimizer=adamw, train_steps=None, **settings):
    stack = ch.Stack(nets, seed=3)
    optimizer = optimizer(stack)
    step = ch.train_step(
        stack, F.cross_entropy, optimizer, engine=engine, steps=train_steps, **settings
    )
    x, y = X[: len(nets)].to(next(stack.parameters()).dtype), Y[: len(nets)]
    losses = [step(ch.each(x), ch.each(y)) for _ in range(steps)]
    return stack, torch.stack(losses), step


@pytest.fixture(scope="module")
def both():
    """Six float64 steps of a net with batch norm and dropout, both ways; compiled once."""
    nets = ch.instances(lambda: Net().double(), 3)
    return trained("eager", nets, clip=1.0), trained("compiled", nets, clip=1.0)


def test_compiled_equals_eager_draws_buffers_and_frozen_rows(both):
    (eager, losses, _), (stack, others, step) = both
    assert "1 of 1 kinds of call are recorded" in str(ch.explain(step))
    torch.testing.assert_close(losses, others, rtol=1e-9, atol=1e-12)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(stack.state_dict()[name], tensor, rtol=1e-6, atol=1e-9)


def test_conditions_stay_eager_and_are_told():
    nets = ch.instances(Asking, 3)
    with pytest.warns(ch.ChimeraWarning, match="runs eagerly: members ask tensors"):
        _, losses, step = trained("compiled", nets)
    _, expected, _ = trained("eager", nets)
    assert torch.equal(losses, expected)
    assert "members ask tensors for Python values" in str(ch.explain(step))


def test_what_vmap_computes_wrongly_stays_eager():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 4))

        def forward(self, x):
            found = F.embedding(x[:, 0].long().abs() % 6, self.table, padding_idx=2)
            return found.square().sum(1)

    stack = ch.Stack(ch.instances(Reads, 3))
    step = ch.train_step(
        stack, torch.mean, ch.optim.SGD(stack, lr=0.1), engine="compiled", steps=100
    )
    with pytest.warns(ch.ChimeraWarning, match="a function that torch.vmap computes wrongly"):
        step(torch.randn(5, 2))


def test_a_compiler_that_fails_leaves_eager(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    nets = ch.instances(Net, 3)
    with pytest.warns(ch.ChimeraWarning, match=r"could not be compiled \(RuntimeError: no C\+\+"):
        _, losses, _ = trained("compiled", nets)
    assert torch.equal(losses, trained("eager", nets)[1])


@pytest.mark.parametrize("planted", ["losses", "exp_avg", "exp_avg_sq"])
def test_a_graph_that_computes_something_else_is_not_used(monkeypatch, planted):
    true = StepGraph.run

    def wrong(self, tensors, given, step, between=None):
        losses = true(self, tensors, given, step, between)
        for tensor, name in zip(tensors.state, tensors.names, strict=True):
            if name == planted:
                tensor.mul_(1.01)
        return losses * (1.01 if planted == "losses" else 1)

    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    monkeypatch.setattr(StepGraph, "run", wrong)
    nets = ch.instances(Net, 3)
    with pytest.warns(ch.ChimeraWarning, match="differs from eager"):
        _, losses, _ = trained("compiled", nets)
    assert torch.equal(losses, trained("eager", nets)[1])


@pytest.mark.parametrize("factory", [nn.LSTM, nn.GRU, nn.Linear])
def test_recorded_graphs_equal_eager(monkeypatch, factory):
    """Without the compiler: what is recorded is what runs."""

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.last = factory(6, 5), nn.Linear(5, 4)

        def forward(self, x):
            out = self.layer(x)
            return self.last(out if isinstance(out, torch.Tensor) else out[0])

    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    nets = ch.instances(lambda: Last().double(), 3)
    _, losses, step = trained("compiled", nets)
    assert "1 of 1 kinds" in str(ch.explain(step))
    torch.testing.assert_close(losses, trained("eager", nets)[1])


def test_frozen_members_unequal_members_and_other_shapes(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    nets = [Net(), nn.Linear(6, 4), Net(), nn.Linear(6, 4)]
    nets[0].first.weight.requires_grad_(False)
    _, expected, _ = trained("eager", nets)
    stack, losses, step = trained("compiled", nets)
    torch.testing.assert_close(losses, expected)
    assert torch.equal(stack[0].first.weight, nets[0].first.weight)
    for _ in range(choice.CALLS_BEFORE + 2):
        step(X[0, :4], Y[0, :4])
    assert "2 of 2 kinds" in str(ch.explain(step))
    stack.eval()
    with torch.no_grad():
        assert torch.isfinite(stack(X[0])).all()


def test_an_unknown_engine_is_told():
    stack = ch.Stack(ch.instances(Net, 3))
    with pytest.raises(
        ValueError,
        match="engine must be one of eager, compiled, graphed, auto, measure, got 'fast'",
    ):
        ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.1), engine="fast")


OPTIMIZERS = {
    "AdamW": adamw,
    "Adam, own betas": lambda s: ch.optim.Adam(s, betas=([0.9, 0.8, 0.7], 0.99), weight_decay=0.1),
    "Adam, groups": lambda s: ch.optim.AdamW(
        s, groups=[{"params": "**.bias", "weight_decay": 0.0, "lr": RATES[:3]}]
    ),
    "SGD": lambda s: ch.optim.SGD(s, lr=0.1),
    "SGD, own momentum": lambda s: ch.optim.SGD(s, lr=RATES[:3], momentum=[0.9, 0.0, 0.5]),
    "SGD, Nesterov": lambda s: ch.optim.SGD(
        s, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("way", ["whole", "clipped", "parted"])
def test_every_optimizer_is_recorded_as_it_steps(monkeypatch, optimizer, way):
    """Without the compiler: losses, parameters, buffers and the optimizer's state."""
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    settings = {"whole": {}, "clipped": {"clip": [0.1, 1.0, 5.0]}}.get(
        way, {"clip": 0.3, "before_update": lambda losses: None}
    )
    nets = ch.instances(lambda: Net().double(), 3)
    make = OPTIMIZERS[optimizer]
    eager, losses, one = trained("eager", nets, optimizer=make, **settings)
    stack, others, two = trained("compiled", nets, optimizer=make, **settings)
    assert "1 of 1 kinds" in str(ch.explain(two))
    torch.testing.assert_close(others, losses, rtol=1e-9, atol=1e-12)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(stack.state_dict()[name], tensor, rtol=1e-6, atol=1e-8)
    ours, theirs = two.optimizer.state_dict(), one.optimizer.state_dict()
    assert ours["steps"] == theirs["steps"]
    for name, tensors in theirs["state"].items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(ours["state"][name][key], tensor, rtol=1e-6, atol=1e-8)


def test_settings_states_and_frozen_members_change_between_recorded_steps(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    nets = ch.instances(lambda: Net().double(), 3)
    runs = []
    for engine in ("eager", "compiled"):
        stack, _, step = trained(engine, nets)
        optimizer, x, y = step.optimizer, ch.each(X[:3].double()), ch.each(Y[:3])
        kept = {**optimizer.state_dict(), "state": {}}
        optimizer.set(lr=0.02, members=[1])
        step(x, y)
        optimizer.freeze([2])
        before = stack[2].first.weight
        for _ in range(4):
            step(x, y)
        assert torch.equal(stack[2].first.weight, before)
        step(x, Y[0])  # another kind, eager so far, moves the same state
        step(x, y)
        optimizer.load_state_dict(kept)
        losses = [step(x, y) for _ in range(2)]
        runs.append((torch.stack(losses), [p.detach() for p in stack.parameters()]))
    torch.testing.assert_close(runs[1][0], runs[0][0], rtol=1e-9, atol=1e-12)
    for one, other in zip(runs[1][1], runs[0][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def hooked(engine, nets):
    """What a hook sees that changes settings and a gradient, and the parameters after it."""
    found, made = [], []

    def hook(losses):
        stack, optimizer = made
        weight = stack.get_parameter("groups.0.first.weight")
        found.append(weight.grad.clone())
        if len(found) == 5:
            optimizer.set(lr=[0.1, 0.2, 0.3])
        if len(found) == 7:
            weight.grad[1] = 0

    def make(stack):
        made[:] = stack, ch.optim.SGD(stack, lr=0.1)
        return made[1]

    stack, _, _ = trained(engine, nets, steps=9, optimizer=make, before_update=hook)
    return found + [p.detach() for p in stack.parameters()]


def test_a_hook_sees_gradients_and_may_change_the_settings(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    nets = ch.instances(lambda: Net().double(), 3)
    for one, other in zip(hooked("compiled", nets), hooked("eager", nets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_prints_stay_eager_and_are_told(capsys):
    class Talking(Net):
        def forward(self, x):
            print("here")  # noqa: T201
            return super().forward(x)

    nets = ch.instances(Talking, 3)
    with pytest.warns(ch.ChimeraWarning, match="runs eagerly: the members print"):
        trained("compiled", nets, steps=4)
    assert capsys.readouterr().out.count("here") >= 4


def test_an_unused_parameter_is_left_alone(monkeypatch):
    class Unused(Net):
        def __init__(self):
            super().__init__()
            self.never = nn.Linear(3, 3)

    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    nets = ch.instances(Unused, 3)
    stack, _, step = trained("compiled", nets)
    assert "1 of 1 kinds" in str(ch.explain(step))
    assert torch.equal(stack[0].never.weight, nets[0].never.weight)


def test_a_large_stack_is_checked_without_copies(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    monkeypatch.setattr(fast, "COPIED_UP_TO", 0)
    copied = []
    monkeypatch.setattr(Tensors, "copies", lambda self: copied.append(self))
    nets = ch.instances(lambda: Net().double(), 3)
    eager, losses, _ = trained("eager", nets)
    stack, others, step = trained("compiled", nets)
    assert "1 of 1 kinds" in str(ch.explain(step))
    assert not copied
    torch.testing.assert_close(others, losses, rtol=1e-9, atol=1e-12)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(stack.state_dict()[name], tensor, rtol=1e-6, atol=1e-8)


def test_auto_pays_for_a_compilation_only_in_a_long_run(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda graph, **_: compiled.append(graph) or graph)
    nets = ch.instances(Net, 3)
    _, _, step = trained("auto", nets, train_steps=50)
    assert not compiled
    assert "50 calls do not pay" in str(ch.explain(step))
    _, _, step = trained("auto", nets, train_steps=10**6)
    assert len(compiled) == 1
    assert "the run has 1000000" in str(ch.explain(step))
    monkeypatch.setattr(choice, "FEWEST", 3)
    monkeypatch.setattr(choice, "pays_after", lambda cost: 5)
    _, _, step = trained("auto", nets, steps=4)
    assert len(compiled) == 1
    assert "pay for their compilation after 5 calls; there were 3" in str(ch.explain(step))
    _, _, step = trained("auto", nets, steps=6)
    assert len(compiled) == 2


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.own, self.scale, self.made = nn.Linear(6, 4), torch.rand(4), None

    def forward(self, x):
        if self.made is None:
            self.made = torch.ones(6)
        return self.own(x * self.made) * self.scale


def test_plain_tensors_of_members_are_recorded_as_their_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    torch.manual_seed(0)
    members = [Scaled() for _ in range(3)]
    x, y = torch.randn(8, 6), torch.randint(0, 4, (8,))
    found = []
    for engine in ("eager", "compiled"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ch.ChimeraWarning)
            stack = ch.Stack(copy.deepcopy(members))
        optimizer = ch.optim.SGD(stack, lr=0.1)
        step = ch.train_step(stack, F.cross_entropy, optimizer, engine=engine, steps=10)
        found.append(torch.stack([step(x, y) for _ in range(6)]))
    assert "is compiled" in ch.explain(step).notes[-1]
    assert step.settled
    torch.testing.assert_close(found[1], found[0])
