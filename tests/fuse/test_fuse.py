"""Fused networks against the plain ones."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import chimera as ch
from chimera.fuse import choice
from chimera.fuse.choice import Limit

Agree = Callable[..., nn.Module]


def ran_as_one(fused: nn.Module) -> bool:
    return "the last call ran as one" in str(ch.explain(fused))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 4))


class Own(nn.Module):
    """A forward that no table knows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.sin(self.a(x))) * 2


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x)[0][:, -1]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))


def conv(norm: bool = True) -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4) if norm else nn.GroupNorm(2, 4)]
    layers += [nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def inner() -> nn.Module:
    return ch.Sequential(
        nn.Linear(6, 6),
        ch.Residual(nn.Sequential(nn.Linear(6, 6), nn.Tanh())),
        ch.Parallel(mlp(), mlp(), mlp()),
        ch.Repeat(nn.Linear, 2, 12, 12),
        ch.Repeat(nn.Linear(12, 12), 2, share=True),
        ch.Parallel(nn.Linear(12, 3), nn.Sequential(nn.Linear(12, 3), nn.GELU()), combine="sum"),
    )


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 3), (5, 6)),
    "no bias": (lambda: nn.Linear(6, 3, bias=False), (5, 6)),
    "mlp": (mlp, (5, 6)),
    "one row": (mlp, (6,)),
    "sequences": (mlp, (2, 3, 6)),
    "norms": (lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4), nn.BatchNorm1d(4)), (9, 6)),
    "rms norm": (lambda: nn.Sequential(nn.Linear(6, 4), nn.RMSNorm(4)), (5, 6)),
    "convolution": (conv, (4, 3, 8, 8)),
    "group norm": (lambda: conv(False), (4, 3, 8, 8)),
    "nested": (inner, (5, 6)),
    "own forward": (Own, (5, 6)),
    "gru": (Recurrent, (3, 4, 6)),
    "attention": (Attention, (3, 4, 6)),
    "dropout": (lambda: nn.Sequential(mlp(), nn.Dropout(0.3), mlp2(), nn.Dropout(0.5)), (5, 6)),
}


def mlp2() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.Softmax(1))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("combine", ["concat", "stack", "sum", "mean", "tuple"])
def test_fused_computes_the_same(name: str, combine: str, agree: Agree) -> None:
    make, shape = CASES[name]
    torch.manual_seed(1)
    net = nn.Sequential(ch.Parallel(*(make() for _ in range(4)), combine=combine, dim=-1))
    fused = agree(net, torch.randn(shape))
    assert ran_as_one(fused), str(ch.explain(fused))
    if name != "one row":
        net.eval()
        agree(net, torch.randn(shape))


def test_branches_of_several_structures(agree: Agree) -> None:
    torch.manual_seed(0)
    net = ch.Parallel(mlp(), nn.Linear(6, 2), mlp(), nn.Linear(6, 2), nn.Identity())
    fused = agree(net, torch.randn(3, 6))
    report = str(ch.explain(fused))
    assert "branches 0, 2: as one" in report
    assert "branches 1, 3: as one" in report
    assert "branch 4: not fused: the only one of its structure" in report


@pytest.mark.parametrize("combine", ["concat", "stack", "sum", "tuple"])
def test_neighbours_that_run_as_one_are_joined_as_one(combine: str, agree: Agree) -> None:
    torch.manual_seed(0)
    branches = [mlp(), mlp(), nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 4), mlp(), nn.Tanh()]
    for some in (branches[:5], branches[:6], branches[1:4]):
        agree(ch.Parallel(*some, combine=combine, dim=-1), torch.randn(3, 6))
    net = ch.Parallel(*branches[:5], nn.Flatten(0), combine="concat", dim=1)
    with pytest.raises(ValueError, match="branch '4' gave") as plain:
        net(torch.randn(3, 6))
    with pytest.raises(ValueError, match="branch '4' gave") as fused:
        ch.fuse(net)(torch.randn(3, 6))
    assert str(plain.value) == str(fused.value)


def test_a_branch_that_gives_nothing_is_no_gap() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    net = ch.Parallel(mlp(), mlp(), Nothing(), combine="concat")
    with pytest.raises(TypeError, match="branch '2' gave a NoneType"):
        ch.fuse(net)(torch.randn(3, 6))


def test_each_branch_its_own_input() -> None:
    net = ch.Parallel(mlp(), mlp(), inputs="each")
    fused = ch.fuse(net)
    xs = torch.randn(2, 3, 6)
    torch.testing.assert_close(fused(*xs), net(*xs))
    assert ran_as_one(fused)


def test_state_is_that_of_the_plain_network(agree: Agree) -> None:
    net = nn.Sequential(ch.Parallel(*(conv() for _ in range(3))))
    fused = ch.fuse(net)
    fused(torch.randn(2, 3, 8, 8))
    assert list(fused.state_dict()) == list(net.state_dict())
    assert [n for n, _ in fused.named_parameters()] == [n for n, _ in net.named_parameters()]
    other = nn.Sequential(ch.Parallel(*(conv() for _ in range(3))))
    fused.load_state_dict(other.state_dict())
    x = torch.randn(2, 3, 8, 8)
    agree(other, x, fused)
    net.load_state_dict(fused.state_dict())
    agree(net, x, fused)
    state = net.state_dict()
    del state["0.1.0.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*0\.1\.0\.weight"):
        fused.load_state_dict(state)


def test_training_with_torch_optim_and_back() -> None:
    torch.manual_seed(0)
    net = ch.Parallel(*(mlp() for _ in range(5))).double()
    fused = ch.fuse(net)
    x, y = torch.randn(8, 6).double(), torch.randn(8, 20).double()
    for one in (net, fused):
        optimizer = torch.optim.AdamW(one.parameters(), lr=0.01)
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.mse_loss(one(x), y).backward()
            optimizer.step()
    plain = ch.unfuse(fused)
    assert type(plain) is ch.Parallel
    for (name, a), b, c in zip(
        net.state_dict().items(),
        fused.state_dict().values(),
        plain.state_dict().values(),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=name)
        assert torch.equal(b, c)
    torch.testing.assert_close(plain(x), fused(x))


@pytest.mark.parametrize(
    "moved",
    [
        lambda net: net.double(),
        copy.deepcopy,
        lambda net: pickle.loads(pickle.dumps(net)),
        lambda net: copy.deepcopy(net).double().float(),
    ],
)
def test_moved_and_copied(moved: Callable[[nn.Module], nn.Module]) -> None:
    net = ch.Parallel(*(conv() for _ in range(3)))
    fused = ch.fuse(net)
    x = torch.randn(2, 3, 8, 8)
    fused(x), net(x)
    made, plain = moved(fused), moved(net)
    x = x.to(next(made.parameters()))
    torch.testing.assert_close(made(x), plain(x))
    assert ran_as_one(made)
    with torch.no_grad():  # what is written to a row counts, whoever holds it
        for one in (made, plain):
            one[1][0].weight.data = one[1][0].weight.data * 2
            one[2][0].bias += 1
    torch.testing.assert_close(made(x), plain(x))


def test_functional_call_and_transforms() -> None:
    net = ch.Parallel(*(mlp() for _ in range(3))).double()
    fused = ch.fuse(net)
    x = torch.randn(4, 6).double()
    others = {name: torch.randn_like(p) for name, p in net.named_parameters()}

    def loss(one: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
        return lambda params, x: torch.func.functional_call(one, params, (x,)).square().sum()

    torch.testing.assert_close(loss(fused)(others, x), loss(net)(others, x))
    for transform in (torch.func.grad, torch.func.jacrev):
        ours, theirs = (transform(loss(one))(others, x) for one in (fused, net))
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.vmap(fused)(x[:, None]), torch.vmap(net)(x[:, None]))


def test_second_derivatives() -> None:
    net = ch.Parallel(*(nn.Sequential(nn.Linear(3, 4), nn.Tanh()) for _ in range(3))).double()
    fused = ch.fuse(net)
    x = torch.randn(2, 3).double().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: fused(x), (x,))
    norms = []
    for one in (net, fused):
        (slope,) = torch.autograd.grad(one(x).sum(), x, create_graph=True)
        norms.append(
            torch.autograd.grad(
                slope.square().sum(),
                list(one.parameters()),
                allow_unused=True,
                materialize_grads=True,
            )
        )
    torch.testing.assert_close(norms[0], norms[1])


def test_frozen_and_tied_parameters(agree: Agree) -> None:
    torch.manual_seed(0)
    net = ch.Parallel(*(mlp() for _ in range(3)))
    net[1][0].weight.requires_grad_(False)
    net[2][2].weight = net[0][2].weight
    agree(net, torch.randn(3, 6))


def test_what_runs_one_by_one_is_said(agree: Agree) -> None:
    fused = ch.fuse(ch.Parallel(*(mlp() for _ in range(3))))
    x = torch.randn(2, 6)
    calls: list[int] = []
    handle = fused[1].register_forward_hook(lambda *_: calls.append(1))
    fused(x)
    assert calls == [1]
    assert "hooks" in str(ch.explain(fused))
    handle.remove()
    fused(x)
    assert ran_as_one(fused)
    fused[0].eval()
    agree(ch.unfuse(fused), x, fused)


def test_conditions_and_draws_of_a_users_own_run_one_by_one(agree: Agree) -> None:
    class Draws(Own):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.rand(4)

    class Asks(Own):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.a.bias.sum() > 0 else x[:, :4]

    class Keeps(Own):
        def forward(self, x: Tensor) -> Tensor:
            self.last = super().forward(x)
            return self.last

    for kind in (Draws, Asks, Keeps):
        torch.manual_seed(0)
        net = ch.Parallel(*(kind() for _ in range(4)))
        fused = agree(net, torch.randn(3, 6))
        assert "one by one" in str(ch.explain(fused))


def test_a_weight_changed_before_backward_is_an_error() -> None:
    fused = ch.fuse(ch.Parallel(mlp(), mlp()))
    out = fused(torch.randn(2, 6)).sum()
    with torch.no_grad():
        fused[0][0].weight += 1
    with pytest.raises(RuntimeError, match="changed in place between forward and backward"):
        out.backward()


def test_wrong_shapes_raise_as_the_plain_network() -> None:
    net = ch.Parallel(mlp(), mlp())
    for x in (torch.randn(2, 5), torch.randn(2, 6).double()):
        with pytest.raises(RuntimeError) as plain:
            net(x)
        with pytest.raises(RuntimeError) as fused:
            ch.fuse(net)(x)
        assert str(fused.value) == str(plain.value)


def test_a_layer_put_in_the_place_of_another_counts(agree: Agree) -> None:
    net = ch.Parallel(*(mlp() for _ in range(3)))
    fused = ch.fuse(net)
    x = torch.randn(2, 6)
    fused(x)
    for one in (net, fused):
        torch.manual_seed(1)
        for branch in one:
            branch[0] = nn.Linear(6, 5)
    agree(net, x, fused)
    assert ran_as_one(fused)


def test_measure_leaves_no_trace_and_is_remembered(agree: Agree) -> None:
    torch.manual_seed(0)
    net = ch.Parallel(*(nn.Sequential(conv(), nn.Dropout(0.5)) for _ in range(3)))
    fused = ch.fuse(net, decide="measure")
    agree(net, torch.randn(4, 3, 8, 8), fused)
    assert "measured" in str(ch.explain(fused))
    known = len(choice._DECISIONS)
    ch.fuse(net, decide="measure")(torch.randn(4, 3, 8, 8))
    assert len(choice._DECISIONS) == known


def test_arguments() -> None:
    with pytest.raises(TypeError, match="net must be a module"):
        ch.fuse(3)
    with pytest.raises(ValueError, match="decide must be"):
        ch.fuse(mlp(), decide="fast")
    with pytest.raises(ValueError, match=r"0\.weight is uninitialized; build the network first"):
        ch.fuse(ch.Parallel(nn.LazyLinear(3), nn.LazyLinear(3)))
    with pytest.raises(RuntimeError, match=r"came: float32 \[2, 5\]"):
        ch.fuse(ch.Parallel(mlp(), mlp()), ch.spec(2, 5))


LAYERS = st.sampled_from(
    [
        lambda: nn.Linear(6, 6),
        lambda: nn.Tanh(),
        lambda: nn.LayerNorm(6),
        lambda: nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True)),
        lambda: nn.BatchNorm1d(6),
        lambda: nn.Dropout(0.4),
        lambda: ch.Residual(nn.Linear(6, 6)),
        lambda: ch.Repeat(nn.Linear, 2, 6, 6),
        lambda: ch.Parallel(nn.Linear(6, 6), nn.Linear(6, 6), combine="sum"),
        lambda: ch.Parallel(nn.Linear(6, 2), nn.Linear(6, 4)),
        lambda: ch.Residual(nn.Dropout(0.2), projection=nn.Linear(6, 6)),
    ]
)
BRANCHES = st.lists(LAYERS, min_size=1, max_size=5)


@settings(deadline=None, max_examples=40)
@given(
    kinds=st.lists(st.tuples(BRANCHES, st.integers(1, 4)), min_size=1, max_size=2),
    combine=st.sampled_from(["concat", "stack", "sum", "mean", "tuple"]),
    training=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_networks(
    kinds: list[tuple[list[Callable[[], nn.Module]], int]],
    combine: str,
    training: bool,
    seed: int,
    agree: Agree,
) -> None:
    torch.manual_seed(seed)
    branches = [
        nn.Sequential(*(layer() for layer in layers)) for layers, n in kinds for _ in range(n)
    ]
    net = nn.Sequential(nn.Linear(6, 6), ch.Parallel(*branches, combine=combine, dim=-1))
    net.train(training)
    agree(net, torch.randn(7, 6))


def test_few_branches_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {kind: Limit(5, 1e30) for kind in choice._THREADS}
    monkeypatch.setattr(choice, "_THREADS", many)
    monkeypatch.setattr(choice, "_ONE_THREAD", many)
    fused = ch.fuse(ch.Parallel(*(mlp() for _ in range(4))))
    fused(torch.randn(2, 6))
    assert "not fused: 4 branches are fewer than 5" in str(ch.explain(fused))
    fused = ch.fuse(ch.Parallel(*(mlp() for _ in range(5))))
    fused(torch.randn(2, 6))
    assert ran_as_one(fused)


def test_branches_that_are_not_the_whole_block_must_save_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enough = {kind: Limit(2, 1e30, layers=12) for kind in choice._THREADS}
    monkeypatch.setattr(choice, "_THREADS", enough)
    monkeypatch.setattr(choice, "_ONE_THREAD", enough)
    four = [mlp() for _ in range(4)]
    assert "as one by" in str(ch.explain(ch.fuse(ch.Parallel(*four))))
    among = str(ch.explain(ch.fuse(ch.Parallel(*four, nn.Tanh()))))
    assert "not fused: 4 branches of 3 layers are fewer than 18 layers" in among
    among = str(ch.explain(ch.fuse(ch.Parallel(*four, mlp(), mlp(), nn.Tanh()))))
    assert "as one by" in among


def test_large_products_run_one_by_one_where_that_is_as_fast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = {kind: Limit(2, 1000.0) for kind in choice._THREADS}
    monkeypatch.setattr(choice, "_THREADS", small)
    monkeypatch.setattr(choice, "_ONE_THREAD", small)
    fused = ch.fuse(ch.Parallel(*(mlp() for _ in range(3))))
    fused(torch.randn(2, 6))  # 2 * 2 * (6 * 5 + 5 * 4) = 200 operations
    assert ran_as_one(fused)
    fused(torch.randn(20, 6))
    assert "2.0e+03 operations a branch are more than 1e+03" in str(ch.explain(fused))


def test_an_inner_block_is_fused_where_the_outer_is_not(agree: Agree) -> None:
    torch.manual_seed(0)
    net = ch.Parallel(ch.Sequential(ch.Parallel(mlp(), mlp())), nn.Linear(6, 8))
    fused = agree(net, torch.randn(3, 6))
    assert ran_as_one(fused[0])
    assert type(ch.unfuse(fused)[0][0]) is ch.Parallel
    agree(net, torch.randn(3, 6), copy.deepcopy(fused))


def test_a_stack_of_fused_networks() -> None:
    fused = [ch.fuse(ch.Parallel(mlp(), mlp())) for _ in range(2)]
    stack = ch.Stack(fused)
    ch.verify(stack, torch.randn(3, 6), raises=True)
    assert not ch.explain(stack).alone


@pytest.mark.parametrize("kind", [Own, Recurrent])
def test_branches_under_vmap_are_recorded_as_one(kind: Callable[[], nn.Module]) -> None:
    counts = []
    for branches in (3, 6):
        torch.manual_seed(0)
        net = ch.Parallel(*(kind() for _ in range(branches)))
        fused = ch.fuse(net)
        x = torch.randn(3, 4, 6)
        fused(x)
        params = dict(net.named_parameters())

        call = partial(torch.func.functional_call, fused)
        graph = make_fx(lambda params, x: call(params, (x,)), tracing_mode="fake")(params, x)  # noqa: B023
        counts.append(sum("mm" in str(node.target) for node in graph.graph.nodes))
        torch.testing.assert_close(graph(params, x), net(x))
    assert counts[0] == counts[1] > 0


def test_buffers_under_vmap_are_those_that_stand_there() -> None:
    class Counts(Own):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.add_(1)
            return super().forward(x)

    net = ch.Parallel(*(Counts() for _ in range(3)))
    fused = ch.fuse(net)
    x = torch.randn(2, 6)
    stand = {name: torch.full_like(b, 5.0) for name, b in net.named_buffers()}
    made = torch.func.functional_call(fused, stand, (x,))
    torch.testing.assert_close(made, net(x))
    assert "ran as one" in str(ch.explain(fused))
    assert [float(b) for b in stand.values()] == [6.0, 6.0, 6.0]
    assert all(float(b) == 0 for b in fused.buffers())


class Counting(nn.Module):
    """A layer whose forward writes to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return torch.sin(x)


def _with_shared_norm(norm: nn.Module) -> nn.Module:
    return ch.Parallel(*(nn.Sequential(nn.Linear(6, 5), norm) for _ in range(24)))


def _same_branch_twice(norm: nn.Module) -> nn.Module:
    branch = nn.Sequential(nn.Linear(6, 5), norm)
    return ch.Parallel(*[branch] * 24)


def _of_other_widths(norm: nn.Module) -> nn.Module:
    return ch.Parallel(
        *(nn.Sequential(nn.Linear(6, 4 + i % 2), nn.Linear(4 + i % 2, 5), norm) for i in range(24))
    )


@pytest.mark.parametrize("make", [_with_shared_norm, _same_branch_twice, _of_other_widths])
@pytest.mark.parametrize("kind", [nn.BatchNorm1d, lambda _: Counting()])
def test_state_that_branches_share_is_updated_once_a_branch(
    make: Callable[[nn.Module], nn.Module], kind: Callable[[int], nn.Module]
) -> None:
    net = make(kind(5))
    plain, fused = copy.deepcopy(net), ch.fuse(net)
    x = torch.randn(8, 6)
    for _ in range(2):
        torch.testing.assert_close(fused(x), plain(x))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], tensor, msg=name)
    assert not ran_as_one(fused)
    assert "branches share" in str(ch.explain(fused))


def test_a_norm_that_branches_inside_a_branch_share() -> None:
    def inner() -> nn.Module:
        norm = nn.BatchNorm1d(5)
        return ch.Parallel(*(nn.Sequential(nn.Linear(6, 5), norm) for _ in range(2)))

    net = ch.Parallel(*(inner() for _ in range(12)))
    plain, fused = copy.deepcopy(net), ch.fuse(net)
    x = torch.randn(8, 6)
    torch.testing.assert_close(fused(x), plain(x))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], tensor, msg=name)


class Counted(nn.Module):
    """Two kinds of branches that count in one buffer, which their output depends on."""

    def __init__(self, counter: nn.Module, wide: bool) -> None:
        super().__init__()
        self.counter, self.layer = counter, nn.Linear(6, 5)
        self.last = nn.Tanh() if wide else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.last(self.layer(self.counter(x)))
        return h * self.counter.seen


class Reading(nn.Module):
    """A branch that reads what the others count."""

    def __init__(self, counter: nn.Module) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)
        self.register_buffer("seen", counter.seen)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.seen


@pytest.mark.parametrize("other", [lambda c: Counted(c, True), Reading])
def test_a_buffer_that_branches_of_two_structures_share(
    other: Callable[[nn.Module], nn.Module],
) -> None:
    counter = Counting()
    branches = [other(counter) if i % 2 else Counted(counter, False) for i in range(24)]
    net = ch.Parallel(*branches, combine="stack")
    plain, fused = copy.deepcopy(net), ch.fuse(net)
    x = torch.randn(8, 6)
    for _ in range(2):
        torch.testing.assert_close(fused(x), plain(x))
    torch.testing.assert_close(fused[0].counter.seen, plain[0].counter.seen)
    assert "branches share counter.seen with" in str(ch.explain(fused))


@pytest.mark.parametrize("make", [mlp, Own])
def test_a_bias_that_goes_and_comes_later(make: Callable[[], nn.Module]) -> None:
    net = ch.Parallel(*(make() for _ in range(24)))
    fused, x = ch.fuse(net), torch.randn(8, 6)
    fused(x)
    for one in (net, fused):
        layer = one[3][0] if make is mlp else one[3].a
        layer.bias = None
    torch.testing.assert_close(fused(x), net(x))
    assert ran_as_one(fused)
    bias = torch.randn(5)
    for one in (net, fused):
        layer = one[3][0] if make is mlp else one[3].a
        layer.bias = nn.Parameter(bias.clone())
    torch.testing.assert_close(fused(x), net(x))
    for one in (net, fused):
        one(x).square().sum().backward()
    for p, q in zip(fused.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


class Warm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gru, self.heat = nn.Linear(6, 6), nn.GRU(6, 5, batch_first=True), 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.layer(x) * self.heat)[0][:, -1]


def test_an_attribute_of_a_branch_that_changes_later() -> None:
    net = ch.Parallel(*(Warm() for _ in range(24))).double()
    fused, x = ch.fuse(net), torch.randn(8, 3, 6).double()
    fused.float().double()
    torch.testing.assert_close(fused(x), net.float().double()(x))
    assert ran_as_one(fused)
    fused[4].heat = net[4].heat = 5.0
    torch.testing.assert_close(fused(x), net(x))
    assert "heat of a branch is not what it was" in str(ch.explain(fused))
    fused[4].heat = net[4].heat = float("1")
    torch.testing.assert_close(fused(x), net(x))
    assert ran_as_one(fused)
