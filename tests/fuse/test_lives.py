"""Random networks of nested blocks through random lives: fused ones do what plain ones do.

Whatever happens to a network (steps, moves, copies, freezing, hooks, other weights) happens to
both; after each event outputs, gradients, buffers and names must agree, in float64.
"""

import copy
import pickle
from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import chimera as ch

Pair = tuple[nn.Module, nn.Module]
Change = Callable[[nn.Module, int], nn.Module | None]


class Gated(nn.Module):
    """A forward of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x)) * torch.sigmoid(self.b(x))


class Recurrent(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x.unsqueeze(1).expand(-1, 3, -1))[0][:, -1]


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x.unsqueeze(0)
        return self.attend(y, y, y, need_weights=False)[0].squeeze(0)


class Image(nn.Module):
    """Convolutions of a row seen as an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, channels, 2), nn.BatchNorm2d(channels)),
            *(nn.ReLU(), nn.Flatten(), nn.Linear(2 * channels, 6)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


LEAVES: list[Callable[[int], nn.Module]] = [
    lambda w: nn.Linear(6, 6),
    lambda w: nn.Sequential(nn.Linear(6, w), nn.ReLU(inplace=True), nn.Linear(w, 6)),
    lambda w: nn.Sequential(nn.Linear(6, w), nn.LayerNorm(w), nn.GELU(), nn.Linear(w, 6)),
    lambda w: nn.Sequential(nn.Linear(6, w), nn.BatchNorm1d(w), nn.Linear(w, 6)),
    lambda w: nn.Sequential(nn.Dropout(0.3), nn.Linear(6, 6)),
    lambda w: nn.Identity(),
    lambda w: Gated(6),
    lambda w: Recurrent(6),
    lambda w: Attention(6),
    lambda w: Image(w),
    lambda w: nn.Sequential(
        *(nn.Unflatten(1, (2, 3)), nn.Conv1d(2, w, 2), nn.Flatten(), nn.Linear(2 * w, 6))
    ),
]
Make = Callable[[int], nn.Module]


def chained(parts: list[Make]) -> Make:
    return lambda w: ch.Sequential(*(part(w) for part in parts))


def repeated(part: Make, share: bool) -> Make:
    return lambda w: ch.Repeat(part(w), 2, share=True) if share else ch.Repeat(lambda: part(w), 2)


def beside(part: Make, widths: list[int], combine: str) -> Make:
    return lambda w: ch.Parallel(*(part(width) for width in widths), combine=combine)


WIDTHS = st.lists(st.integers(2, 4), min_size=2, max_size=4)
MAKES: st.SearchStrategy[Make] = st.recursive(
    st.sampled_from(LEAVES),
    lambda inner: st.one_of(
        st.builds(chained, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda part: lambda w: ch.Residual(part(w)), inner),
        st.builds(repeated, inner, st.booleans()),
        st.builds(beside, inner, WIDTHS, st.sampled_from(["sum", "mean"])),
    ),
    max_leaves=4,
)


def chosen(net: nn.Module, number: int) -> nn.Module:
    """One of the modules below the branches, the same in both networks."""
    modules = list(net[1].modules())[1:]
    return modules[number % len(modules)]


def parameters(net: nn.Module, number: int) -> nn.Parameter:
    found = list(net[1].parameters()) or list(net.parameters())
    return found[number % len(found)]


def step(net: nn.Module, number: int) -> None:
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for turn in range(3):
        optimizer.zero_grad(set_to_none=bool(turn % 2))
        torch.manual_seed(turn)
        net(torch.randn(5, 6).double()).square().mean().backward()
        optimizer.step()


def freeze(net: nn.Module, number: int) -> None:
    chosen(net, number).requires_grad_(False)


def thaw(net: nn.Module, number: int) -> None:
    net.requires_grad_(True)


def switch(net: nn.Module, number: int) -> None:
    net.train(number % 2 == 0)


def switch_one(net: nn.Module, number: int) -> None:
    chosen(net, number).eval()


def write(net: nn.Module, number: int) -> None:
    with torch.no_grad():
        parameters(net, number).mul_(0.5).add_(0.1)


def replace_data(net: nn.Module, number: int) -> None:
    parameter = parameters(net, number)
    parameter.data = parameter.data.flip(0) * 0.9


def move(net: nn.Module, number: int) -> None:
    net.float()
    net.double()


def copied(net: nn.Module, number: int) -> nn.Module:
    return copy.deepcopy(net)


def pickled(net: nn.Module, number: int) -> nn.Module:
    return pickle.loads(pickle.dumps(net))


def hook(net: nn.Module, number: int) -> None:
    chosen(net, number).register_forward_hook(halved)


def halved(module: nn.Module, args: object, out: Tensor) -> Tensor | None:
    return out * 0.5 if isinstance(out, Tensor) else None


def unhook(net: nn.Module, number: int) -> None:
    for module in net.modules():
        module._forward_hooks.clear()


def tie(net: nn.Module, number: int) -> None:
    """A weight of the first branch stands in the last, too, or outside."""
    owners = [
        (module, name)
        for module in net.modules()
        for name, p in module.named_parameters(recurse=False)
        if p.shape == net[0].weight.shape
    ]
    (one, a), (other, b) = owners[0], owners[number % len(owners)]
    if one is not other:
        setattr(other, b, getattr(one, a))


def loaded(assign: bool) -> Change:
    def load(net: nn.Module, number: int) -> None:
        torch.manual_seed(number)
        state = {
            name: torch.rand_like(t) * 0.5 + 0.1 if t.is_floating_point() else t.clone()
            for name, t in net.state_dict().items()
        }
        net.load_state_dict(state, assign=assign)

    return load


CHANGES: list[Change] = [
    *(step, freeze, thaw, switch, switch_one, write, replace_data, move, copied, pickled),
    *(hook, unhook, tie, loaded(False), loaded(True)),
]
EVENTS = st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(0, 50)), max_size=5)


def seen(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, gradients and buffers of a call."""
    net.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(7)
    out = net(x)
    out.square().sum().backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
    return [out.detach(), x.grad, *(g.clone() for g in grads), *(b.clone() for b in net.buffers())]


def same(net: nn.Module, fused: nn.Module, x: Tensor) -> None:
    for ours, theirs in zip(seen(fused, x), seen(net, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    ours, theirs = fused.state_dict(), net.state_dict()
    assert list(ours) == list(theirs)
    assert [p.requires_grad for p in net.parameters()] == [
        p.requires_grad for p in fused.parameters()
    ]
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-8, msg=name)


@settings(deadline=None)
@given(
    makes=st.lists(st.tuples(MAKES, WIDTHS), min_size=1, max_size=2),
    combine=st.sampled_from(["concat", "sum", "stack"]),
    events=EVENTS,
)
def test_lives(makes: list[tuple[Make, list[int]]], combine: str, events: list[tuple[Change, int]]):
    torch.manual_seed(0)
    branches = [make(width) for make, widths in makes for width in widths]
    net: nn.Module = nn.Sequential(nn.Linear(6, 6), ch.Parallel(*branches, combine=combine))
    net.double()
    fused = ch.fuse(net)
    x = torch.randn(5, 6).double()
    same(net, fused, x)
    for change, number in events:
        net, fused = (change(one, number) or one for one in (net, fused))
        same(net, fused, x)
    plain = ch.unfuse(fused)
    for (name, a), b in zip(fused.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    same(net, plain, x)


def test_a_missing_key_is_called_by_its_name() -> None:
    net = nn.Sequential(nn.Linear(6, 6), ch.Parallel(*(LEAVES[1](w) for w in (2, 3, 2))))
    fused = ch.fuse(net)
    fused(torch.randn(2, 6))
    state = net.state_dict()
    del state["1.1.2.bias"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "1\.1\.2\.bias"'):
        fused.load_state_dict(state)


@pytest.mark.long
@settings(deadline=None, max_examples=25)
@given(
    makes=st.lists(st.tuples(MAKES, WIDTHS), min_size=1, max_size=2),
    combine=st.sampled_from(["concat", "sum", "stack"]),
)
def test_compiled_and_exported(makes: list[tuple[Make, list[int]]], combine: str):
    torch._dynamo.reset()
    torch.manual_seed(0)
    branches = [make(width) for make, widths in makes for width in widths]
    net = nn.Sequential(nn.Linear(6, 6), ch.Parallel(*branches, combine=combine)).double()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fused = ch.fuse(net)
    x = torch.randn(5, 6).double()
    compiled = torch.compile(fused, backend="aot_eager")
    for one, call in ((net, net), (fused, compiled)):
        one.zero_grad()
        call(x).square().sum().backward()
    for (name, a), b in zip(net.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-8, msg=name)
    torch.testing.assert_close(list(net.buffers()), list(fused.buffers()))
    net.eval()
    program = torch.export.export(ch.fuse(net), (x,))
    torch.testing.assert_close(program.module()(x), net(x))
    assert list(program.state_dict) == list(torch.export.export(net, (x,)).state_dict)
