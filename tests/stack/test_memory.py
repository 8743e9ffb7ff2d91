"""Freed memory stays with the process."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from torch import nn
import chimera as ch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        a, b = (torch.ones(2 * 2**20) for _ in range(2))
        del a, b
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

{stack}
faults()
print(faults() * resource.getpagesize())
"""


def bytes_faulted(stack: str) -> int:
    """How much memory was new to the process in three steps that take 16 MiB and free them."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    run = [sys.executable, "-c", FAULTS.format(stack=stack)]
    done = subprocess.run(run, env=env, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_a_stack_keeps_freed_memory() -> None:
    assert bytes_faulted("ch.Stack([nn.Linear(2, 2)])") < 2**20 < bytes_faulted("")
