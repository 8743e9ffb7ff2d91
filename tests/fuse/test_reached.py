"""Branches whose outputs a loss leaves out: no gradient, so that an optimizer leaves them alone."""

import copy

import pytest
import torch
from torch import nn

import chimera as ch


def mlp(width=5):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


def norm():
    return nn.Sequential(
        nn.Conv1d(4, 4, 1, bias=False), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(8, 3)
    )


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.b(torch.sin(self.a(x)))


class Two(nn.Module):
    """Two outputs from layers of their own, a detached one, and one number that is no tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x):
        h = self.a(x)
        return {"b": self.b(h), "c": (self.c(h), self.c(h).detach(), 3)}


def inner():
    return nn.Sequential(ch.Parallel(*[mlp() for _ in range(3)]), nn.Linear(9, 3))


def apart():
    return ch.Parallel(mlp(), nn.Linear(4, 3), combine="sum")


BRANCHES = {
    "mlp": lambda: [mlp() for _ in range(6)],
    "widths": lambda: [mlp(5 + i % 2) for i in range(6)],
    "norm": lambda: [norm() for _ in range(6)],
    "vmap": lambda: [Own() for _ in range(6)],
    "inner": lambda: [inner() for _ in range(6)],
    "apart": lambda: [apart() for _ in range(6)],
    "several structures": lambda: [mlp() if i % 2 else Own() for i in range(6)],
}


def missing(net):
    return [name for name, p in net.named_parameters() if p.grad is None]


def follow(net, losses, optimizer=torch.optim.AdamW, shape=(7, 4), like=ch.fuse):
    """Train a network and its fused form with a loss a step; they must stay equal."""
    ones = net.double(), like(net)
    optimizers = [optimizer(one.parameters(), lr=0.01) for one in ones]
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for loss in losses:
        for one, moves in zip(ones, optimizers, strict=True):
            moves.zero_grad()
            loss(one(x)).backward()
            moves.step()
        assert missing(ones[0]) == missing(ones[1])
        assert missing(ones[0])
    for one, two in zip(ones[0].state_dict().values(), ones[1].state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
    assert "the last call ran as one" in str(ch.explain(ones[1]))
    return ones[1]


def sgd(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=0.1)


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, sgd])
@pytest.mark.parametrize("kind", BRANCHES)
def test_a_branch_that_no_loss_uses_rests(kind, optimizer):
    net = ch.Parallel(*BRANCHES[kind](), combine="tuple")
    losses = [lambda out, k=k: out[k % 3].square().mean() for k in range(6)]
    follow(net, losses, optimizer, (7, 4, 2) if kind == "norm" else (7, 4))


def test_a_function_that_combines_may_leave_branches_out():
    def first_two(outs):
        return outs[0] * outs[4]

    follow(ch.Parallel(*BRANCHES["mlp"](), combine=first_two), [torch.sum] * 3)


def test_an_output_of_a_branch_that_no_loss_uses():
    net = ch.Parallel(*[Two() for _ in range(5)], combine="tuple")
    losses = [
        lambda out: out[0]["b"].sum() * out[1]["c"][0].sum(),
        lambda out: out[0]["c"][0].sum(),
        lambda out: out[0]["b"].sum() + out[2]["b"].sum() + out[2]["c"][0].mean(),
    ]
    fast = follow(net, losses)
    made = fast(torch.zeros(2, 4, dtype=torch.float64))[0]["c"]
    assert made[0].requires_grad
    assert not made[1].requires_grad
    assert made[2] == 3


def test_a_fused_block_before_another_one():
    def some(outs):
        return outs[1] + outs[2]

    net = nn.Sequential(
        ch.Parallel(*[nn.Linear(4, 4) for _ in range(4)], combine=some),
        ch.Parallel(*[mlp() for _ in range(4)], combine="tuple"),
    )
    follow(net, [lambda out, k=k: out[k].square().sum() for k in (0, 3, 0)])


def test_a_parameter_that_branches_share():
    shared = nn.Linear(4, 4)
    branches = [nn.Sequential(shared, nn.Tanh(), nn.Linear(4, 3)) for _ in range(4)]
    net = ch.Parallel(*branches, combine="tuple")
    fast = follow(net, [lambda out, k=k: out[k].square().sum() for k in (0, 2, 0)])
    assert fast[0][0].weight.grad is not None


def test_tied_parameters_rest_when_none_of_their_branches_is_used():
    branches = [mlp() for _ in range(4)]
    branches[3][0].weight = branches[2][0].weight
    net = ch.Parallel(*branches, combine="tuple")
    fast = follow(net, [lambda out, k=k: out[k].square().sum() for k in (3, 0, 1)])
    assert fast[3][0].weight.grad is None


def test_each_backward_of_one_graph_has_its_own():
    net = ch.Parallel(*BRANCHES["mlp"](), combine="tuple")
    fast, x = ch.fuse(net), torch.randn(3, 4)
    outs = fast(x)
    outs[1].sum().backward(retain_graph=True)
    assert [branch[0].weight.grad is None for branch in fast] == [i != 1 for i in range(6)]
    fast.zero_grad()
    sum(out.sum() for out in outs).backward(retain_graph=True)
    assert not missing(fast)
    fast.zero_grad()
    outs[2].sum().backward()
    assert [branch[0].weight.grad is None for branch in fast] == [i != 2 for i in range(6)]


def test_second_derivatives_of_a_branch():
    net = ch.Parallel(*BRANCHES["several structures"](), combine="tuple").double()
    x = torch.randn(3, 4, dtype=torch.float64)

    def twice(one):
        own = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(one(own)[0].square().sum(), own, create_graph=True)
        slope.square().sum().backward()
        return own.grad, [p.grad for p in one.parameters()]

    ours, plain = twice(ch.fuse(net)), twice(copy.deepcopy(net))
    torch.testing.assert_close(ours[0], plain[0])
    for one, two in zip(ours[1], plain[1], strict=True):
        assert (one is None) == (two is None)
        assert one is None or torch.allclose(one, two)


def test_a_gradient_of_the_input_alone():
    net = ch.Parallel(*BRANCHES["mlp"](), combine="tuple")
    x = torch.randn(3, 4, requires_grad=True)
    (ours,) = torch.autograd.grad(ch.fuse(net)(x)[2].sum(), x)
    (plain,) = torch.autograd.grad(net(x)[2].sum(), x)
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("engine", ["eager", "compiled"])
@pytest.mark.parametrize("kind", ["mlp", "widths", "vmap"])
def test_engines_leave_it_alone_too(kind, engine, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda graph, **_: graph)
    torch.manual_seed(0)
    net = ch.Parallel(*BRANCHES[kind](), combine="tuple").double()
    for p in net[5].parameters():
        p.grad = torch.ones_like(p)
    ones = net, ch.fuse(net)
    x = torch.randn(7, 4, dtype=torch.float64)
    steps = []
    for one, how in zip(ones, ("eager", engine), strict=True):
        optimizer = torch.optim.AdamW(one.parameters(), lr=0.01)
        steps.append(ch.train_step(one, lambda out: out[1].square().sum(), optimizer, engine=how))
    for _ in range(5):
        torch.testing.assert_close(steps[0](x), steps[1](x))
        assert missing(ones[0]) == missing(ones[1])
    if engine == "compiled":
        assert "is compiled" in str(ch.explain(steps[1]))
    for one, two in zip(ones[0].parameters(), ones[1].parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
