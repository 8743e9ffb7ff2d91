"""Convolutions of many members: grouped, as a product of windows or images, and separate.

    python benchmarks/convolutions.py [--shapes 24] [--seed 0]

A row is the processor time in milliseconds of a forward and a backward of all members, on one
thread, the median of runs in turn. *Loss* is what the way that the rule of
``stack/rules/convolution.py`` takes costs over the fastest of them. The shapes are drawn from
the seed, so that the rule cannot know them.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import hardware
from torch import Tensor

from chimera.stack.rules.convolution import way_of

Convolve = Callable[[Tensor, Tensor, Tensor, int, int], Tensor]
LARGEST = 4e8  # multiplications of a forward of all members


def draw(generator: random.Random) -> tuple[int, ...]:
    """Members, images of one, channels in and out, kernel, side of the image, stride, padding."""
    while True:
        members, images = generator.choice([4, 8, 16, 32, 64]), generator.choice([1, 4, 8, 16, 32])
        before, after = generator.choice([1, 3, 4, 8, 16, 32]), generator.choice([4, 8, 16, 32, 64])
        kernel, side = generator.choice([1, 3, 3, 3, 5]), generator.choice([4, 8, 16, 32])
        stride = generator.choice([1, 1, 1, 2])
        work = members * images * before * after * (kernel * side // stride) ** 2
        if work <= LARGEST:
            return members, images, before, after, kernel, side, stride, kernel // 2


def grouped(x: Tensor, w: Tensor, b: Tensor, stride: int, padding: int) -> Tensor:
    """One convolution with a group a member."""
    members = len(x)
    together = x.transpose(0, 1).flatten(1, 2)
    y = F.conv2d(together, w.flatten(0, 1), b.flatten(), stride, padding, 1, members)
    return y.unflatten(1, (members, -1)).transpose(0, 1)


def product(x: Tensor, w: Tensor, b: Tensor, stride: int, padding: int) -> Tensor:
    """One product a member with the unfolded windows of all its images."""
    kernel, side = w.shape[-1], (x.shape[-1] + 2 * padding - w.shape[-1]) // stride + 1
    windows = F.unfold(x.flatten(0, 1), kernel, 1, padding, stride).unflatten(0, x.shape[:2])
    rows = windows.transpose(2, 3).flatten(1, 2)
    y = torch.bmm(rows, w.flatten(2).transpose(1, 2))
    return y.unflatten(1, (-1, side, side)).movedim(-1, 2) + b.view(len(b), 1, -1, 1, 1)


def separate(x: Tensor, w: Tensor, b: Tensor, stride: int, padding: int) -> Tensor:
    """One convolution after the other."""
    rows = zip(x.unbind(0), w.unbind(0), b.unbind(0), strict=True)
    return torch.stack([F.conv2d(*row, stride, padding) for row in rows])


def pointwise(x: Tensor, w: Tensor, b: Tensor, stride: int, padding: int) -> Tensor:
    """One product of an image's places with the weights, for windows of one place."""
    images = x[..., ::stride, ::stride].transpose(0, 1)
    y = torch.matmul(w.flatten(2), images.flatten(3)) + b.unsqueeze(2)
    return y.unflatten(3, images.shape[3:]).transpose(0, 1)


WAYS: dict[str, Convolve] = {"grouped": grouped, "product": product, "separate": separate}


def measure(shape: tuple[int, ...], rounds: int = 5) -> dict[str, float]:
    """Milliseconds by way; raises where two ways differ."""
    members, images, before, after, kernel, side, stride, padding = shape
    x = torch.randn(members, images, before, side, side, requires_grad=True)
    w = torch.randn(members, after, before, kernel, kernel, requires_grad=True)
    b = torch.randn(members, after, requires_grad=True)
    expected = separate(x, w, b, stride, padding)
    ways = WAYS | ({"pointwise": pointwise} if kernel == 1 else {})
    for way in ways.values():
        torch.testing.assert_close(way(x, w, b, stride, padding), expected, rtol=1e-3, atol=1e-3)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way(x, w, b, stride, padding).sum().backward()
            times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = random.Random(options.seed)
    print(hardware(torch.device("cpu")))
    print("members images channels kernel side stride | numbers of one output | ms by way, loss")
    losses = []
    for _ in range(options.shapes):
        shape = draw(generator)
        members, images, before, after, kernel, side, stride, padding = shape
        places = ((side + 2 * padding - kernel) // stride + 1) ** 2
        window, taken = before * kernel**2, images * before * side**2
        found = measure(shape)
        sizes = (members, images, places, window, after, taken)
        chosen = found[way_of(*sizes, strided=stride > 1, pointwise=kernel == 1)]
        losses.append(chosen / min(found.values()) - 1)
        cells = "  ".join(f"{name} {time:8.2f}" for name, time in found.items())
        drawn = f"{members:3} {images:3} {before:3}->{after:<3} {kernel} {side:3} {stride}"
        fastest = min(found, key=found.__getitem__)
        numbers = images * places * after
        print(f"{drawn} | {numbers:7} | {cells}  fastest: {fastest:<9} {losses[-1]:5.0%}")
    within = sum(loss <= 0.1 for loss in losses)
    print(
        f"within 10% of the fastest: {within} of {len(losses)}; median loss "
        f"{statistics.median(losses):.0%}, largest {max(losses):.0%}"
    )


if __name__ == "__main__":
    main()
