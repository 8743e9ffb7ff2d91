"""Steps of one plain network, with an optimizer of torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(5, 4)

    def forward(self, x, scale=1.0):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x))))) * scale


X, Y = torch.randn(8, 6, dtype=torch.float64), torch.randint(0, 4, (8,))


def net(factory=Net):
    torch.manual_seed(0)
    return factory().double()


def trained(engine, factory=Net, steps=6, **settings):
    network = net(factory)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    step = ch.train_step(network, F.cross_entropy, optimizer, engine=engine, **settings)
    torch.manual_seed(1)
    losses = torch.stack([step(ch.inputs(X, scale=2.0), Y) for _ in range(steps)])
    return network, losses, step


def by_hand(steps=6, clip=None):
    network = net()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    torch.manual_seed(1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(X, scale=2.0), Y)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        losses.append(loss.detach())
    return network, torch.stack(losses)


def same(one, other):
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, rtol=1e-6, atol=1e-8)


def test_eager_is_the_loop_by_hand():
    expected, losses = by_hand(clip=0.5)
    network, others, step = trained("eager", clip=0.5)
    assert torch.equal(losses, others)
    assert all(map(torch.equal, expected.parameters(), network.parameters()))
    assert step.settled


def test_recorded_steps_are_the_loop_by_hand(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    expected, losses = by_hand(clip=0.5)
    seen = []
    network, others, step = trained("compiled", clip=0.5, before_update=seen.append)
    assert "1 of 1 kinds of call are recorded" in str(ch.explain(step))
    torch.testing.assert_close(others, losses, rtol=1e-9, atol=1e-12)
    assert torch.equal(torch.stack(seen), others)
    assert step.settled
    same(expected, network)


def test_compiled_steps_are_the_loop_by_hand():
    expected, losses = by_hand()
    network, others, step = trained("compiled")
    assert "1 of 1 kinds of call are recorded" in str(ch.explain(step))
    torch.testing.assert_close(others, losses, rtol=1e-9, atol=1e-12)
    same(expected, network)


def test_a_fused_network_takes_the_same_steps(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)

    def plain():
        return ch.Sequential(ch.Parallel(*(nn.Linear(6, 3) for _ in range(4))), nn.Linear(12, 4))

    runs = []
    for change, engine in ((lambda n: n, "eager"), (ch.fuse, "compiled")):
        network = change(net(plain))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        step = ch.train_step(network, F.cross_entropy, optimizer, engine=engine)
        runs.append((torch.stack([step(X, Y) for _ in range(6)]), network))
    assert "1 of 1 kinds of call are recorded" in str(ch.explain(step))
    torch.testing.assert_close(runs[1][0], runs[0][0], rtol=1e-9, atol=1e-12)
    same(runs[0][1], runs[1][1])


class Asking(Net):
    def forward(self, x, scale=1.0):
        return super().forward(x, scale) if x.sum() > -1e9 else x


class Writing(Net):
    def forward(self, x, scale=1.0):
        self.last_input = x
        return super().forward(x, scale)


class Counting(Net):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, scale=1.0):
        self.calls += 1
        return super().forward(x, scale)


class Talking(Net):
    def forward(self, x, scale=1.0):
        print("here")  # noqa: T201
        return super().forward(x, scale)


class Replacing(Net):
    def __init__(self):
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(6))

    def forward(self, x, scale=1.0):
        self.mean = self.mean * 0.9 + x.detach().mean(0)
        return super().forward(x + self.mean, scale)


def hooked():
    network = Net()
    network.first.register_forward_hook(lambda module, args, output: None)
    return network


def tensor_hooked():
    network = Net()
    network.last.weight.register_hook(lambda grad: grad * 2)
    return network


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (Asking, "it asks a tensor for a Python value"),
        (Writing, "writes state"),
        (Counting, "writes state"),
        (Talking, "print"),
        (Replacing, "differs|writes state"),
        (hooked, r"hooks \(first\)"),
        (tensor_hooked, r"hooks \(last.weight\)"),
    ],
)
def test_what_is_more_than_tensors_stays_eager(monkeypatch, factory, reason):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    if factory is tensor_hooked:  # AdamW, and double(), would make other tensors
        factory = lambda: tensor_hooked()  # noqa: E731
    with pytest.warns(ch.ChimeraWarning, match=f"the step runs eagerly: .*({reason})"):
        network, losses, step = trained("compiled", factory)
    expected, others, _ = trained("eager", factory)
    assert torch.equal(losses, others)
    assert step.settled
    same(expected, network)
    if factory is Counting:
        assert network.calls == expected.calls
    for part in network.modules():
        for value in part.__dict__.values():
            assert type(value).__name__ != "FakeTensor"


def test_mistakes_are_told():
    network, other = Net(), Net()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="none of the network's parameters"):
        ch.train_step(other, F.cross_entropy, optimizer)
    stacked = ch.optim.SGD(ch.Stack([network]))
    with pytest.raises(TypeError, match=r"one of torch\.optim"):
        ch.train_step(network, F.cross_entropy, stacked)
    with pytest.raises(TypeError, match="LBFGS"):
        ch.train_step(network, F.cross_entropy, torch.optim.LBFGS(network.parameters()))
    with pytest.raises(TypeError, match="a ch.Stack or a module, got int"):
        ch.train_step(3, F.cross_entropy, optimizer)
    with pytest.raises(TypeError, match="clip is one number"):
        ch.train_step(network, F.cross_entropy, optimizer, clip=[1.0])
    with pytest.raises(ValueError, match="clip is 0 or more"):
        ch.train_step(network, F.cross_entropy, optimizer, clip=-1.0)
    with pytest.raises(ValueError, match="steps is how many steps"):
        ch.train_step(network, F.cross_entropy, optimizer, steps=0)
    with pytest.raises(TypeError, match="this is one network"):
        ch.train_step(network, F.cross_entropy, optimizer)(ch.each(X.float()), Y)
    with pytest.raises(ValueError, match="one number, got shape"):
        ch.train_step(network, lambda out, y: out, optimizer)(X.float(), Y)
    with pytest.raises(TypeError, match="must give a tensor"):
        ch.train_step(network, lambda out, y: None, optimizer)(X.float(), Y)
    with pytest.raises(ValueError, match="depends on no parameter"):
        ch.train_step(network, lambda out, y: out.detach().sum(), optimizer)(X.float(), Y)


def test_gradients_of_what_the_optimizer_does_not_hold_add_up(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    found = []
    for engine in ("eager", "compiled"):
        network = net()
        optimizer = torch.optim.SGD(network.last.parameters(), lr=0.1)
        step = ch.train_step(network, F.cross_entropy, optimizer, engine=engine)
        torch.manual_seed(1)
        for _ in range(6):
            step(X, Y)
        found.append([parameter.grad for parameter in network.parameters()])
    assert "1 of 1 kinds of call are recorded" in str(ch.explain(step))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
def test_a_step_without_gradients_is_refused_whichever_engine_takes_it(monkeypatch, engine):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    network = net()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    step = ch.train_step(network, F.cross_entropy, optimizer, engine=engine)
    for _ in range(4):
        step(X, Y)
    with torch.no_grad(), pytest.raises(ValueError, match="gradients are switched off"):
        step(X, Y)
