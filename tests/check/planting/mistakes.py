"""One mistake for each check rule, to be planted where a network has features ``[batch, WIDTH]``.

``MISTAKES`` gives, by rule, a ``Mistake``: what takes the place of the module there, and where
below it the rule must find it.
"""

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import chimera as ch

WIDTH = 12
ROWS = 4


@dataclass(frozen=True)
class Mistake:
    """A mistake that can be planted.

    Attributes:
        make: from the module that stood there to what stands there now.
        below: where the rule must find it, below the place; None is the root of the network.
        loss: the loss that the network is checked with.
        fixed: whether the batch is given as a number.
        whole: whether the whole network is wrapped, in the place of one module.
    """

    make: Any
    below: str | None = ""
    loss: Any = None
    fixed: bool = False
    whole: bool = False


class Around(nn.Module):
    """Runs the module that stood there; mistakes are written into what derives from it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class AssignedTwice(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.extra = nn.Linear(WIDTH, WIDTH)
        self.extra = nn.LayerNorm(WIDTH)

    def forward(self, x):
        return self.extra(self.inner(x))


class Squeezed(Around):
    def forward(self, x):
        return self.inner(x).unsqueeze(1).squeeze()


class BothBranches(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.a = nn.Linear(WIDTH, WIDTH // 2)
        self.b = nn.Linear(WIDTH, WIDTH // 2)

    def forward(self, x):
        x = self.inner(x)
        return torch.cat([self.a(x), self.b(x)], dim=1)


class Pairs(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.score = nn.Linear(WIDTH, 1)

    def forward(self, x):
        x = self.inner(x)
        return x + (self.score(x) * x.mean(1)).sum(1, keepdim=True)


class Repeats(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.a = inner
        self.b = nn.LayerNorm(WIDTH)
        self.c = inner

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


class Clashing(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.half = inner

    def forward(self, x):
        return self._modules["half"](x)


class Decides(Around):
    def forward(self, x):
        x = self.inner(x)
        if x.sum() > 0:
            x = x + 1
        return x


class AlwaysDropped(Around):
    def forward(self, x):
        return F.dropout(self.inner(x), 0.1)


class Noisy(Around):
    def forward(self, x):
        return self.inner(x) + 0.1 * torch.randn_like(x)


class Untied(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.one, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.other.weight = self.one.weight
        self.draw()

    def draw(self):
        self.other.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)

    def forward(self, x):
        return self.other(torch.tanh(self.one(self.inner(x))))


class Exhausted(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.scales = (scale for scale in (1.0, 2.0))

    def forward(self, x):
        x = self.inner(x)
        for scale in self.scales:
            x = x * scale
        return x


class FixedRows(Around):
    def forward(self, x):
        return self.inner(x).reshape(ROWS, WIDTH)


class ForwardCalled(Around):
    def forward(self, x):
        return self.inner.forward(x)


class HardCoded(Around):
    def forward(self, x):
        return self.inner(x) + torch.zeros(WIDTH)


class InplaceBranch(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.branch = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH))

    def forward(self, x):
        x = self.inner(x) * 2
        return x + self.branch(x)


class InplaceInput(Around):
    def forward(self, x):
        x += 1
        return self.inner(x)


class Unfilled(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.bias = nn.Parameter(torch.empty(WIDTH))

    def forward(self, x):
        return self.inner(x) + self.bias


class IgnoresInput(nn.Module):
    """The whole network, with an input more that it forgets."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *args):
        return self.inner(*args[:-1])


class Leaves(Around):
    def forward(self, x):
        return self.inner(x) * self.inner(x).data.mean()


class ListCalled(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.more = nn.ModuleList([nn.LayerNorm(WIDTH)])

    def forward(self, x):
        return self.more(self.inner(x))


class MadeInForward(Around):
    def forward(self, x):
        return nn.Linear(WIDTH, WIDTH)(self.inner(x))


class NotStarted(nn.Module):
    def __init__(self, inner):
        self.width = WIDTH

    def forward(self, x):
        return x


class Misspelled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def foward(self, x):
        return self.inner(x)


class Masked(Around):
    def forward(self, x):
        x = self.inner(x)
        scores = x.unsqueeze(1) * x.unsqueeze(2)
        mask = torch.ones(WIDTH, WIDTH, device=x.device).tril().bool()
        weights = scores.masked_fill(mask, -1e9).softmax(-1)
        return (weights @ x.unsqueeze(2)).squeeze(2)


class Mixes(Around):
    def forward(self, x):
        return x + self.inner(x).softmax(0)


class OwnMode(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.inner.eval()


class NeverCalled(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.extra = nn.Linear(WIDTH, WIDTH)


class Detached(Around):
    def forward(self, x):
        return self.inner(x).detach()


class Logarithm(Around):
    def forward(self, x):
        return (self.inner(x) - 10).log()


class Projected(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.register_buffer("projection", torch.randn(WIDTH, WIDTH), persistent=False)

    def forward(self, x):
        return self.inner(x) @ self.projection


class LostParameter(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.scale = nn.Parameter(torch.ones(WIDTH)) * 2

    def forward(self, x):
        return self.inner(x) * self.scale


class PlainTensor(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.scale = torch.rand(WIDTH)

    def forward(self, x):
        return self.inner(x) * self.scale


class ThrownAway(Around):
    def forward(self, x):
        x = self.inner(x)
        F.relu(x)
        return x


class OfTheClass(Around):
    extra = nn.LayerNorm(WIDTH)

    def forward(self, x):
        return self.extra(self.inner(x))


class OneNorm(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.more = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        x = self.norm(self.inner(x)).relu()
        return self.norm(self.more(x)).relu()


class Stale(Around):
    def forward(self, x):
        return self.inner(x)


def train(net):
    """Training code with a mistake; it is read, not run."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net.head = nn.Linear(WIDTH, 2)
    stack = ch.Stack([net])
    torch.nn.utils.clip_grad_norm_(stack.parameters(), 1.0)
    return optimizer


class Grows(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.seen = []

    def forward(self, x):
        x = self.inner(x)
        self.seen.append(x.detach())
        return x


class InAList(Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.more = [nn.Linear(WIDTH, WIDTH)]

    def forward(self, x):
        return self.more[0](self.inner(x))


class Rounded(Around):
    def forward(self, x):
        return self.inner(x).round()


def then(*layers):
    """The module that stood there, then ``layers``."""
    return lambda inner: nn.Sequential(inner, *[layer() for layer in layers])


def linear(**named):
    return functools.partial(nn.Linear, WIDTH, WIDTH, **named)


def constant():
    layer = linear()()
    nn.init.constant_(layer.weight, 0.3)
    return layer


def huge():
    layer = linear()()
    nn.init.normal_(layer.weight, std=1e5)
    return layer


def copies(inner):
    layer = linear()()
    return nn.Sequential(inner, layer, nn.Tanh(), copy.deepcopy(layer))


def tied(inner):
    layer = linear()()
    return nn.Sequential(inner, layer, nn.Tanh(), layer)


MISTAKES = {
    "activation-before-loss": Mistake(
        then(lambda: nn.Softmax(dim=1)), "1", loss=nn.CrossEntropyLoss(), whole=True
    ),
    "assigned-twice": Mistake(AssignedTwice),
    "batch-axis-lost": Mistake(Squeezed),
    "bias-before-norm": Mistake(then(linear(), lambda: nn.BatchNorm1d(WIDTH)), "1"),
    "branches-by-hand": Mistake(BothBranches),
    "broadcast-rows": Mistake(Pairs),
    "children-drop-repeats": Mistake(Repeats),
    "clashing-name": Mistake(Clashing),
    "clipped-together": Mistake(Stale),
    "condition-on-data": Mistake(Decides),
    "does-not-run": Mistake(then(lambda: nn.Linear(WIDTH + 1, WIDTH)), "1"),
    "dropout-always-on": Mistake(AlwaysDropped),
    "equal-instances": Mistake(copies, "3"),
    "exhausted-iterator": Mistake(Exhausted),
    "extreme-activations": Mistake(then(huge), "1"),
    "fixed-batch": Mistake(FixedRows, fixed=True),
    "forward-called": Mistake(ForwardCalled),
    "hard-coded-device": Mistake(HardCoded),
    "initial-values": Mistake(then(constant), "1"),
    "inplace-in-branch": Mistake(InplaceBranch, "branch.0"),
    "inplace-on-input": Mistake(InplaceInput),
    "input-unused": Mistake(IgnoresInput, None, whole=True),
    "leaves-graph": Mistake(Leaves),
    "linear-after-linear": Mistake(then(linear(), linear()), "2"),
    "list-called": Mistake(ListCalled),
    "made-in-forward": Mistake(MadeInForward),
    "missing-super-init": Mistake(NotStarted),
    "misspelled-method": Mistake(Misspelled),
    "mistaken-argument": Mistake(then(lambda: nn.LeakyReLU(True)), "1"),
    "mistaken-axis": Mistake(then(lambda: nn.Dropout2d(0.1)), "1"),
    "mistaken-mask": Mistake(Masked),
    "mixes-rows": Mistake(Mixes),
    "mode-changed": Mistake(OwnMode),
    "never-called": Mistake(NeverCalled, "extra"),
    "no-gradient": Mistake(Detached),
    "noise-in-evaluation": Mistake(Noisy),
    "not-finite": Mistake(Logarithm),
    "not-restored": Mistake(Projected),
    "parameter-lost": Mistake(LostParameter),
    "plain-tensor": Mistake(PlainTensor),
    "repeated-activation": Mistake(then(lambda: nn.Softmax(dim=1), lambda: nn.Softmax(dim=1)), "2"),
    "result-thrown-away": Mistake(ThrownAway),
    "shared-by-class": Mistake(OfTheClass),
    "shared-module": Mistake(tied, "1"),
    "shared-norm": Mistake(OneNorm, "norm"),
    "softmax-without-dim": Mistake(then(nn.Softmax), "1"),
    "stale-optimizer": Mistake(Stale),
    "state-across-calls": Mistake(Grows),
    "tie-undone": Mistake(Untied),
    "unfilled-memory": Mistake(Unfilled),
    "unregistered-module": Mistake(InAList),
    "zero-gradient": Mistake(Rounded),
}
