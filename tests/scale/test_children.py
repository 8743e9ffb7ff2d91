"""Processes that this one started: found, and ended with all that they lead."""

import os
import subprocess
import sys
import time

import pytest

from chimera.scale import children as module
from chimera.scale.children import children, kill_children

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture(params=["kernel", "ps"])
def asked(request, monkeypatch):
    """Both ways to ask who the children are."""
    if request.param == "ps":
        isdir = os.path.isdir
        monkeypatch.setattr(
            module.os.path, "isdir", lambda path: path != "/proc/self" and isdir(path)
        )


@pytest.mark.usefixtures("asked")
def test_those_that_run_are_found_and_those_of_before_left_alone():
    with subprocess.Popen(SLEEP) as before, subprocess.Popen(SLEEP, start_new_session=True) as one:
        try:
            assert {before.pid, one.pid} <= set(children())
            kill_children(set(children()) - {one.pid})
            assert one.wait(20) == -9
            assert before.poll() is None
            assert one.pid not in children()
        finally:
            before.kill()
            one.kill()


@pytest.mark.usefixtures("asked")
def test_what_a_child_leads_ends_with_it():
    leader = (
        "import subprocess, sys; p = subprocess.Popen(sys.argv[1:]); "
        "print(p.pid, flush=True); p.wait()"
    )
    there = set(children())
    with subprocess.Popen(
        [sys.executable, "-c", leader, *SLEEP],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        inner = int(process.stdout.readline())
        kill_children(there)
        assert process.wait(20) == -9
    deadline = time.monotonic() + 20
    while _lives(inner):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _lives(pid):
    said = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True)
    return said.stdout.strip()[:1] not in ("", "Z", "X")
