"""Convolutions of many members: grouped, as a batched product of windows, and separate.

    python benchmarks/convolutions.py

A row is the processor time in milliseconds of a forward and a backward of all members, on one
thread, the median of runs in turn. The rule of ``stack/rules/convolution.py`` stands on it.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import hardware
from torch import Tensor

# Members, images of one, channels in and out, kernel, side of the image, stride, padding.
SHAPES = [
    (8, 4, 4, 6, 3, 8, 1, 0),
    (64, 4, 4, 6, 3, 8, 1, 0),
    (64, 4, 32, 64, 3, 8, 1, 1),
    (64, 8, 16, 16, 1, 16, 1, 0),
    (64, 8, 8, 16, 5, 16, 2, 2),
    (64, 8, 8, 16, 3, 16, 1, 1),
    (64, 32, 3, 8, 3, 16, 1, 1),
    (64, 16, 16, 32, 3, 16, 1, 1),
    (8, 32, 16, 32, 3, 16, 1, 1),
    (16, 32, 3, 16, 3, 32, 1, 1),
    (4, 8, 3, 32, 7, 64, 2, 3),
]
Convolve = Callable[[Tensor, Tensor, Tensor, int, int], Tensor]


def grouped(x: Tensor, w: Tensor, b: Tensor, stride: int, padding: int) -> Tensor:
    """One convolution with a group a member."""
    members = len(x)
    together = x.transpose(0, 1).flatten(1, 2)
    y = F.conv2d(together, w.flatten(0, 1), b.flatten(), stride, padding, 1, members)
    return y.unflatten(1, (members, -1)).transpose(0, 1)


def product(x: Tensor, w: Tensor, b: Tensor, stride: int, padding: int) -> Tensor:
    """A batched product with the unfolded windows."""
    kernel, side = w.shape[-1], (x.shape[-1] + 2 * padding - w.shape[-1]) // stride + 1
    windows = F.unfold(x.flatten(0, 1), kernel, 1, padding, stride).unflatten(0, x.shape[:2])
    y = torch.matmul(w.flatten(2).unsqueeze(1), windows) + b[:, None, :, None]
    return y.unflatten(-1, (side, side))


def separate(x: Tensor, w: Tensor, b: Tensor, stride: int, padding: int) -> Tensor:
    """One convolution after the other."""
    rows = zip(x.unbind(0), w.unbind(0), b.unbind(0), strict=True)
    return torch.stack([F.conv2d(*row, stride, padding) for row in rows])


def measure(shape: tuple[int, ...]) -> dict[str, float]:
    """Milliseconds by way; raises where two ways differ."""
    members, images, before, after, kernel, side, stride, padding = shape
    x = torch.randn(members, images, before, side, side, requires_grad=True)
    w = torch.randn(members, after, before, kernel, kernel, requires_grad=True)
    b = torch.randn(members, after, requires_grad=True)
    ways: dict[str, Convolve] = {"grouped": grouped, "product": product, "separate": separate}
    expected = separate(x, w, b, stride, padding)
    for way in ways.values():
        torch.testing.assert_close(way(x, w, b, stride, padding), expected, rtol=1e-3, atol=1e-3)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(5):
        for name, way in ways.items():
            start = time.process_time()
            way(x, w, b, stride, padding).sum().backward()
            times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    torch.set_num_threads(1)
    print(hardware(torch.device("cpu")))
    print("members images channels kernel side stride | numbers of one output | ms by way")
    for shape in SHAPES:
        members, images, before, after, kernel, side, stride, padding = shape
        numbers = images * after * ((side + 2 * padding - kernel) // stride + 1) ** 2
        found = measure(shape)
        cells = "  ".join(f"{name} {time:8.2f}" for name, time in found.items())
        sizes = f"{members:3} {images:3} {before:3}->{after:<3} {kernel} {side:3} {stride}"
        print(f"{sizes} | {numbers:7} | {cells}  fastest: {min(found, key=found.__getitem__)}")


if __name__ == "__main__":
    main()
