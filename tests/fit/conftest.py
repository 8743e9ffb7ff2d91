"""Ranks for tests: a process that has torch loaded forks as many as are wanted."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Reads jobs from its input, forks their ranks, and tells their process ids; a further line asks for
# their exit codes. Until then an ended rank keeps its process id: no other can be hit by mistake.
SERVER = """
import json, os, sys, traceback
import torch
import torch.distributed as dist
import chimera as ch
import chimera.cli, chimera.fit, chimera.cli.devices, chimera.cli.fit_run, chimera.cli.resume
from chimera.fit import MLP
from chimera.scale.joined import join

torch.set_num_threads(1)


def rank(job, number, port):
    for name, stream in (("out", 1), ("err", 2)):
        path = f"{job['folder']}/{number}.{name}"
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    size = job["size"]
    if size > 1:
        os.environ.update(
            RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(size),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=port,
            TORCHELASTIC_USE_AGENT_STORE="True",
        )
    os.environ.update(job["env"])
    try:
        exec(compile(job["code"], "<rank>", "exec"), {
            "ch": ch, "torch": torch, "nn": torch.nn, "MLP": MLP, "RANK": number, "SIZE": size,
            "FOLDER": job["folder"], "os": os, "sys": sys, "join": join, "json": json,
        })
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        return getattr(stop, "code", 130)
    except SystemExit as stop:
        print(stop, file=sys.stderr)
        return stop.code
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


for line in sys.stdin:
    job = json.loads(line)
    # The store's thread holds locks now and then: a process forked beside it could wait for ever.
    told, tell = os.pipe()
    children = []
    for number in job["ranks"]:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = rank(job, number, os.read(told, 5).decode())
                sys.stdout.flush(), sys.stderr.flush()
            finally:
                os._exit(code)
        children.append(child)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for _ in children:
        os.write(tell, f"{store.port:5}".encode())
    os.close(told), os.close(tell)
    print(json.dumps(children), flush=True)
    sys.stdin.readline()
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes), flush=True)
    del store
"""


@dataclass
class Ended:
    """What became of ranks: exit codes, and what each said."""

    codes: list[int]
    out: list[str]
    err: list[str]
    said: list[Any] = field(default_factory=list)


class Running:
    """Ranks on their way."""

    def __init__(self, server: "Server", folder: Path, ranks: Sequence[int]) -> None:
        self._server, self.folder, self._ranks = server, folder, ranks
        self.pids: list[int] = json.loads(server.line())

    def killed(self) -> None:
        """End what a failed test left behind."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
        self.codes()

    def codes(self) -> list[int]:
        """Wait for every rank's exit code."""
        self._server.tell("")
        codes: list[int] = json.loads(self._server.line())
        self._server.running = None
        return codes

    def ended(self) -> Ended:
        codes = self.codes()
        out, err = (
            [(self.folder / f"{rank}.{name}").read_text() for rank in self._ranks]
            for name in ("out", "err")
        )
        files = [self.folder / f"{rank}.json" for rank in self._ranks]
        said = [json.loads(file.read_text()) if file.exists() else None for file in files]
        return Ended(codes, out, err, said)


class Server:
    """Starts ranks; ``start`` gives them at once, ``run`` waits for their end.

    The code of a rank sees ``ch``, ``torch``, ``nn``, ``MLP``, ``RANK``, ``SIZE``, ``FOLDER``,
    ``join``; what it writes to ``FOLDER/<rank>.json`` is what it said.
    """

    running: Running | None = None

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self,
        code: str,
        size: int,
        ranks: Sequence[int] | None = None,
        env: dict[str, str] | None = None,
    ) -> Running:
        if self.running is not None:
            self.running.killed()
        folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        chosen = list(range(size)) if ranks is None else list(ranks)
        job = {
            "code": code,
            "size": size,
            "ranks": chosen,
            "folder": str(folder),
            "env": {"CHIMERA_RANKS_TIMEOUT": "60", **(env or {})},
        }
        self.tell(json.dumps(job))
        self.running = Running(self, folder, chosen)
        return self.running

    def run(self, code: str, size: int, **more: Any) -> Ended:
        return self.start(code, size, **more).ended()

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def close(self) -> None:
        if self.running is not None:
            self.running.killed()
        self._process.communicate()


@pytest.fixture(scope="session")
def ranks() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def wait_for(seen: Any, seconds: float = 60) -> None:
    """Wait until ``seen()``."""
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


@pytest.fixture(scope="session", name="wait_for")
def _wait_for() -> Any:
    return wait_for
