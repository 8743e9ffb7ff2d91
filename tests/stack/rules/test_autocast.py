"""Autocast: members run as one, in the dtypes that each has alone."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layer_cases import CASES
from torch import nn

import chimera as ch
from chimera.paths.nest import flatten
from chimera.stack.rules import autocast as rules
from chimera.stack.rules.autocast import Autocast, listed, wanted

N = 3
# No stacked form under autocast: it runs one by one, which `explain` says.
ALONE = {"LSTM"}


def autocast(**options: Any) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16, **options)


class Given(nn.Module):
    """A layer that gets half-precision inputs, as from a layer before it."""

    def __init__(self, layer: nn.Module, low: bool) -> None:
        super().__init__()
        self.layer, self.low = layer, low

    def forward(self, *args: Any, **named: Any) -> Any:
        if self.low:
            args = tuple(x.bfloat16() if x.is_floating_point() else x for x in args)
        return self.layer(*args, **named)


def alone(modules: list[nn.Module], args: list[Any], named: dict[str, Any]) -> list[Any]:
    found = []
    for i, module in enumerate(modules):
        with ch.randomness(seed=0, member=i, step=0):
            found.append(module(*[a[i] for a in args], **{k: v[i] for k, v in named.items()}))
    return found


def both(name: str, low: bool) -> tuple[ch.Stack, Any, list[Any]]:
    """The stack, what it gives, and what the members give; nothing where both raise."""
    known = CASES[name]
    modules: list[nn.Module] = [Given(m, low) for m in known.modules(N, torch.float32)]
    args, named = known.arguments(N, torch.float32)
    stack = ch.Stack(modules)
    each = [ch.each(a) for a in args], {k: ch.each(v) for k, v in named.items()}
    with autocast():
        try:
            outputs = alone(modules, list(args), named)
        except (RuntimeError, ValueError, TypeError) as error:
            with pytest.raises(type(error)):
                stack(*each[0], **each[1])
            return stack, [], []
        return stack, stack(*each[0], **each[1]), outputs


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("name", [name for name in CASES if hasattr(nn, name)])
def test_every_layer_gives_the_dtypes_and_numbers_that_it_gives_alone(name: str, low: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the layers alone say, too
        stack, together, outputs = both(name, low)
    for i, output in enumerate(outputs):
        for mine, its in zip(flatten(together)[0], flatten(output)[0], strict=True):
            if not isinstance(its, torch.Tensor):
                continue
            assert mine[i].dtype == its.dtype
            if its.is_floating_point():
                near = 2e-2 * float(its.detach().float().abs().nan_to_num(0, 0, 0).max())
                assert torch.allclose(
                    mine[i].float(), its.float(), rtol=2e-2, atol=near, equal_nan=True
                )
    reasons = {row.reason for row in ch.explain(stack).alone}
    assert not reasons or name in ALONE or (name == "AdaptiveLogSoftmaxWithLoss" and low)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"bias": False, "batch_first": True},
    {"num_layers": 2, "dropout": 0.4},
]


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU])
def test_steps_are_rounded_as_alone(
    kind: Any, options: dict[str, Any], low: bool, given: bool
) -> None:
    """The same bits forward; a weight's gradient adds up over the steps in another order."""
    torch.manual_seed(0)
    modules = [kind(8, 6, **options) for _ in range(4)]
    x = torch.randn(4, 5, 5, 8).to(torch.bfloat16 if low else torch.float32)
    layers = options.get("num_layers", 1) * (1 + options.get("bidirectional", False))
    hidden = torch.randn(4, layers, 5, 6)
    stack = ch.Stack(modules)
    more = (ch.each(hidden),) if given else ()
    with autocast():
        found = stack(ch.each(x), *more)
        others = []
        for i, module in enumerate(modules):
            with ch.randomness(seed=0, member=i, step=0):
                others.append(module(x[i], *([hidden[i]] if given else [])))
    expected = [torch.stack(parts) for parts in zip(*others, strict=True)]
    for mine, its in zip(found, expected, strict=True):
        assert mine.dtype == its.dtype
        assert torch.equal(mine, its)
    torch.stack([each.float().square().sum() for each in found]).sum().backward()
    torch.stack([each.float().square().sum() for each in expected]).sum().backward()
    for name, parameter in stack.named_parameters():
        grads = [module.get_parameter(name.split(".", 2)[2]).grad for module in modules]
        its = torch.stack(grads)
        assert float((parameter.grad - its).abs().max()) <= 1e-2 * float(its.abs().max())
    assert not ch.explain(stack).alone


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
def test_cells_are_rounded_as_alone(kind: Any) -> None:
    torch.manual_seed(0)
    modules = [kind(8, 6) for _ in range(4)]
    x = torch.randn(4, 5, 8)
    stack = ch.Stack(modules)
    with autocast():
        found = flatten(stack(ch.each(x)))[0]
        others = [flatten(module(row))[0] for module, row in zip(modules, x, strict=True)]
    for mine, its in zip(found, map(torch.stack, zip(*others, strict=True)), strict=True):
        assert mine.dtype == its.dtype
        assert torch.equal(mine, its)
    assert not ch.explain(stack).alone


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def tokens() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


class Switches(nn.Module):
    """Switches autocast on and off by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> Any:
        with autocast():
            first = self.one(x)
            with autocast(enabled=False):
                second = self.two(first.to(x.dtype))
            third = self.three(second) @ second.transpose(-1, -2)
        return first, second, third, self.three(x)


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> Any:
        h = x @ self.weight
        scores = torch.einsum("bij,bkj->bik", h, h).softmax(-1)
        return scores, torch.cat([h, x], -1), F.normalize(h), self.weight.mv(x[0, 0])


NETS = [(images, (2, 3, 6, 6)), (tokens, (2, 5, 8)), (Switches, (2, 5, 8)), (Functions, (2, 5, 8))]


@pytest.mark.parametrize(("factory", "shape"), NETS)
@pytest.mark.parametrize("around", [True, False])
def test_whole_networks_are_stacked_and_verified(factory: Any, shape: Any, around: bool) -> None:
    torch.manual_seed(0)
    stack = ch.Stack([factory() for _ in range(N)], seed=3)
    x = torch.randn(N, *shape)
    with autocast(enabled=around):
        for _ in range(2):
            ch.verify(stack, ch.each(x), raises=True)
        outputs = flatten(stack(ch.each(x)))[0]
        others = [flatten(stack[i](x[i]))[0] for i in range(N)]
    assert [leaf.dtype for leaf in outputs] == [leaf.dtype for leaf in others[0]]
    assert not ch.explain(stack).alone


def test_training_under_autocast_equals_the_members_alone() -> None:
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)) for _ in range(4)]
    stack = ch.Stack(nets)
    step = ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack, lr=0.1))
    x, y = torch.randn(32, 8), torch.randint(3, (32,))
    others = [torch.optim.SGD(net.parameters(), lr=0.1) for net in nets]
    for _ in range(5):
        with autocast():
            losses = step(x, y)
        for i, (net, other) in enumerate(zip(nets, others, strict=True)):
            other.zero_grad()
            with autocast():
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            other.step()
            assert losses[i].dtype == loss.dtype == torch.float32
            assert torch.allclose(losses[i], loss, rtol=1e-2)
    assert not ch.explain(stack).alone


def test_a_compiled_step_says_that_it_stays_eager() -> None:
    stack = ch.Stack([nn.Linear(4, 2) for _ in range(N)])
    step = ch.train_step(stack, F.mse_loss, ch.optim.SGD(stack, lr=0.1), engine="compiled")
    x, y = torch.randn(5, 4), torch.randn(5, 2)
    with autocast():
        step(x, y)
        step(x, y)
        with pytest.warns(ch.ChimeraWarning, match="autocast chooses the dtypes"):
            step(x, y)


def test_without_the_mode_products_with_a_bias_would_be_in_float32(monkeypatch: Any) -> None:
    """The fault that it is for."""

    def ignore(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))

    monkeypatch.setattr(Autocast, "__torch_function__", ignore)
    stack = ch.Stack([nn.Conv2d(3, 4, 3) for _ in range(N)])
    x = torch.randn(2, 3, 6, 6)
    with autocast():
        assert stack[0](x).dtype == torch.bfloat16
        assert stack(x).dtype == torch.float32
        (wrong,) = [one for one in ch.verify(stack, x).wrong if one.kind == "output"]
    assert wrong.name == "output (torch.float32 against torch.bfloat16)"


FUNCTIONS = {
    "conv1d": (F.conv1d, (2, 3, 8), (4, 3, 3)),
    "conv_transpose1d": (F.conv_transpose1d, (2, 3, 8), (3, 4, 3)),
    "addmm": (torch.addmm, (5, 3), (5, 4), (4, 3)),
    "addbmm": (torch.addbmm, (5, 3), (2, 5, 4), (2, 4, 3)),
    "baddbmm": (torch.baddbmm, (2, 5, 3), (2, 5, 4), (2, 4, 3)),
    "linear": (F.linear, (5, 4), (3, 4), (3,)),
    "matmul": (torch.matmul, (5, 4), (4, 3)),
    "@": (lambda a, b: a @ b, (5, 4), (4, 3)),
    "mv": (torch.mv, (5, 4), (4,)),
    "dot": (torch.dot, (4,), (4,)),
    "inner": (torch.inner, (3, 4), (2, 4)),
    "outer": (torch.outer, (3,), (4,)),
    "addmv": (torch.addmv, (5,), (5, 4), (4,)),
    "einsum": (lambda a, b: torch.einsum("ij,jk->ik", a, b), (5, 4), (4, 3)),
    "tensordot": (lambda a, b: torch.tensordot(a, b, 1), (5, 4), (4, 3)),
    "prelu": (F.prelu, (5, 4), (4,)),
    "attention": (F.scaled_dot_product_attention, (2, 5, 4), (2, 5, 4), (2, 5, 4)),
    "softmax": (lambda a: F.softmax(a, -1), (5, 4)),
    "log_softmax": (lambda a: a.log_softmax(-1), (5, 4)),
    "layer_norm": (lambda a: F.layer_norm(a, (4,)), (5, 4)),
    "sum": (torch.sum, (5, 4)),
    "prod": (lambda a: a.prod(0), (5, 4)),
    "pow": (lambda a: a**2, (5, 4)),
    "exp": (torch.exp, (5, 4)),
    "mse_loss": (F.mse_loss, (5, 4), (5, 4)),
    "l1_loss": (F.l1_loss, (5, 4), (5, 4)),
    "margin_ranking_loss": (F.margin_ranking_loss, (5,), (5,), (5,)),
    "cross_entropy": (lambda a: F.cross_entropy(a, torch.zeros(5, dtype=torch.long)), (5, 4)),
    "bce": (lambda a, b: F.binary_cross_entropy_with_logits(a, b.sigmoid()), (5, 4), (5, 4)),
    "cat": (lambda a, b: torch.cat([a, b]), (5, 4), (5, 4)),
    "stack": (lambda a, b: torch.stack([a.float(), b]), (5, 4), (5, 4)),
    "pad": (lambda a: F.pad(a, (1, 1), mode="reflect"), (2, 5, 4)),
    "interpolate": (lambda a: F.interpolate(a, scale_factor=2), (2, 5, 4)),
    "cdist": (torch.cdist, (5, 4), (3, 4)),
    "cosine_similarity": (F.cosine_similarity, (5, 4), (5, 4)),
    "normalize": (F.normalize, (5, 4)),
    "bmm": (torch.bmm, (2, 5, 4), (2, 4, 3)),
    "gelu": (F.gelu, (5, 4)),
    "max_pool3d": (lambda a: F.max_pool3d(a, 2), (2, 4, 4, 4)),
}


@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, low: bool) -> None:
    function, *shapes = FUNCTIONS[name]

    class Calls(nn.Module):
        def forward(self, *args: torch.Tensor) -> torch.Tensor:
            return function(*(a.bfloat16() for a in args) if low else args)

    torch.manual_seed(0)
    args = [torch.rand(N, *shape) for shape in shapes]
    stack = ch.Stack([Calls() for _ in range(N)])
    with autocast():
        try:
            its = [Calls()(*(a[i] for a in args)) for i in range(N)]
        except RuntimeError as error:
            with pytest.raises(type(error)):
                stack(*map(ch.each, args))
            return
        mine = stack(*map(ch.each, args))
    assert mine.dtype == its[0].dtype
    assert torch.allclose(mine.float(), torch.stack(its).float(), rtol=2e-2, atol=2e-2)


def test_torch_still_says_what_it_casts() -> None:
    assert {"linear", "cat", "cross_entropy_loss", "prelu"} <= listed("cpu")
    assert {"linear", "layer_norm", "dot", "softmax", "binary_cross_entropy"} <= listed("cuda")
    for device in ("cpu", "cuda"):
        known = listed(device)
        assert rules.WIDEST[device] <= known
        assert known & rules.LOWER
    assert listed("cpu") | listed("cuda") >= rules.LOWER


def test_a_device_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="what autocast casts on abacus"):
        listed("abacus")


@pytest.mark.parametrize(
    ("name", "given", "dtype"),
    [
        ("linear", {torch.float32}, torch.float16),
        ("mv", {torch.float32}, torch.float16),
        ("layer_norm", {torch.float16}, torch.float32),
        ("softmax", {torch.float16}, torch.float32),
        ("sum", {torch.float16}, torch.float32),
        ("dot", {torch.float16}, torch.float16),
        ("dot", {torch.float16, torch.float32}, torch.float32),
        ("scatter_add", {torch.float32}, torch.float32),
    ],
)
def test_the_dtypes_of_a_gpu(name: str, given: set[torch.dtype], dtype: torch.dtype) -> None:
    """As torch's documentation lists them."""
    assert name in listed("cuda")
    assert wanted("cuda", name, given) == dtype
