"""What compiling a step costs and saves, and whether the rule of ``engine="auto"`` decides rightly.

    python benchmarks/engines.py [--rounds 9] [--seed 7 --count 6] [--only MLP] [--device cuda]

For each row a step by each engine, what the rule counts of the recorded operations (those that pass
through memory, and what they read and write), the time that recording and compiling take, and after
how many steps compiling has paid: as measured, and as the rule says, which looks at no clock. Rows
are those of peers.py, or drawn by a seed.
"""

import argparse
import time

import torch
from candidates import RATE
from timing import hardware, medians
from work import CPU, Row, drawn

import chimera as ch
from chimera.engine.choice import pays_after
from chimera.engine.cost import Cost


def step_of(row: Row, engine: str, device: torch.device) -> tuple[ch.Stack, object, object]:
    """A callable that takes a step, and the ``TrainStep``."""
    modules = [m.to(device) for m in ch.instances(row.make, row.members, seed=0)]
    x, y = row.batches(device, torch.float32)
    stack = ch.Stack(modules)
    optimizer = ch.optim.Adam(stack, lr=torch.full((row.members,), RATE))
    step = ch.train_step(stack, row.loss, optimizer, engine=engine, steps=10**9)
    inputs, targets = ch.each(x), ch.each(y)
    return lambda: step(inputs, targets), step


def cost_of(step: object) -> Cost:
    """What the rule sees of what was recorded."""
    (kind,) = step._fast.kinds
    assert kind.choice == "compiled", kind.reason
    return kind.recorded.cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--seed", type=int, help="draw the rows")
    parser.add_argument("--count", type=int, default=6, help="how many are drawn")
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = CPU if options.seed is None else drawn(options.seed, options.count, device)
    print(hardware(device))
    print(f"medians of {options.rounds} rounds, milliseconds a step of all members\n")
    head = ("eager", "compiled", "passes", "MB", "compiling", "pays after", "by the rule")
    print(f"{'':<46}" + "".join(f"{name:>12}" for name in head))
    for row in rows:
        if options.only not in row.name:
            continue
        eager, _ = step_of(row, "eager", device)
        compiled, step = step_of(row, "compiled", device)
        eager()
        start = time.perf_counter()
        compiled()
        seconds = time.perf_counter() - start
        found = medians({"eager": eager, "compiled": compiled}, rounds=options.rounds, seconds=0.1)
        cost = cost_of(step)
        saved = found["eager"] - found["compiled"]
        paid = f"{seconds / saved:.0f}" if saved > 0 else "never"
        cells = (
            f"{1000 * found['eager']:.2f}",
            f"{1000 * found['compiled']:.2f}",
            str(cost.passes),
            f"{cost.nbytes / 1e6:.0f}",
            f"{seconds:.1f} s",
            paid,
            str(pays_after(cost)),
        )
        print(f"{row.name:<46}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
