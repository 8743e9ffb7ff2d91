"""The most memory that a training step takes, beside the sum of what it must hold.

    python benchmarks/memory.py [--only MLP] [--engines eager,compiled] [--steps 4]

The sum: arguments, parameters, gradients, Adam's two means, and the activations, which are what
autograd saves for the backward pass of a step of the Stack (each piece of memory once). The peak:
the most that a process of its own held in memory while it took some steps, less what it held
before it made the members, as Linux counts it (VmHWM). What torch and its compiler are themselves
is in the process before: a small stack of the same kind is trained by the same engine first.
"""

import argparse
import ctypes
import gc
import re
import subprocess
import sys
from pathlib import Path

import torch
from candidates import ours
from timing import hardware
from torch import Tensor
from work import Row

import chimera as ch

ROWS = (
    Row("mlp", (64, 256, 256, 10), 1024, 128),
    Row("mlp", (256, 1024, 10), 256, 16),
    Row("cnn", (16, 32, 10), 512, 64, 16),
    Row("gru", (16, 32), 5120, 8, 20),
)
CPU = torch.device("cpu")


def held(name: str) -> int:
    """Bytes of this process: VmRSS now, or VmHWM, the most since ``forget``."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found.group(1))


def forget() -> None:
    """Give back what is free, and let VmHWM begin anew."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def activations(row: Row) -> int:
    """The bytes that autograd saves in a step, the parameters and arguments aside."""
    stack = ch.Stack(ch.instances(row.make, row.members, seed=0))
    x, y = row.batches(CPU, torch.float32)
    known = {t.untyped_storage().data_ptr() for t in (*stack.parameters(), x, y)}
    kept: dict[int, int] = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        step = ch.train_step(stack, row.loss, ch.optim.SGD(stack, lr=0.0), engine="eager")
        step(ch.each(x), ch.each(y))
    return sum(kept.values())


def one(row: Row, engine: str, steps: int) -> None:
    """Print the bytes that training takes at most."""
    small = Row(row.kind, row.widths, 4, row.batch, row.steps)
    for each, count in ((small, 4), (row, steps)):
        if each is row:
            forget()
            before = held("VmRSS")
        modules = ch.instances(each.make, each.members, seed=0)
        step = ours(modules, each, *each.batches(CPU, torch.float32), engine=engine)
        del modules  # a Stack holds copies
        if each is row:
            forget()  # what making the members took is not a step's
        for _ in range(count):
            step()
    print(held("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--engines", default="eager,compiled")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--one", help="of this row and the first engine, in this process")
    options = parser.parse_args()
    engines = options.engines.split(",")
    if options.one:
        (row,) = (row for row in ROWS if row.name == options.one)
        one(row, engines[0], options.steps)
        return
    print(hardware(CPU))
    print("MiB: what a step must hold, and the most that it held\n")
    head = ("parameters", "x 4", "activations", "sum")
    print(f"{'':<48}" + "".join(f"{name:>12}" for name in (*head, *engines)))
    for row in ROWS:
        if options.only not in row.name:
            continue
        parameters = 4 * row.members * sum(p.numel() for p in row.make().parameters())
        saved = activations(row)
        total = 4 * parameters + saved + sum(t.nbytes for t in row.batches(CPU, torch.float32))
        cells = [f"{n / 2**20:.0f}" for n in (parameters, 4 * parameters, saved, total)]
        for engine in engines:
            command = [sys.executable, __file__, "--one", row.name, "--engines", engine]
            command += ["--steps", str(options.steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            most = int(done.stdout.split()[-1])
            cells.append(f"{most / 2**20:.0f} {most / total:.2f}x")
        print(f"{row.name:<48}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
