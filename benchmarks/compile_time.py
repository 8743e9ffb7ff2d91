"""What compiling a step takes against the number of members: it should not grow.

    python benchmarks/compile_time.py [--members 16,256,4096]

A Stack of MLPs 64->32->10, batch 32, Adam, each number in a process of its own with an empty cache
of the compiler. The first compiled step is timed, less an eager one: seconds of the clock, and of
all cores together, which say the same on a machine that others use.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time

import torch
from candidates import ours
from timing import hardware
from work import Row


def used() -> float:
    """Seconds of all cores that this process and those that it waited for have taken."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(r.ru_utime + r.ru_stime for r in map(resource.getrusage, kinds))


def one(members: int) -> None:
    """Print the seconds that compiling for so many members takes."""
    row, took = Row("mlp", (64, 32, 10), members, 32), {}
    import chimera as ch

    for engine in ("eager", "compiled"):
        modules = ch.instances(row.make, row.members, seed=0)
        step = ours(modules, row, *row.batches(torch.device("cpu"), torch.float32), engine=engine)
        took[engine] = []
        for _ in range(4):  # the third is the first that is compiled
            start, before = time.perf_counter(), used()
            step()
            took[engine].append((time.perf_counter() - start, used() - before))
    clock, cores = (
        sum(step[i] for step in took["compiled"]) - sum(step[i] for step in took["eager"])
        for i in (0, 1)
    )
    print(clock, cores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--members", default="16,256,4096")
    parser.add_argument("--one", type=int, help="for so many members, in this process")
    options = parser.parse_args()
    if options.one:
        one(options.one)
        return
    print(hardware(torch.device("cpu")))
    print(f"{'members':>8}{'seconds':>10}{'of cores':>10}")
    for members in options.members.split(","):
        with tempfile.TemporaryDirectory() as cache:
            # Processes of the compiler's own would not be waited for: it compiles in this one.
            more = {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
            command = [sys.executable, __file__, "--one", members]
            done = subprocess.run(
                command, capture_output=True, text=True, check=True, env=os.environ | more
            )
        clock, cores = map(float, done.stdout.split()[-2:])
        print(f"{members:>8}{clock:>10.1f}{cores:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
