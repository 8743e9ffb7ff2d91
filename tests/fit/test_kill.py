"""Runs killed at random moments, inside the writing of checkpoints too, end with the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from chimera.store import TensorFile

# Reads directories from its input; for each a forked process goes on with the run in it.
SERVER = """
import os, sys
import torch
import chimera as ch
from chimera.fit import MLP

torch.set_num_threads(1)
x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
data = ch.data(x, (x[:, 0] > 0).long())
made = ch.instances(MLP, 6, 4, 2, hidden=16, dropout=0.1, seed=0)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            ch.fit(made, data, epochs=8, batch_size=6, lr=0.01, out=line.strip(),
                   resume="auto", checkpoint_every=1)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Server:
    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, out: Path) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{out}\n")
        self._process.stdin.flush()
        return int(self._line())

    def ended(self) -> int:
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@contextmanager
def serving() -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


def writing(out: Path) -> bool:
    """Whether a checkpoint is half-written: beside its place, or there without its marker."""
    try:
        names = os.listdir(out / "checkpoints")
    except FileNotFoundError:
        return False
    return any(
        name.endswith((".tmp", ".old"))
        or not (out / "checkpoints" / name / "complete.json").exists()
        for name in names
    )


def wait_for_a_writing(out: Path, child: int) -> None:
    """Wait until a checkpoint is half-written or the process is gone."""
    while not writing(out):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return


def kill_and_resume(server: Server, folder: Path, kills: int, rng: random.Random) -> int:
    """Kill runs ``kills`` times, each until it is done; how many died inside a writing."""
    server.start(folder / "whole")
    started = time.monotonic()
    assert server.ended() == 0
    took = time.monotonic() - started
    wanted = said(folder / "whole")
    done = inside = 0
    trial = 0
    while done < kills:
        out = folder / str(trial)
        trial += 1
        code = 1
        while code != 0:
            child = server.start(out)
            if done < kills:
                time.sleep(rng.uniform(0, took))
                if rng.random() < 0.7:
                    wait_for_a_writing(out, child)
                    time.sleep(rng.uniform(0, 0.005))
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            code = server.ended()
            assert code in (0, -signal.SIGKILL)
            if code:
                done += 1
                inside += writing(out)
        assert said(out) == wanted
        assert sorted(os.listdir(out)) == sorted(os.listdir(folder / "whole"))
        assert sorted(os.listdir(out / "checkpoints")) == sorted(
            os.listdir(folder / "whole" / "checkpoints")
        )
    return inside


def said(out: Path) -> object:
    held = TensorFile(out / "members.safetensors")
    tensors = {name: tensor.tolist() for name, tensor in held.read().items()}
    files = [(out / name).read_bytes() for name in ("metrics.jsonl", "members.csv")]
    return [held.meta, tensors, files]


def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path: Path) -> None:
    with serving() as server:
        kill_and_resume(server, tmp_path, 6, random.Random(1))


@pytest.mark.long
def test_a_hundred_kills_thirty_of_them_inside_a_writing(tmp_path: Path) -> None:
    rng = random.Random(random.SystemRandom().randrange(1 << 30))
    with serving() as server:
        inside = kill_and_resume(server, tmp_path, 100, rng)
    print(f"{inside} of 100 kills inside the writing of a checkpoint")  # noqa: T201
    assert inside >= 30
