"""What goes on around a stack: threads that call it, transforms of torch.func over it."""

import copy
import pickle
import sys
import threading

import pytest
import torch
from torch import nn
from torch.func import functional_call

import chimera as ch

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Notes(nn.Module):
    """Keeps what it computed, and draws."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.last = None

    def forward(self, x):
        self.last = self.layer(x)
        return torch.tanh(self.last) * torch.nn.functional.dropout(self.last, 0.5, self.training)


def _from_threads(call, count=4, turns=60):
    wrong = []
    start = threading.Barrier(count)

    def work(place):
        start.wait()
        for _ in range(turns):
            try:
                if not call(place):
                    wrong.append("numbers")
            except Exception as error:  # noqa: BLE001
                wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(place,)) for place in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    return wrong


@pytest.mark.parametrize("kind", [Notes, lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh())])
def test_calls_from_several_threads(members, kind):
    stack = ch.Stack(members(kind, 3)).eval()
    fed = [X * (i + 1) for i in range(4)]
    with torch.no_grad():
        expected = [stack(x) for x in fed]

        def call(place):
            return torch.equal(stack(fed[place]), expected[place]) and len(stack[0].state_dict())

        assert not _from_threads(call)


def test_the_comparison_of_threads_can_fail(members, monkeypatch):
    from chimera.stack.turn import Turn

    monkeypatch.setattr(Turn, "__enter__", lambda self: None)
    monkeypatch.setattr(Turn, "__exit__", lambda self, *_: None)
    stack = ch.Stack(members(Notes, 3)).eval()
    fed = [X * (i + 1) for i in range(4)]
    expected = [stack(x) for x in fed]
    assert _from_threads(lambda i: torch.equal(stack(fed[i]), expected[i]), turns=200)


def test_a_copy_has_a_turn_of_its_own(members):
    stack = ch.Stack(members(Notes, 3))
    for other in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack))):
        assert other._turn is not stack._turn
        assert all(group.turn is other._turn for group, _ in other.parts())
        assert torch.equal(stack.eval()(X), other.eval()(X))


def test_attention_takes_its_fast_path_again(members):
    heads = [nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).double() for _ in range(3)]
    stacks = [ch.Stack(heads).eval(), ch.Stack(heads).eval()]
    x = X[None]
    expected = stacks[0](x)
    assert not _from_threads(lambda i: torch.equal(stacks[i % 2](x), expected), turns=20)
    assert torch.backends.mha.get_fastpath_enabled()


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))

    def forward(self, x):
        return self.net(x)


TRANSFORMS = {
    "jacrev": lambda f: torch.func.jacrev(f)(X),
    "jacfwd": lambda f: torch.func.jacfwd(f)(X),
    "hessian": lambda f: torch.func.hessian(lambda x: f(x).square().sum())(X),
    "grad": lambda f: torch.func.grad(lambda x: f(x).square().sum())(X),
    "jvp": lambda f: torch.func.jvp(f, (X,), (X.cos(),))[1],
    "vjp": lambda f: torch.func.vjp(f, X)[1](f(X).cos())[0],
    "vmap": lambda f: torch.func.vmap(f, out_dims=-1)(torch.stack([X, X + 1])),
    "vmap of grad": lambda f: torch.func.vmap(torch.func.grad(lambda x: f(x).square().sum()))(
        torch.stack([X, X + 1])
    ),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("called", [False, True])
def test_transforms_over_a_stack(members, name, called):
    nets = [net.eval() for net in members(Normed, 4)]
    stack = ch.Stack(nets).eval()
    if called:
        stack(X)
    before = copy.deepcopy(stack.state_dict())
    found = TRANSFORMS[name](stack)
    alone = [TRANSFORMS[name](net) for net in nets]
    whole = torch.stack(alone)
    if name in ("hessian", "grad", "vjp", "vmap of grad"):  # of a sum over the members
        whole = whole.sum(0)
    torch.testing.assert_close(found, whole)
    for key, value in stack.state_dict().items():
        assert torch.equal(value, before[key])
    torch.testing.assert_close(stack(X), torch.stack([net(X) for net in nets]))
    (group,) = stack._groups
    rules = [plan.ruled for kind, plan in group.plans.items() if "in a transform" not in kind]
    assert all(rules)


def test_gradients_of_parameters_by_torch_func(members):
    nets = members(Normed, 3)
    for net in nets:
        net.eval()
    stack = ch.Stack(nets).eval()
    parameters = dict(stack.named_parameters())
    found = torch.func.grad(lambda p: functional_call(stack, p, (X,)).square().sum())(parameters)
    for index, net in enumerate(nets):
        net(X).square().sum().backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(found[f"groups.0.{name}"][index], parameter.grad)
