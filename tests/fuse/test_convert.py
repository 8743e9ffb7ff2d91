"""Branches written by hand become ``ch.Parallel``."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import chimera as ch


def conv(channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels), nn.Dropout(0.3))


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv(c) for c in (2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([b(x) for b in self.branches], 1)


class Named(nn.Module):
    """In the form of GoogLeNet's blocks: a method of its own gives the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.branch1, self.branch2 = conv(2), conv(4)

    def _forward(self, x: Tensor) -> list[Tensor]:
        first = self.branch1(x)
        second = self.branch2(x)
        return [first, second]

    def forward(self, x: Tensor) -> Tensor:
        outputs = self._forward(x)
        return torch.cat(outputs, 1)


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({"up": conv(2), "down": conv(2)})

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([head(x) for head in self.heads.values()], dim=-1)


class Around(nn.Module):
    """Branches by hand inside a branch by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Listed(), Named()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.a(x), self.b(x)), dim=1)


@pytest.mark.parametrize("make", [Listed, Named, Heads, Around])
@pytest.mark.parametrize("inside", [False, True])
def test_converted(make: Callable[[], nn.Module], inside: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), make()) if inside else make()
    net.eval()
    x = torch.randn(2, 3, 4, 4)
    made = ch.to_parallel(net, x)
    assert not any(isinstance(module, make) for module in made.modules())
    assert any(isinstance(module, ch.Parallel) for module in made.modules())
    assert list(made.state_dict()) == list(net.state_dict())
    made.load_state_dict(net.state_dict())
    assert torch.equal(made(x), net(x))
    assert not any(module.training for module in made.modules())
    for one in (made, net):
        torch.manual_seed(1)
        one.train()(x).square().sum().backward()
    for a, b in zip(made.parameters(), net.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_block_in_two_places_stays_one() -> None:
    block = nn.Sequential(Named())
    net = nn.Sequential(block, nn.Conv2d(6, 3, 1), block)
    made = ch.to_parallel(net, torch.randn(2, 3, 4, 4))
    assert made[0] is made[2]
    assert made[0][0] is made[2][0]
    assert type(made[0][0]) is ch.Parallel


class Chain(Named):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [self.branch1(x), F.relu(self.branch2(x))]


class Follows(Named):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [self.branch1(x), self.branch2(self.branch1(x)[:, :1].expand(-1, 3, -1, -1))]


class Asks(Named):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            x = x * 2
        return torch.cat(self._forward(x), 1)


class Backwards(Named):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [self.branch2(x), self.branch1(x)]


class Twice(Named):
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [self.branch1(x), self.branch2(x), self.branch1(x)]


class Swapped(Named):
    def _forward(self, x: Tensor) -> list[Tensor]:
        first, second = self.branch1(x), self.branch2(x)
        return [second, first]


class More(Named):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)


class Scaled(Named):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


class Wide(Named):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.cat(self._forward(x), 1)


class Both(Named):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(self._forward(x), 1) + 1


REFUSED = {
    Chain: "its forward also calls relu",
    Follows: "its forward also calls",
    Asks: "its forward asks Python",
    Backwards: "another order than that of its state_dict",
    Twice: "one module runs as two branches",
    Swapped: "not what each branch gives, once and in order",
    More: "it holds unused, which is no branch",
    Scaled: "it has parameters or buffers of its own",
    Wide: "its forward takes 2 inputs, not one",
    Both: "its forward also calls add",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_anything_else_is_refused_by_name(kind: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Identity(), kind())
    with pytest.raises(ValueError, match=rf"1 \({kind.__name__}\) is not converted") as error:
        ch.to_parallel(net, torch.randn(2, 3, 4, 4), paths=["1"])
    assert REFUSED[kind] in str(error.value)
    with pytest.raises(ValueError, match="no branches written by hand: 1: "):
        ch.to_parallel(net, torch.randn(2, 3, 4, 4))


def test_what_is_left_is_said_by_name() -> None:
    net = nn.ModuleDict({"good": Named(), "other": Both()})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = net

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["good"](x) + self.parts["other"](x)

    with pytest.warns(ch.ChimeraWarning, match=r"parts\.other was not converted: .*add"):
        made = ch.to_parallel(Net(), torch.randn(2, 3, 4, 4))
    assert type(made.parts["good"]) is ch.Parallel
    assert type(made.parts["other"]) is Both
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ch.to_parallel(Net(), torch.randn(2, 3, 4, 4), paths=["parts.good"])


def test_a_branch_that_changes_its_input_is_found_on_the_example() -> None:
    class Inplace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
            self.b = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.a(x), self.b(x)], 1)

    with pytest.raises(ValueError, match=r"converting \(root\) changes what net computes"):
        ch.to_parallel(Inplace(), torch.randn(3, 4))


def test_hooks_are_refused() -> None:
    net = Named()
    net.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="it has hooks"):
        ch.to_parallel(net, torch.randn(2, 3, 4, 4))


SEEN: dict[str, int] = {}
CALLS = 0


class Kept(nn.Module):
    """Branches by hand, and something that the forward keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(4, 2) for _ in range(2))
        self.k, self.log, self.table = 0, [], {}

    def forward(self, x: Tensor) -> Tensor:
        self.keep(x)
        return torch.cat([b(x) for b in self.branches], 1)

    def keep(self, x: Tensor) -> None:
        raise NotImplementedError


class KeptInNumber(Kept):
    def keep(self, x: Tensor) -> None:
        self.k += 1


class KeptInList(Kept):
    def keep(self, x: Tensor) -> None:
        self.log.append(x)


class KeptInTable(Kept):
    def keep(self, x: Tensor) -> None:
        self.table["last"] = 3


class KeptByClass(Kept):
    def keep(self, x: Tensor) -> None:
        SEEN["last"] = 3


class KeptGlobally(Kept):
    def keep(self, x: Tensor) -> None:
        global CALLS
        CALLS += 1


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        *(
            (KeptInNumber, "writes k"),
            (KeptInList, "changes log"),
            (KeptInTable, "writes to a container"),
        ),
        *((KeptByClass, "writes to a container"), (KeptGlobally, "writes CALLS")),
    ],
)
def test_what_a_forward_keeps_is_left_by_name(kind: type[Kept], what: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), kind(), Pair())
    with pytest.warns(ch.ChimeraWarning, match=f"1 was not converted: its forward {what}"):
        made = ch.to_parallel(net, torch.randn(3, 4))
    assert type(made[1]) is kind
    assert type(made[2]) is ch.Sequential
    assert (net[1].k, net[1].log, net[1].table) == (0, [], {})


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(4, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([b(x) for b in self.branches], 1)


def test_arguments() -> None:
    with pytest.raises(TypeError, match="net must be a module"):
        ch.to_parallel(3, torch.ones(1))
    with pytest.raises(TypeError, match="example must be tensors, got a specification"):
        ch.to_parallel(Named(), ch.spec(2, 3))
    with pytest.raises(TypeError, match="example must be a tensor"):
        ch.to_parallel(Named(), None)
    with pytest.raises(ValueError, match="net has no module 'x'"):
        ch.to_parallel(Named(), torch.ones(1), paths=["x"])
    with pytest.raises(ValueError, match="net has no branches written by hand$"):
        ch.to_parallel(nn.Linear(1, 1), torch.ones(1, 1))
