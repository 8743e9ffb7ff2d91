"""Whether a fused network is ever slower than the plain one: networks drawn from a seed.

    python benchmarks/branches_random.py [--seed 0] [--count 24] [--seconds 2] [--threads 1]

Number, kind, widths and input of the branches are drawn. A row is one forward and backward, plain
and fused in turn, many times; the ratio is the median over pairs of neighbours, its error from
their spread (1.25 times the standard error of a mean). A row is slower where the ratio is below
0.97 by more than twice the error, and is so again twice when measured anew for twice as long: on a
machine with other work one of forty rows is called slower by chance. Plain against plain, measured
the same way, says what this machine can resolve.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import torch
from branches import Own, Recurrent, cnn, mlp, step
from timing import hardware
from torch import nn

import chimera as ch

Factory = Callable[[], nn.Module]


def drawn(rng: random.Random) -> tuple[str, nn.Module, torch.Tensor]:
    """A network of branches, and its input."""
    count = rng.choice([2, 3, 4, 6, 8, 12, 16, 24, 32])
    kind = rng.choice(["mlp", "mlp", "mlp", "widths", "cnn", "cnns", "own", "gru", "mixed"])
    batch = rng.choice([1, 4, 16, 32, 64, 128])
    if kind in ("mlp", "mixed"):
        widths = [rng.choice([8, 16, 32, 64, 128, 256]) for _ in range(rng.randint(2, 4))]
        branches = [mlp(*widths)() for _ in range(count)]
        if kind == "mixed":
            branches += [nn.Linear(widths[0], 8) for _ in range(rng.randint(1, count))]
        return (
            f"{len(branches)} x {kind} {'->'.join(map(str, widths))}, batch {batch}",
            (ch.Parallel(*branches)),
            torch.randn(batch, widths[0]),
        )
    if kind == "widths":
        few = [rng.choice([8, 16, 24, 32, 48, 64, 128]) for _ in range(rng.randint(2, 8))]
        ends = rng.choice([16, 64, 256]), rng.choice([8, 32])
        branches = [mlp(ends[0], rng.choice(few), ends[1])() for _ in range(count)]
        name = f"{count} x {ends[0]}->{len(set(few))} widths->{ends[1]}, batch {batch}"
        return name, ch.Parallel(*branches), torch.randn(batch, ends[0])
    if kind == "cnns":
        few, size = [rng.choice([4, 6, 8, 12, 16]) for _ in range(3)], rng.choice([8, 12])
        batch = min(batch, 32)
        branches = [cnn(rng.choice(few), size)() for _ in range(count)]
        name = f"{count} x cnn of {len(set(few))} widths, {size}x{size}, batch {batch}"
        return name, ch.Parallel(*branches), torch.randn(batch, 3, size, size)
    if kind == "cnn":
        channels, size, batch = rng.choice([4, 8, 16, 32]), rng.choice([8, 12, 16]), min(batch, 32)
        name = f"{count} x cnn {channels}, {size}x{size}, batch {batch}"
        branches = [cnn(channels, size)() for _ in range(count)]
        return name, ch.Parallel(*branches), torch.randn(batch, 3, size, size)
    if kind == "own":
        net = ch.Parallel(*(Own() for _ in range(count)))
        return f"{count} x own forward, batch {batch}", net, torch.randn(batch, 64)
    batch, steps = min(batch, 16), rng.choice([5, 10, 20])
    net = ch.Parallel(*(Recurrent() for _ in range(count)))
    name = f"{count} x GRU 16->32, {steps} steps, batch {batch}"
    return name, net, torch.randn(batch, steps, 16)


def ratio(
    one: Callable[[], object],
    other: Callable[[], object],
    seconds: float,
    clock: Callable[[], float],
) -> tuple[float, float, float]:
    """The median of time(one) / time(other), its error, and the median time of ``one``."""
    for run in (one, other, one, other):
        run()
    start = clock()
    one()
    calls = max(1, int(0.02 / max(clock() - start, 1e-6)))
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(times) < 8 or time.perf_counter() < end:
        order = (one, other) if len(times) % 2 == 0 else (other, one)
        took = {}
        for run in order:
            start = clock()
            for _ in range(calls):
                run()
            took[run] = (clock() - start) / calls
        times.append((took[one], took[other]))
    found = sorted(a / b for a, b in times)
    middle = found[len(found) // 8 : -(len(found) // 8) or None]
    error = 1.25 * statistics.stdev(middle) / len(middle) ** 0.5
    return statistics.median(found), error, statistics.median(a for a, _ in times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    rng = random.Random(options.seed)
    torch.manual_seed(options.seed)
    print(hardware(torch.device("cpu")), f"seed {options.seed}")
    print(f"{'':44} {'plain ms':>9} {'plain/fused':>12} {'error':>6} {'plain/plain':>12}  ran")
    slower, ratios = [], []
    for _ in range(options.count):
        name, net, x = drawn(rng)
        fused = ch.fuse(net)
        plain, again, ours = step(net, x), step(net, x), step(fused, x)
        found, error, took = ratio(plain, ours, options.seconds, clock)
        tries = 0
        while found < 0.97 - 2 * error and tries < 2:
            found, error, took = ratio(plain, ours, 2 * options.seconds, clock)
            tries += 1
        same, _, _ = ratio(plain, again, options.seconds / 4, clock)
        as_one = "as one" if "ran as one" in str(ch.explain(fused)) else "plain"
        mark = ""
        if found < 0.97 - 2 * error:
            slower.append(name)
            mark = " SLOWER"
        ratios.append(found)
        print(
            f"{name:44} {took * 1e3:9.3f} {found:12.3f} {error:6.3f} {same:12.3f}  {as_one}{mark}",
            flush=True,
        )
    said = f"{len(slower)} of {options.count} slower than plain by more than 3%"
    print(f"{said}; least {min(ratios):.3f}, median {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
