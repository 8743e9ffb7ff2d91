"""What a step of ``ch.optim`` costs, in times of torch's fused kernel with one setting for all.

    python benchmarks/optimizers.py [--members 256] [--runs 300] [--threads 2]

Every row is one way of giving settings. The parameters are those of MLPs 64->32->10 and
64->256->10. The runs of a table are interleaved; a figure is a median.
"""

import argparse
import statistics
import time

import torch
from torch import nn

import chimera as ch


def stack_of(members: int, width: int) -> ch.Stack:
    torch.manual_seed(0)
    nets = [
        nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)) for _ in range(members)
    ]
    stack = ch.Stack(nets)
    for parameter in stack.parameters():
        parameter.grad = torch.randn_like(parameter)
    return stack


def candidates(members: int, width: int) -> dict[str, object]:
    def stack() -> ch.Stack:
        return stack_of(members, width)

    rates, decays = torch.logspace(-4, -2, members), torch.rand(members) / 10
    betas = (0.5 + torch.rand(members) / 2.1, 0.999)
    return {
        "torch AdamW, fused": torch.optim.AdamW(stack().parameters(), fused=True),
        "torch AdamW, foreach": torch.optim.AdamW(stack().parameters(), foreach=True),
        "AdamW, one setting for all": ch.optim.AdamW(stack()),
        "AdamW, lr per member": ch.optim.AdamW(stack(), lr=rates),
        "AdamW, lr and decay per member": ch.optim.AdamW(stack(), lr=rates, weight_decay=decays),
        "Adam, lr per member": ch.optim.Adam(stack(), lr=rates),
        "Adam, lr and L2 per member": ch.optim.Adam(stack(), lr=rates, weight_decay=decays),
        "AdamW, lr and betas per member": ch.optim.AdamW(stack(), lr=rates, betas=betas),
        "torch SGD, momentum, fused": torch.optim.SGD(
            stack().parameters(), momentum=0.9, fused=True
        ),
        "SGD, momentum, one setting for all": ch.optim.SGD(stack(), momentum=0.9),
        "SGD, momentum, lr per member": ch.optim.SGD(stack(), lr=rates, momentum=0.9),
        "SGD, all per member": ch.optim.SGD(
            stack(), lr=rates, momentum=betas[0], weight_decay=decays
        ),
    }


def measure(members: int, width: int, runs: int) -> None:
    optimizers = candidates(members, width)
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(runs):
        for name, optimizer in optimizers.items():
            start = time.perf_counter()
            optimizer.step()  # type: ignore[attr-defined]
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times[runs // 10 :]) for name, times in seconds.items()}
    base = medians["torch AdamW, fused"]
    print(f"\n{members} MLPs 64->{width}->10, {torch.get_num_threads()} threads")
    print(f"{'optimizer':36} {'ms a step':>9} {'ratio':>6}")
    for name, median in medians.items():
        print(f"{name:36} {1e3 * median:9.3f} {median / base:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=256)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for width in (32, 256):
        measure(given.members, width, given.runs)


if __name__ == "__main__":
    main()
