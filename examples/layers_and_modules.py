"""Layers and modules: from one layer to hundreds of networks.

Neurons make layers, layers make blocks, blocks make models, and all of them look alike: something
comes in, something goes out, and the parameters in between are trained. The networks here follow
the chapter on layers and modules of Dive into Deep Learning (https://d2l.ai): first as anybody
writes them in PyTorch, then what Chimera adds. Nothing is rewritten for Chimera.

    python examples/layers_and_modules.py
"""

import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import chimera as ch

# One network, three ways -------------------------------------------------------------------------


def perceptron() -> ch.Sequential:
    """Two layers in a chain."""
    return ch.Sequential(nn.LazyLinear(256), nn.ReLU(), nn.LazyLinear(10))


class Perceptron(nn.Module):
    """The same as a class of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.LazyLinear(256)
        self.out = nn.LazyLinear(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(x)))


class Chain(nn.Module):
    """A chain of one's own that loops over ``children()``. That gives a module only once."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        for position, layer in enumerate(layers):
            self.add_module(str(position), layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class ListChain(nn.Module):
    """A chain of one's own that keeps its layers in a list. Their parameters are lost."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = list(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


# Any Python in forward ---------------------------------------------------------------------------


class FixedHidden(nn.Module):
    """A constant that does not train, a layer used twice, a loop that looks at the data."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = torch.rand(20, 20)
        self.linear = nn.LazyLinear(20)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.linear(x) @ self.mixing + 1)
        x = self.linear(x)
        while x.abs().sum() > 1:
            x = x / 2
        return x.sum()


class FixedHiddenInBlocks(nn.Module):
    """The same with a Constant, which is saved and moves, and a While, which can be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = ch.Constant(torch.rand(20, 20))
        self.linear = nn.LazyLinear(20)
        self.halve = ch.While(lambda x: x.abs().sum() > 1, lambda x: x / 2, limit=200)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.linear(x) @ self.mixing() + 1)
        return self.halve(self.linear(x)).sum()


# Networks inside networks ------------------------------------------------------------------------


class Nested(nn.Module):
    """A network that holds a network."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(32), nn.ReLU())
        self.linear = nn.LazyLinear(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.inner(x))


def chimera() -> ch.Sequential:
    """All of them in one: the nested network, a layer, the one with the loop."""
    return ch.Sequential(Nested(), nn.LazyLinear(20), FixedHidden())


def side_by_side(devices: list[torch.device] | None = None) -> ch.Parallel:
    """Two networks that take the same input, their outputs joined."""
    return ch.Parallel(Nested(), Perceptron(), combine="concat", dim=1, devices=devices)


def present() -> list[torch.device]:
    """Two devices for two branches: the first two GPUs, or one twice, or the CPU twice."""
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    last = max(torch.cuda.device_count() - 1, 0)
    return [torch.device(kind, min(i, last) if kind == "cuda" else 0) for i in range(2)]


class Funnel(nn.Module):
    """A small network whose output may be narrower than its input."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 20), nn.ReLU(), nn.Linear(20, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def joined(out: int) -> ch.Sequential:
    """Three instances of one factory, 10 -> 20 -> ``out`` each, joined into one network."""
    return ch.Sequential(*ch.instances(Funnel, 3, 10, out))


# What Chimera says of them -----------------------------------------------------------------------


def main() -> None:
    warnings.simplefilter("ignore", ch.ChimeraWarning)  # adopted tensors: told by ch.explain too
    spec = ch.spec(2, 20)
    torch.manual_seed(0)
    x = torch.rand(2, 20)

    title("The shapes of the chimera, from its specification alone: no data, no memory")
    print(ch.shapes(chimera, spec))

    title("Built: every path has its own seed; the plain tensor moves and is saved now")
    net = ch.build(chimera, spec, seed=0)
    print(f"output {net(x).item():.4f}")
    print(ch.explain(net))

    title("Two networks side by side")
    both = ch.build(side_by_side(present()), spec, seed=0)
    print(f"{tuple(both(x.to(present()[0])).shape)} on {', '.join(map(str, present()))}")

    title("Three instances of 10 -> 20 -> 5 do not fit into each other; of 10 -> 20 -> 10 they do")
    try:
        ch.build(joined(5), ch.spec(32, 10))
    except RuntimeError as error:
        print(error, *getattr(error, "__notes__", ()), sep="\n")
    print(f"{tuple(joined(10)(torch.rand(32, 10)).shape)}")

    title("Mistakes found before a run")
    layer = nn.Linear(20, 20)
    suspects: tuple[Callable[[], nn.Module], ...] = (
        lambda: ListChain(nn.Linear(20, 20), nn.ReLU()),
        lambda: Chain(layer, nn.ReLU(), layer),
        FixedHidden,
    )
    for make in suspects:
        for finding in ch.check(make(), spec):
            print(f"{finding.severity:7} {finding.rule:22} {finding.message}")

    title("200 instances, each with its own number of turns, as one")
    for kind in (FixedHidden, FixedHiddenInBlocks):
        nets = ch.instances(kind, 200, seed=0, spec=spec)
        stack = ch.Stack(nets)
        alone, slow = timed(lambda nets=nets: torch.stack([one(x) for one in nets]))
        stacked, fast = timed(lambda stack=stack: stack(x))
        print(f"{kind.__name__}: {slow / fast:.1f} times as fast as one by one, with gradients")
        print(f"largest difference of an output {(stacked - alone).abs().max():.1e}")
        print(f"{ch.explain(stack)}\n")


def title(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The output of ``run``, and the seconds of the fastest of three, backward included."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        out = run()
        out.sum().backward()
        seconds.append(time.perf_counter() - start)
    return out.detach(), min(seconds)


if __name__ == "__main__":
    main()
