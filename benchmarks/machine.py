"""What a machine can do at most: the rates that the floor of a step is counted with."""

import statistics
import time

import torch
from work import Row


def rates(device: torch.device) -> tuple[float, float]:
    """Bytes a second that a copy reads and writes, and operations a second of a product.

    The best of some sizes, each the median of some calls, in float32.
    """
    copy = max(_copy_rate(device, size) for size in (2**22, 2**24, 2**26))
    product = max(_product_rate(device, size) for size in (512, 1024, 2048))
    return copy, product


def floor(row: Row, copy: float, product: float) -> float:
    """The seconds below which no step of a row's members goes, however it is computed."""
    cost = row.cost
    return row.members * (4 * cost.numbers / copy + cost.operations / product)


def _copy_rate(device: torch.device, numbers: int) -> float:
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * numbers / _seconds(lambda: target.copy_(source), device)


def _product_rate(device: torch.device, size: int) -> float:
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / _seconds(lambda: torch.mm(a, b, out=out), device)


def _seconds(run: object, device: torch.device) -> float:
    def once() -> float:
        _wait(device)
        start = time.perf_counter()
        run()  # type: ignore[operator]
        _wait(device)
        return time.perf_counter() - start

    once()
    return statistics.median(once() for _ in range(7))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
