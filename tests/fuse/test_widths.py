"""Branches that differ in width against the plain network."""

from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import chimera as ch
from chimera.fuse import beside_products
from chimera.fuse.beside_products import Costs, Products

GROUPED = Costs(group=0, padding=1, number=0, operation=0)
PADDED = Costs(group=1, padding=0, number=0, operation=0)


Agree = Callable[..., nn.Module]


def ran_as_one(fused: nn.Module) -> bool:
    return "the last call ran as one" in str(ch.explain(fused))


@pytest.fixture(params=["grouped", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(beside_products, "CPU", PADDED if request.param == "padded" else GROUPED)
    return str(request.param)


def mlp(hidden: int, out: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(6, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))


def conv(first: int, second: int) -> nn.Module:
    layers = [nn.Conv2d(3, first, 3, padding=1), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(first, second, 3, bias=False), nn.Flatten(), nn.Linear(second * 4, 3)]
    return nn.Sequential(*layers)


def normed(hidden: int) -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(6, hidden), nn.LayerNorm(hidden), nn.Sigmoid(), nn.Linear(hidden, hidden + 1)),
        *(nn.BatchNorm1d(hidden + 1), nn.LogSigmoid(), nn.Dropout(0.4), nn.Softmax(1)),
        *(nn.Linear(hidden + 1, 5, bias=False), nn.RMSNorm(5)),
    )


def residual(hidden: int) -> nn.Module:
    body = nn.Sequential(nn.Linear(6, hidden), nn.GELU(), nn.Linear(hidden, 6))
    wide = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh())
    return ch.Sequential(
        ch.Residual(body),
        nn.Linear(6, hidden),
        ch.Residual(wide),
        ch.Repeat(nn.Linear, 2, *[hidden] * 2),
    )


CASES: dict[str, tuple[Callable[[], list[nn.Module]], tuple[int, ...]]] = {
    "hidden": (lambda: [mlp(w) for w in (5, 7, 5, 3, 7)], (5, 6)),
    "outputs": (lambda: [mlp(5, w) for w in (1, 4, 2)], (5, 6)),
    "one layer": (lambda: [nn.Linear(6, w, bias=False) for w in (1, 4, 4)], (5, 6)),
    "sequences": (lambda: [mlp(w) for w in (5, 7, 6)], (2, 3, 6)),
    "one row": (lambda: [mlp(w) for w in (5, 7, 6)], (6,)),
    "convolutions": (lambda: [conv(4, 5), conv(6, 2), conv(4, 5)], (4, 3, 8, 8)),
    "norms": (lambda: [normed(w) for w in (8, 6, 8, 7)], (9, 6)),
    "residuals": (lambda: [residual(w) for w in (5, 7, 5)], (4, 6)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("combine", ["concat", "tuple", "sum"])
def test_branches_of_different_widths(name: str, combine: str, way: str, agree: Agree) -> None:
    make, shape = CASES[name]
    if combine == "sum" and name in ("outputs", "one layer", "residuals"):
        return
    torch.manual_seed(1)
    net = nn.Sequential(ch.Parallel(*make(), combine=combine, dim=-1))
    fused = agree(net, torch.randn(shape))
    assert ran_as_one(fused), str(ch.explain(fused))
    net.eval()
    fused = agree(net, torch.randn(shape))
    assert ran_as_one(fused)


@pytest.mark.parametrize("name", ["hidden", "convolutions", "norms"])
def test_in_a_graph(name: str, way: str) -> None:
    torch._dynamo.reset()
    make, shape = CASES[name]
    torch.manual_seed(1)
    net = ch.Parallel(*make(), dim=-1).double()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    fused, x = ch.fuse(net), torch.randn(shape).double()
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    for one, call in ((net, net), (fused, compiled)):
        one.zero_grad()
        call(x).square().sum().backward()
    for (key, a), b in zip(net.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)
    torch.testing.assert_close(list(net.buffers()), list(fused.buffers()))
    net.eval()
    program = torch.export.export(ch.fuse(net), (x,))
    torch.testing.assert_close(program.module()(x), net(x))


def test_exported_with_a_batch_of_any_size(way: str) -> None:
    net = nn.Sequential(ch.Parallel(*(mlp(w) for w in (5, 7, 6)))).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(ch.fuse(net), (torch.randn(5, 6),), dynamic_shapes=({0: batch},))
    x = torch.randn(17, 6)
    torch.testing.assert_close(program.module()(x), net(x))


def test_an_axis_that_is_not_there_raises_as_the_plain_network() -> None:
    net = ch.Parallel(*(nn.Sequential(nn.Linear(6, w), nn.Flatten(3)) for w in (2, 3)))
    with pytest.raises(IndexError) as plain:
        net(torch.randn(2, 6))
    with pytest.raises(IndexError) as fused:
        ch.fuse(net)(torch.randn(2, 6))
    assert str(plain.value) == str(fused.value)


def test_under_autocast(way: str) -> None:
    torch.manual_seed(0)
    net = ch.Parallel(
        *(
            nn.Sequential(nn.Linear(6, w), nn.LayerNorm(w), nn.GELU(), nn.Linear(w, 3))
            for w in (8, 6, 8)
        )
    )
    fused, x = ch.fuse(net), torch.randn(9, 6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused(x), net(x), rtol=0.02, atol=0.01)
        assert ran_as_one(fused)
        fused(x).float().square().sum().backward()
    assert all(p.grad is not None for p in fused.parameters())


def test_what_is_traced_does_not_grow_with_padded_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside_products, "CPU", PADDED)
    sizes = []
    for widths in (range(3, 6), range(3, 13)):
        fused = ch.fuse(ch.Parallel(*(mlp(width) for width in widths), combine="concat"))
        program = torch.export.export(fused.eval(), (torch.randn(2, 6),))
        products = [n for n in program.graph.nodes if "bmm" in str(n.target)]
        sizes.append(len(products))
    assert sizes == [1, 1]


def test_padding_is_never_seen(way: str) -> None:
    torch.manual_seed(0)
    net = ch.Parallel(*(mlp(w) for w in (5, 7, 9))).double()
    fused = ch.fuse(net)
    shapes = [tuple(p.shape) for p in net.parameters()]
    x, y = torch.randn(8, 6).double(), torch.randn(8, 12).double()
    for one in (net, fused):
        optimizer = torch.optim.AdamW(one.parameters(), lr=0.01, weight_decay=0.3)
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.mse_loss(one(x), y).backward()
            assert all(p.grad.is_contiguous() and p.is_contiguous() for p in one.parameters())
            optimizer.step()
    assert [tuple(p.shape) for p in fused.parameters()] == shapes
    for (key, a), b in zip(net.state_dict().items(), fused.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=key)


def test_an_infinite_feature_stays_in_its_branch(way: str) -> None:
    net = ch.Parallel(*(mlp(w) for w in (2, 5, 3)))
    with torch.no_grad():
        net[0][0].bias[0] = -float("inf")  # which the ReLU makes 0
        net[1][0].bias[1] = float("inf")
    x = torch.randn(3, 6)
    torch.testing.assert_close(ch.fuse(net)(x), net(x), equal_nan=True)


def test_explain_says_how(way: str) -> None:
    fused = ch.fuse(ch.Parallel(*(mlp(w) for w in (5, 7, 5)), nn.Tanh(), dim=-1))
    fused(torch.randn(2, 6))
    report = str(ch.explain(fused))
    assert "branches 0, 1, 2: as one by lanes of their own widths" in report
    assert ("padded to the widest" if way == "padded" else "3 in 2 groups of one width") in report


def test_second_derivatives_and_transforms(way: str) -> None:
    net = ch.Parallel(
        *(nn.Sequential(nn.Linear(3, w), nn.Tanh(), nn.Linear(w, 2)) for w in (2, 3, 2))
    ).double()
    fused = ch.fuse(net)
    x = torch.randn(2, 3).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: fused(x), (x,))
    ours, theirs = (torch.func.jacrev(one)(x.detach()) for one in (fused, net))
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.vmap(fused)(x[:, None]), torch.vmap(net)(x[:, None]))


def test_what_does_not_fit_raises_as_the_plain_network() -> None:
    net = ch.Parallel(mlp(5), mlp(7))
    for x in (torch.randn(2, 5), torch.randn(2, 6).double(), torch.randn(())):
        with pytest.raises(RuntimeError) as plain:
            net(x)
        with pytest.raises(RuntimeError) as fused:
            ch.fuse(net)(x)
        assert str(fused.value) == str(plain.value)


def test_lanes_along_another_axis_run_one_by_one(agree: Agree) -> None:
    def over_space(width: int) -> nn.Module:
        return nn.Sequential(nn.Conv1d(3, width, 3), nn.BatchNorm1d(width), nn.Linear(6, 2))

    torch._dynamo.reset()
    net = ch.Parallel(over_space(2), over_space(4))
    fused = agree(net, torch.randn(5, 3, 8))
    assert "one by one: a Linear" in str(ch.explain(fused))
    x = torch.randn(5, 3, 8)
    compiled = torch.compile(ch.fuse(net), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))


def test_other_differences_stay_apart(agree: Agree) -> None:
    branches = [mlp(5), mlp(7), nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))]
    fused = agree(ch.Parallel(*branches), torch.randn(2, 6))
    assert "branch 2: not fused: the only one of its structure" in str(ch.explain(fused))
    each = ch.fuse(ch.Parallel(mlp(5), mlp(7), inputs="each"))
    each(torch.randn(2, 6), torch.randn(2, 6))
    assert "not fused" in str(ch.explain(each))


def test_groups_of_products() -> None:
    products = Products((3, 3, 4), (2, 2, 2))
    assert [(g.lanes, g.ins, g.outs) for g in products.groups] == [(2, 3, 2), (1, 4, 2)]
    assert Products((3, 4, 3), (2, 2, 2)).padding(torch.device("cpu")).ins.tolist() == [
        *(0, 1, 2, 4, 5, 6, 7, 8, 9, 10)
    ]


LAYERS = st.sampled_from(
    [
        lambda i, o: nn.Linear(i, o),
        lambda i, o: nn.Sequential(nn.Linear(i, o), nn.ReLU(inplace=True)),
        lambda i, o: nn.Sequential(nn.Linear(i, o, bias=False), nn.LayerNorm(o)),
        lambda i, o: nn.Sequential(nn.Linear(i, o), nn.BatchNorm1d(o)),
        lambda i, o: nn.Sequential(nn.Dropout(0.3), nn.Linear(i, o)),
        lambda i, o: ch.Residual(nn.Linear(i, o), projection=nn.Linear(i, o)),
        lambda i, o: nn.Sequential(ch.Residual(nn.Linear(i, i)), nn.Linear(i, o), nn.Softmax(-1)),
    ]
)


@settings(deadline=None, max_examples=40)
@given(
    layers=st.lists(LAYERS, min_size=1, max_size=4),
    widths=st.lists(st.lists(st.integers(2, 6), min_size=4, max_size=4), min_size=2, max_size=6),
    pads=st.booleans(),
    training=st.booleans(),
    frozen=st.integers(0, 5),
)
def test_random_widths(
    layers: list[Callable[[int, int], nn.Module]],
    widths: list[list[int]],
    pads: bool,
    training: bool,
    frozen: int,
    agree: Agree,
) -> None:
    torch.manual_seed(0)
    branches: list[nn.Module] = []
    for mine in widths:
        sizes = [6, *mine]
        pairs = zip(layers, sizes, sizes[1:], strict=False)
        branches.append(nn.Sequential(*(layer(i, o) for layer, i, o in pairs)))
    net = nn.Sequential(nn.Linear(6, 6), ch.Parallel(*branches)).train(training)
    if frozen < len(branches):
        branches[frozen].requires_grad_(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beside_products, "CPU", PADDED if pads else GROUPED)
        x: Tensor = torch.randn(7, 6)
        assert ran_as_one(agree(net, x))
