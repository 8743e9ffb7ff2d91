"""What each of several ranks does; run by test_distribute.py, one process a rank.

Every case runs on all ranks, which hold one network undistributed and one distributed, and gives
what the test looks at; a case that raises gives its message.
"""

import copy
import json
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import chimera as ch

CASES: dict[str, Callable[[], Any]] = {}
ROWS = (7, 7, 2, 1, 6, 3, 7, 4, 5, 2)
"""Rows of ten batches: with three ranks, some ranks have one more, some have none."""


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    CASES[function.__name__] = function
    return function


class Tied(nn.Module):
    """Repeated blocks, a shared layer, a tie, a constant, a frozen and an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        block = lambda: ch.Residual(nn.Sequential(nn.Linear(6, 6), nn.Tanh()))  # noqa: E731
        self.blocks = ch.Repeat(block, 3)
        self.again = ch.Repeat(nn.Linear(6, 6), 2, share=True)
        self.constant = ch.Constant(torch.rand(6))
        self.out, self.tied = nn.Linear(6, 3), nn.Linear(6, 3)
        self.tied.weight = self.out.weight
        self.unused = nn.Linear(2, 2)
        self.across = nn.Parameter(torch.randn(6, 3).t())  # not contiguous
        self.out.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.blocks(x)) + self.constant()
        return self.out(x) + self.tied(x) + x @ self.across.t()


class Recurrent(nn.Module):
    """Two outputs, nested, of other shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.out = nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        over_time, _ = self.gru(x.unsqueeze(1).repeat(1, 4, 1))
        return {"y": self.out(over_time[:, -1]), "more": (over_time, x.argmax(1))}


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3)
        )
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        image = x.repeat(1, 6).view(x.shape[0], 1, 6, 6)
        return self.out(self.body(image).mean((2, 3)))


class Masked(nn.Module):
    """Attention whose mask has no rows, though in a batch of four its first axis is four."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.encoder, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.out(self.encoder(x.unsqueeze(1).repeat(1, 4, 1), mask=mask)[:, -1])


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    torch.manual_seed(3)
    for rows in ROWS:
        yield torch.randn(rows, 6).double(), torch.randn(rows, 3).double()


def trained(net: Any, more: tuple[Any, ...] = (), penalty: float = 0.0) -> dict[str, Any]:
    """Outputs, gradients of the first step, and the state after ten steps."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    outputs, gradients = [], {}
    for step, (x, y) in enumerate(batches()):
        optimizer.zero_grad()
        output = net(x, *more)
        outputs.append(output)
        loss = ((output["y"] if isinstance(output, dict) else output) - y).square().mean()
        if penalty:
            loss = loss + penalty * sum(p.square().sum() for p in net.parameters())
        loss.backward()
        if not step:
            gradients = {name: whole(p.grad) for name, p in net.named_parameters()}
        optimizer.step()
    return {"outputs": outputs, "gradients": gradients, "state": dict(net.state_dict())}


def whole(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value


def apart(one: Any, other: Any) -> float:
    """The largest difference of nested tensors; infinite where they nest or are otherwise."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return float("inf")
        exact = torch.complex128 if one.is_complex() else torch.float64
        return float((one.detach().to(exact) - other.detach().to(exact)).abs().max())
    if isinstance(one, dict) and isinstance(other, dict) and list(one) == list(other):
        return max((apart(one[key], other[key]) for key in one), default=0.0)
    if isinstance(one, list | tuple) and type(one) is type(other) and len(one) == len(other):
        return max((apart(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    return 0.0 if one is None and other is None else float("inf")


def pair(factory: Callable[[], nn.Module], mode: str, **options: Any) -> tuple[Any, Any]:
    """A network, and one distributed that had other values on every rank but the first."""
    torch.manual_seed(0)
    plain = factory().double()
    own = copy.deepcopy(plain)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.add_(dist.get_rank())
    return plain, ch.distribute(own, mode, **options)


def equal(factory: Callable[[], nn.Module], mode: str, *more: Any, **options: Any) -> Any:
    plain, wide = pair(factory, mode, **options)
    one, other = trained(plain, more), trained(wide, more)
    return {key: apart(one[key], other[key]) for key in one} | {
        "keys": list(plain.state_dict()) == list(wide.state_dict()),
        "class": isinstance(wide, factory),
    }


for mode in ("replicate", "shard"):
    CASES |= {
        f"equal-tied-{mode}": lambda mode=mode: equal(Tied, mode),
        f"equal-recurrent-{mode}": lambda mode=mode: equal(Recurrent, mode),
        f"equal-pictures-{mode}": lambda mode=mode: equal(Pictures, mode),
        f"equal-masked-{mode}": lambda mode=mode: equal(
            Masked, mode, torch.zeros(4, 4).double(), whole=["mask"]
        ),
    }


@case
def penalty() -> Any:
    """On all weights, in parts and whole; also as a factor, and made before the call."""
    found = {}
    for mode in ("replicate", "shard"):
        for factory in (Pictures, Tied):
            plain, wide = pair(factory, mode)
            states = [trained(net, penalty=0.1)["state"] for net in (plain, wide)]
            found[f"{mode} {factory.__name__}"] = apart(*states)
    plain, wide = pair(Tied, "shard")
    x, y = next(batches())
    for net in (plain, wide):
        held = sum(p.square().sum() for p in net.parameters())
        (((net(x) - y).square().mean() + 0.1 * held) * (1 + held)).backward()
    found["factor"] = grads_apart(plain, wide)
    return found


@case
def penalty_of_own_rows() -> Any:
    """Each rank has a loss of its own: whole parameters give the gradients, parts are refused."""
    plain, wide = pair(Tied, "shard", inputs="each")
    x, y = (one[:6] for one in next(batches()))
    part = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
    for net, rows in ((plain, slice(0, 6)), (wide, part)):
        held = sum(whole(p).square().sum() for p in net.parameters())
        ((net(x[rows]) - y[rows]).square().mean() + 0.1 * held).backward()
    found = grads_apart(plain, wide)
    held = sum(p.square().sum() for p in wide.parameters())
    refused = message(lambda: (wide(x[part]).square().mean() + held).backward())
    return {"whole": found, "parts": refused}


@case
def own_rows() -> Any:
    """Each rank gives rows of its own, the last rank sometimes none."""
    found = {}
    for mode in ("replicate", "shard"):
        plain, wide = pair(Tied, mode, inputs="each")
        one, other = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (plain, wide))
        for counts, (x, y) in zip(
            cycle([(4, 2, 1), (1, 6, 0)]), islice(batches(), 2), strict=False
        ):
            part = slice(sum(counts[: dist.get_rank()]), sum(counts[: dist.get_rank() + 1]))
            (plain(x) - y).square().mean().backward()
            output = wide(x[part])
            assert output.shape == (counts[dist.get_rank()], 3)
            (output - y[part]).square().mean().backward()
            for optimizer in (one, other):
                optimizer.step()
                optimizer.zero_grad()
        found[mode] = apart(dict(plain.state_dict()), dict(wide.state_dict()))
    return found


@case
def accumulated() -> Any:
    """Two backwards before a step; two calls before a backward; no gradients; another freezing."""
    found = {}
    for mode in ("replicate", "shard"):
        plain, wide = pair(Pictures, mode)
        x, y = next(batches())
        for net in (plain, wide):
            for _ in range(2):
                (net(x) - y).square().mean().backward()
        found[f"{mode} two backwards"] = grads_apart(plain, wide)
        for net in (plain, wide):
            net.zero_grad()
            (net(x) - net(x + 1)).square().mean().backward()
        found[f"{mode} two calls"] = grads_apart(plain, wide)
        with torch.no_grad():
            found[f"{mode} no gradients"] = apart(plain.eval()(x), wide.eval()(x))
        assert not wide.body.training
    plain, wide = pair(Pictures, "replicate")
    for net in (plain, wide):
        net.body.requires_grad_(False)
        (net(x) - y).square().mean().backward()
        net.zero_grad()
        net.body.requires_grad_(True)
        net.out.requires_grad_(False)
        (net(x) - y).square().mean().backward()
    found["another freezing"] = grads_apart(plain, wide)
    return found


def grads_apart(plain: nn.Module, wide: nn.Module) -> float:
    return max(
        apart(p.grad, whole(q.grad))
        for p, q in zip(plain.parameters(), wide.parameters(), strict=True)
    )


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor, shift: Tensor, more: dict[str, Tensor]) -> Tensor:
        return self.linear(x.sin() + shift) * more["scale"]


@case
def input_gradients() -> Any:
    """What comes before the network gets the gradients of the whole batch, on every rank."""
    found = {}
    for mode in ("replicate", "shard"):
        for rows in (7, 2):
            plain, wide = pair(Shifted, mode, whole=["shift"])
            torch.manual_seed(4)
            before = nn.Linear(6, 6).double(), nn.Parameter(torch.randn(2, 6).double()[0])
            x, scale = torch.randn(rows, 6).double(), torch.randn(rows, 1).double()
            got = []
            for net in (plain, wide):
                first, shift = copy.deepcopy(before)
                mine = scale.clone().requires_grad_()
                net(first(x), shift, {"scale": mine}).square().mean().backward()
                got.append([*(p.grad for p in first.parameters()), shift.grad, mine.grad])
            found[f"{mode} {rows} rows"] = apart(*got)
            found[f"{mode} {rows} rows, own"] = grads_apart(plain, wide)
        plain, wide = pair(Pictures, mode, inputs="each")
        counts = (4, 2, 1)
        x = next(batches())[0].requires_grad_()
        part = slice(sum(counts[: dist.get_rank()]), sum(counts[: dist.get_rank() + 1]))
        mine = x.detach()[part].clone().requires_grad_()
        plain(x).square().mean().backward()
        wide(mine).square().mean().backward()
        assert x.grad is not None
        found[f"{mode} each"] = apart(x.grad[part], mine.grad)
    return found


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.turn = nn.Parameter(torch.randn(3, 3, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).to(torch.complex128) @ self.turn


@case
def odd_networks() -> Any:
    """Complex numbers, two dtypes, sparse gradients, a network under torch.compile."""
    found = {}
    plain, wide = pair(Turned, "replicate")
    x = next(batches())[0]
    for net in (plain, wide):
        net(x).abs().square().mean().backward()
    found["complex"] = grads_apart(plain, wide)
    found["two dtypes"] = "'turn' is complex128 and 'linear.weight' is float64" not in message(
        lambda: pair(Turned, "shard")
    )
    for mode in ("replicate", "shard"):
        plain, wide = pair(Pictures, mode)
        found[f"{mode} compiled"] = apart(plain(x), torch.compile(wide, backend="eager")(x))
    sparse = lambda: nn.Sequential(nn.Embedding(9, 2, sparse=True), nn.Flatten())  # noqa: E731
    torch.manual_seed(0)
    plain = sparse()
    wide = ch.distribute(copy.deepcopy(plain), "replicate")
    index = torch.arange(35).view(7, 5) % 9
    for net in (plain, wide):
        net(index).square().mean().backward()
    one, other = plain[0].weight.grad, wide[0].weight.grad
    assert one is not None
    assert other is not None
    found["sparse"] = apart(one.to_dense(), other.to_dense()) * 1e-6  # float32
    found["sparse, sharded"] = "'0' has sparse gradients" not in message(
        lambda: ch.distribute(sparse(), "shard")
    )
    return found


@case
def cuts() -> Any:
    """A part of a replicated network is a plain network; of a sharded one, an error."""
    make = lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))  # noqa: E731
    torch.manual_seed(0)
    plain = make()
    wide = ch.distribute(copy.deepcopy(plain), "replicate")
    part, x = wide[:2], torch.randn(4, 6)
    return {
        "class": type(part) is nn.Sequential and part[0] is wide[0],
        "outputs": apart(plain[:2](x), part(x)),
        "sharded": message(lambda: ch.distribute(make(), "shard")[:2]),
        "saved": message(lambda: ch.save(nn.Sequential(sharded_by_hand()), Path(FOLDER, "hand"))),
    }


def sharded_by_hand() -> nn.Module:
    return fully_shard(nn.Linear(6, 3), mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


@case
def files() -> Any:
    """What one way of running saves, every other loads."""
    found = {}
    for mode in ("replicate", "shard"):
        plain, wide = pair(Tied, mode)
        path = Path(FOLDER, f"{mode}.net")
        ch.save(wide, path)
        back = ch.load(path, into=Tied().double())
        found[f"{mode} saved"] = apart(dict(plain.state_dict()), dict(back.state_dict()))
        found[f"{mode} ties"] = back.tied.weight is back.out.weight
        torch.manual_seed(9)
        other = Tied().double()
        mine = Path(FOLDER, f"{mode}-{dist.get_rank()}.net")
        ch.save(other, mine)
        ch.load(mine, into=wide)
        found[f"{mode} loaded"] = apart(dict(other.state_dict()), dict(wide.state_dict()))
        wide.load_state_dict(plain.state_dict())
        found[f"{mode} state"] = apart(dict(plain.state_dict()), dict(wide.state_dict()))
        found[f"{mode} missing"] = message(lambda w=wide: w.load_state_dict({}))
    return found


def message(action: Callable[[], Any]) -> str:
    try:
        action()
    except Exception as error:  # noqa: BLE001 - its text is what the test looks at
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


class Asks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 3), Halves())

    def forward(self, x: Tensor) -> Tensor:
        if self.inner[0].weight.sum() > 1e9:  # of parameters alone: allowed
            return x
        return self.inner(x)


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while x.abs().sum() > 1:
            x = x / 2
        return x


class Keeps(nn.Module):
    """A running mean in a buffer that no output shows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.mean = nn.Buffer(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.mean.lerp_(y.detach().mean(0), 0.1)
        return y


class Seen(nn.Module):
    """How many rows it has seen, in a buffer that no output shows."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.1))
        self.seen = nn.Buffer(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.linear(x)


class Pairs(nn.Module):
    """Does not run on a single row."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) < 2:
            raise ArithmeticError("one is not enough")
        return self.linear(x)


class Several(nn.Module):
    """Takes the mean away where there are enough rows for one."""

    def __init__(self, enough: int) -> None:
        super().__init__()
        self.linear, self.enough = nn.Linear(6, 3), enough

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y - y.mean(0) if len(x) >= self.enough else y


def grown(enough: int) -> str:
    """What a network says of a larger batch than its first."""
    wide = ch.distribute(Several(enough), "replicate")
    x = torch.arange(120.0).view(20, 6).cos()
    wide(x[:3])
    return message(lambda: wide(x))


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * torch.arange(x.shape[0]).unsqueeze(1)


class Mean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).mean()


class Over(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Linear(6, 3), nn.Softmax(dim=0))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)


def normed(**options: Any) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, **options))


@case
def refusals() -> Any:
    x = torch.randn(7, 6)

    def called(net: nn.Module, **options: Any) -> str:
        return message(lambda: ch.distribute(net, "replicate", **options)(x))

    frozen = ch.distribute(normed().eval(), "replicate")
    ran = frozen(x).shape == (7, 3)
    halve = ch.While(lambda x: x.abs().sum() > 1, lambda x: x / 2, 9)
    return {
        "batch norm": called(normed()),
        "batch norm in evaluation runs": ran,
        "batch norm trained later": message(lambda: frozen.train()(x)),
        "without running statistics": called(normed(track_running_stats=False).eval()),
        "sync": called(normed(), sync=True),
        "while": called(nn.Sequential(nn.Linear(6, 3), halve)),
        "asks": called(Asks()),
        "keeps": called(Keeps()),
        "pairs": called(Pairs()),
        "counts": called(Seen()),
        "several": called(Several(5)),
        "several, larger than a part": called(Several(7)),
        "several, later": grown(15),
        "fixed": called(Fixed()),
        "mean": called(Mean()),
        "over": called(Over()),
        "over, sharded": message(lambda: ch.distribute(Over(), "shard")(x)),
        "time first": called(nn.RNN(6, 3)),
        "no tensor": message(lambda: ch.distribute(nn.Linear(6, 3), "replicate")(3)),
        "other batches": message(
            lambda: ch.distribute(nn.Linear(6, 3), "replicate")(x + dist.get_rank())
        ),
        "scalar": message(lambda: ch.distribute(ch.Sequential(Scaled()), "shard")),
        "plain tensor": message(lambda: ch.distribute(Hidden(), "shard")),
        "twice": message(lambda: ch.distribute(frozen)),
        "copied": message(lambda: copy.deepcopy(frozen)),
        "ranks": message(lambda: ch.distribute(nn.Linear(6, 3), devices=2)),
        "other devices": message(
            lambda: ch.distribute(nn.Linear(6, 3), devices=["cpu", "meta", "cpu"])
        ),
    }


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.offset = torch.rand(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.offset


@case
def trial_leaves_no_trace() -> Any:
    """The trial of the first call: counters, buffers and generators are as after one call."""
    torch.manual_seed(dist.get_rank())
    net = Counts(dist.get_rank())
    wide = ch.distribute(net, "replicate")
    before = torch.get_rng_state()
    wide(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))
    return {
        "calls": wide.calls,
        "buffer": int(wide.steps),
        "of rank 0": not bool(wide.flag) and complex(wide.turn) == 0,
        "drew": torch.equal(before, torch.get_rng_state()),
    }


class Counts(nn.Module):
    def __init__(self, rank: int) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(6, 3), 0
        self.steps = nn.Buffer(torch.tensor(0))
        self.flag, self.turn = nn.Buffer(torch.tensor(rank > 0)), nn.Buffer(torch.tensor(rank * 1j))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.steps += 1
        return self.linear(x)


class Heads(nn.Module):
    """Several outputs, of which a loss may use some; a layer that calls may leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.extra = nn.Linear(6, 6), nn.Linear(6, 6)
        self.heads = nn.ModuleList(nn.Linear(6, 2) for _ in range(3))

    def forward(self, x: Tensor, extra: bool = False) -> tuple[Tensor, ...]:
        h = torch.tanh(self.trunk(x))
        h = h + self.extra(h) if extra else h
        return tuple(head(h) for head in self.heads)


@case
def unused_outputs() -> Any:
    """AdamW moves whatever has a gradient: each step uses one head, some an extra layer."""
    apart = {}
    for inputs in ("same", "each"):
        torch.manual_seed(0)
        net = Heads().double()
        wide = ch.distribute(copy.deepcopy(net), "replicate", inputs=inputs)
        moves = [torch.optim.AdamW(one.parameters(), lr=0.01) for one in (net, wide)]
        for step, rows in enumerate(ROWS):
            x = torch.randn(rows + 3, 6, generator=torch.Generator().manual_seed(step)).double()
            mine = x
            if inputs == "each":
                mine = x.tensor_split(dist.get_world_size())[dist.get_rank()]
            for one, move, given in ((net, moves[0], x), (wide, moves[1], mine)):
                move.zero_grad()
                one(given, step % 4 == 3)[step % 3].square().sum(1).mean().backward()
                move.step()
            blank = [[p.grad is None for p in one.parameters()] for one in (net, wide)]
            apart[f"{inputs} {step}"] = float(blank[0] != blank[1])
        pairs = zip(net.parameters(), wide.parameters(), strict=True)
        apart[inputs] = max((a - b).abs().max().item() for a, b in pairs)
        wide.zero_grad()
        mine = torch.randn(2, 6, dtype=torch.float64)
        dist.broadcast(mine, 0)
        outs = wide(mine)
        (outs[dist.get_rank() % 2] if inputs == "each" else outs[0]).sum().backward()
        blank = [head.weight.grad is None for head in wide.heads]
        apart[f"{inputs} apart"] = float(blank != [False, inputs == "same", True])
    return apart


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


class Doubles(Heads):
    """Heads by way of a Function, which gives zeros where its output is not used."""

    def forward(self, x: Tensor, extra: bool = False) -> tuple[Tensor, ...]:
        return tuple(Doubled.apply(one) for one in super().forward(x, extra))  # type: ignore[no-untyped-call]


@case
def penalty_and_unused() -> Any:
    """A penalty on some parameters, which the call and the loss may leave out."""
    apart = {}
    for kind in (Heads, Doubles):
        for named in ("", "extra", "heads.1", "heads.2"):
            torch.manual_seed(0)
            net = kind().double()
            wide = ch.distribute(copy.deepcopy(net), "replicate")
            moves = [torch.optim.AdamW(one.parameters(), lr=0.01) for one in (net, wide)]
            for step, rows in enumerate(ROWS):
                x = torch.randn(rows + 3, 6, generator=torch.Generator().manual_seed(step)).double()
                for one, move in zip((net, wide), moves, strict=True):
                    move.zero_grad()
                    loss = one(x, step % 4 == 3)[step % 3].square().mean()
                    held = [p for name, p in one.named_parameters() if name.startswith(named)]
                    (loss + 0.01 * sum(p.square().sum() for p in held)).backward()
                    move.step()
                blank = [[p.grad is None for p in one.parameters()] for one in (net, wide)]
                apart[f"{kind.__name__} {named} {step}"] = float(blank[0] != blank[1])
            pairs = zip(net.parameters(), wide.parameters(), strict=True)
            apart[f"{kind.__name__} {named}"] = max((a - b).abs().max().item() for a, b in pairs)
    return apart


@case
def dealt_too() -> Any:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor, w: Tensor) -> Tensor:
            return self.linear(x) @ w

    def told(*batches: int) -> str:
        wide = ch.distribute(Weighted(), "replicate")
        try:
            for rows in batches:
                wide(torch.ones(rows, 4), torch.ones(4, 4))
        except Exception as error:  # noqa: BLE001 - the test shows it
            return f"{type(error).__name__} {error} {getattr(error, '__notes__', '')}"
        return "ran"

    whole = ch.distribute(Weighted(), "replicate", whole=["w"])
    return {
        "dealt": told(4),
        "other rows": told(5),
        "later": told(5, 4),
        "whole": tuple(whole(torch.ones(4, 4), torch.ones(4, 4)).shape),
    }


LOG: list[int] = []
"""What a forward writes down outside of its module."""


class Noting(nn.Module):
    """Keeps what ``keep`` makes of its features, in the way that ``how`` says."""

    cache: dict[int, int] = {}

    def __init__(self, how: str, keep: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.how, self.keep = nn.Linear(6, 3), how, keep
        self.kept: list[Tensor] = []
        self.one: Tensor | None = None
        self.count = torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if self.how == "list":
            self.kept.append(self.keep(y))
        elif self.how == "attribute":
            self.one = self.keep(y)
        else:
            self.count += self.keep(y)
            LOG.append(len(x))
            self.cache[len(self.cache)] = len(x)
        return y


@case
def attributes() -> Any:
    """Tensors that a forward keeps beside its outputs."""
    keeps: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "loss": ("attribute", lambda y: y.square().mean()),
        "losses": ("list", lambda y: y.square().mean()),
        "looked at": ("attribute", lambda y: y.detach().std()),
        "features": ("list", lambda y: y),
        "heads": ("attribute", lambda y: torch.cat([y, -y])),
        "no rows": ("attribute", lambda y: torch.ones(4)),
        "count": ("count", lambda y: torch.ones(3)),
    }
    said = {}
    for name, (how, keep) in keeps.items():
        net = Noting(how, keep)
        wide = ch.distribute(net, "replicate")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            error = message(lambda wide=wide: wide(torch.randn(7, 6)))  # type: ignore[misc]
            if error == "nothing was raised":
                wide(torch.randn(7, 6))
        texts = [str(one.message) for one in caught]
        said[name] = [error, texts, len(net.kept), net.count.tolist()]
    return said | {"log": LOG, "cache": list(Noting.cache)}


@case
def automatic() -> Any:
    spec = ch.spec(300, 6)
    chosen = {
        "room": ch.distribute(Tied(), memory=10**9),
        "little": ch.distribute(Tied(), memory=3000),
        "activations": ch.distribute(Tied(), memory=20_000, spec=spec),
        "no activations": ch.distribute(Tied(), memory=20_000),
    }
    return {name: str(ch.explain(net)) for name, net in chosen.items()}


def main(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks
    )
    found: dict[str, Any] = {}
    for name, run in CASES.items():
        try:
            found[name] = run()
        except Exception:  # noqa: BLE001 - the test shows it
            found[name] = traceback.format_exc()
    Path(folder, f"found-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


FOLDER = sys.argv[3] if len(sys.argv) > 3 else ""

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), FOLDER)
