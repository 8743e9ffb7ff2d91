"""A Stack under ``DistributedDataParallel``: two processes on one machine, gloo."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import chimera as ch

SCRIPT = """
import sys, time, warnings
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

folder, rank = sys.argv[1], int(sys.argv[2])
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "`torch.jit")
store = dist.FileStore(f"{folder}/store", 2)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
stack, xs = torch.load(f"{folder}/in.pt", weights_only=False)
parallel = DistributedDataParallel(stack)
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
for x in xs:
    optimizer.zero_grad()
    outputs = parallel(x[rank])
    sum(output.square().mean() for output in outputs).backward()
    optimizer.step()
torch.save((stack.state_dict(), outputs), f"{folder}/out{rank}.pt")
dist.destroy_process_group()
time.sleep(0.1)  # gloo's threads drop their tensors before Python ends
"""

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed"),
]


def members() -> list[nn.Module]:
    torch.manual_seed(0)
    made: list[nn.Module] = [
        nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(0.1 * i), nn.Dropout(0.2), nn.Linear(4, 2))
        for i in range(1, 4)
    ]
    return [*made, nn.Linear(3, 2)]


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """The mean of the two halves' gradients; each process draws what its members draw alone."""
    stack = ch.Stack(members(), seed=5).double()
    xs = torch.randn(3, 2, 6, 3).double()
    torch.save((stack, xs), tmp_path / "in.pt")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path), str(rank)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
    (state, outputs), (other, _) = (torch.load(tmp_path / f"out{rank}.pt") for rank in range(2))
    modules = stack.modules_list()
    for member, module in enumerate(modules):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for step, x in enumerate(xs):
            optimizer.zero_grad()
            for half in (0, 1):
                with ch.randomness(seed=5, member=member, step=step):
                    output = module(x[half])
                (output.square().mean() / 2).backward()
                if half == 0:
                    first = output
            optimizer.step()
        torch.testing.assert_close(outputs[member], first)
    stack.load_state_dict(state)
    for member, module in enumerate(modules):
        for mine, theirs in zip(stack[member].parameters(), module.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)
