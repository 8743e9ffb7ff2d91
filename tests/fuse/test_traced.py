"""A fused network under torch's compiler and torch.export: what is traced is the fused program."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import chimera as ch
from chimera.fuse.flat import FEW, flat, flat_at_once


@pytest.fixture(autouse=True)
def afresh() -> None:
    torch._dynamo.reset()


def normed(rate: float = 0.0) -> nn.Module:
    layers = [nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(rate), nn.Linear(5, 4)]
    return nn.Sequential(*layers)


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())


def nested() -> nn.Module:
    return nn.Sequential(
        ch.Residual(nn.Linear(6, 6)),
        ch.Repeat(nn.Linear, 2, 6, 6),
        ch.Parallel(nn.Linear(6, 3), nn.Linear(6, 3), combine="sum"),
    )


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "normed": (normed, (8, 6)),
    "conv": (conv, (4, 3, 6, 6)),
    "nested": (nested, (5, 6)),
}


class Graphs:
    """A backend of torch's compiler that keeps what it was given."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs.append(graph)
        return graph.forward

    def calls(self, name: str) -> int:
        """How often the last graph calls a function of this name."""
        return sum(name in str(node.target) for node in self.graphs[-1].graph.nodes)


def net_of(name: str, combine: str = "concat", count: int = 4) -> tuple[nn.Module, Tensor]:
    make, shape = CASES[name]
    torch.manual_seed(0)
    net = nn.Sequential(ch.Parallel(*(make() for _ in range(count)), combine=combine))
    return net.double(), torch.randn(shape).double()


def compare(net: nn.Module, fused: nn.Module, run: Callable[[Tensor], Any], x: Tensor) -> None:
    """Outputs, gradients and buffers after a call and a backward pass."""
    outputs = []
    for one, call in ((net, net), (fused, run)):
        one.zero_grad()
        made = call(x)
        outputs.append(list(made) if isinstance(made, tuple) else [made])
        if torch.is_grad_enabled():
            sum(out.square().sum() for out in outputs[-1]).backward()
    torch.testing.assert_close(outputs[0], outputs[1])
    for (key, a), b in zip(net.named_parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=key)
    for (key, a), b in zip(net.named_buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(a, b, msg=key)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("combine", ["concat", "stack", "sum", "mean", "tuple"])
def test_compiled(name: str, combine: str) -> None:
    net, x = net_of(name, combine)
    fused = ch.fuse(net)
    graphs = Graphs()
    compiled = torch.compile(fused, backend=graphs, fullgraph=True)
    for training in (True, False, True):
        net.train(training), fused.train(training)
        compare(net, fused, compiled, x)
        assert graphs.calls("run_traced") == 1
        assert graphs.calls("linear") == graphs.calls("conv") == 0
    assert "the last call was traced as one" in str(ch.explain(fused))


def test_what_is_traced_does_not_grow_with_the_branches() -> None:
    sizes = []
    for count in (3, 9):
        net, x = net_of("normed", count=count)
        fused = ch.fuse(net.eval())
        program = torch.export.export(fused, (x,))
        sizes.append(sum(node.op == "call_function" for node in program.graph.nodes))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", CASES)
def test_many_rows_are_joined_by_one_operation(name: str) -> None:
    net, x = net_of(name, count=FEW + 1)
    fused = ch.fuse(net)
    compare(net, fused, torch.compile(fused, backend="aot_eager", fullgraph=True), x)
    params = {**dict(fused.named_parameters()), **dict(fused.named_buffers())}
    call = partial(torch.func.functional_call, fused)
    graph = make_fx(lambda params, x: call(params, (x,)), tracing_mode="fake")(params, x)
    targets = [str(node.target) for node in graph.graph.nodes]
    assert "chimera.flat.default" in targets
    assert not any("stack" in target for target in targets)
    program = torch.export.export(ch.fuse(net.eval()), (x,))
    assert not any("chimera" in str(node.target) for node in program.graph.nodes)


def test_rows_of_several_shapes_in_flat_memory() -> None:
    rows = [torch.randn(2, i).double().requires_grad_() for i in range(1, FEW + 3)]
    torch.testing.assert_close(flat_at_once(rows), flat(rows))
    torch.library.opcheck(flat_at_once, (rows,))
    assert torch.autograd.gradcheck(lambda *rows: flat_at_once(list(rows)), rows)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strict", [False, True])
def test_exported(name: str, strict: bool) -> None:
    net, x = net_of(name)
    net.eval()
    program = torch.export.export(ch.fuse(net), (x,), strict=strict)
    torch.testing.assert_close(program.module()(x), net(x))
    plain = torch.export.export(net, (x,), strict=strict)
    assert list(program.state_dict) == list(plain.state_dict)
    products = sum("bmm" in str(node.target) for node in program.graph.nodes)
    assert name == "conv" or products > 0


def test_exported_with_a_batch_of_any_size() -> None:
    net, x = net_of("normed")
    net.eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(ch.fuse(net), (x,), dynamic_shapes=({0: batch},))
    more = torch.randn(17, 6).double()
    torch.testing.assert_close(program.module()(more), net(more))


def test_a_compiled_network_follows_its_parameters() -> None:
    net, x = net_of("normed")
    fused = ch.fuse(net)
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    compiled(x)
    other, _ = net_of("normed")
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.5)
    fused.load_state_dict(other.state_dict())
    compare(other, fused, compiled, x)
    fused.load_state_dict(copy.deepcopy(other.state_dict()), assign=True)
    compare(other, fused, compiled, x)


def test_dropout_drops_what_it_should() -> None:
    torch.manual_seed(0)
    net = ch.Parallel(*(nn.Sequential(nn.Identity(), nn.Dropout(0.25)) for _ in range(6)))
    fused = ch.fuse(net)
    fused[3][1].p = 0.0
    fused[4][1].p = 1.0
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    made = compiled(torch.ones(50, 40)).view(50, 6, 40)
    rates = (made == 0).float().mean((0, 2))
    torch.testing.assert_close(rates[[3, 4]], torch.tensor([0.0, 1.0]))
    assert bool(((rates[[0, 1, 2, 5]] - 0.25).abs() < 0.05).all())
    assert not torch.equal(made[:, 0], made[:, 1])
    torch.testing.assert_close(made[:, 0][made[:, 0] > 0].unique(), torch.tensor([1 / 0.75]))
    fused[3][1].p = 0.5
    made = compiled(torch.ones(50, 40)).view(50, 6, 40)
    assert abs(float((made[:, 3] == 0).float().mean()) - 0.5) < 0.05


def test_whole_channels_are_dropped_together() -> None:
    net = ch.Parallel(*(nn.Sequential(nn.Identity(), nn.Dropout2d(0.5)) for _ in range(3)))
    compiled = torch.compile(ch.fuse(net), backend="aot_eager", fullgraph=True)
    made = compiled(torch.ones(20, 4, 5, 5))
    assert bool((made.flatten(2).std(2) == 0).all())
    assert 0.3 < float((made == 0).float().mean()) < 0.7


def test_inputs_of_their_own_and_branches_of_several_structures() -> None:
    torch.manual_seed(0)
    xs = tuple(torch.randn(5, 8, 6))
    branches = [normed(), nn.Linear(6, 2), normed(), nn.Linear(6, 2), nn.Identity()]
    net = ch.Parallel(*branches, inputs="each")
    fused = ch.fuse(net)
    graphs = Graphs()
    compiled = torch.compile(fused, backend=graphs, fullgraph=True)
    torch.testing.assert_close(compiled(*xs), net(*xs))
    assert graphs.calls("run_traced") == 2


def test_what_has_no_program_is_traced_one_by_one() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(self.a(x))

    net = ch.Parallel(*(Own() for _ in range(3)))
    x = torch.randn(4, 6)
    compiled = torch.compile(ch.fuse(net), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.long
def test_compiled_by_inductor() -> None:
    for name in CASES:
        net, x = net_of(name)
        fused = ch.fuse(net)
        compiled = torch.compile(fused, fullgraph=True)
        compare(net, fused, compiled, x)
