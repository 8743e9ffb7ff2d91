"""The softmax of few numbers: over the last axis, and over the axis before it.

    python benchmarks/softmax.py

torch's softmax over a last axis of some ten numbers runs row by row; with the rows side by side
it runs as wide as the processor. ``stack/rules/losses.py`` stands on it. Milliseconds, medians.
"""

import torch
from timing import hardware, medians
from torch import nn


def main() -> None:
    print(hardware(torch.device("cpu")))
    print(f"{'members x rows x classes':<26} {'last':>8} {'before':>8} {'last/before':>12}")
    for classes in (2, 10, 32, 64, 128, 512):
        x = torch.randn(64, 32, classes)
        y = x.transpose(1, 2).contiguous()
        torch.testing.assert_close(y.log_softmax(1).transpose(1, 2), x.log_softmax(2))
        found = medians(
            {
                "last": lambda x=x: nn.functional.log_softmax(x, 2),
                "before": lambda y=y: nn.functional.log_softmax(y, 1),
            },
            seconds=0.02,
        )
        last, before = 1000 * found["last"], 1000 * found["before"]
        print(f"{f'64 x 32 x {classes}':<26} {last:8.3f} {before:8.3f} {last / before:12.1f}")


if __name__ == "__main__":
    main()
