"""One writer a directory: who is refused, and whose lock is taken over."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from chimera.store import Lock, LockedError
from chimera.store.lock import NAME

HOLD = """
import sys, time
from pathlib import Path
from chimera.store import Lock
lock = Lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_lock_names_its_holder_and_is_gone_when_given_back(tmp_path: Path) -> None:
    with Lock(tmp_path):
        said = json.loads((tmp_path / NAME).read_text())
        assert said == {"host": socket.gethostname(), "pid": os.getpid()}
    assert list(tmp_path.iterdir()) == []


def test_a_second_holder_is_refused_with_the_first_one_s_name(tmp_path: Path) -> None:
    with Lock(tmp_path), pytest.raises(LockedError, match=f"process {os.getpid()} of host"):
        Lock(tmp_path)
    Lock(tmp_path).release()


def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=f"process {holder.pid} of host"):
            Lock(tmp_path, force=True)
        holder.kill()
        holder.wait()
        assert (tmp_path / NAME).exists()
        with Lock(tmp_path):
            assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("left", ["", "{", "[]"])
def test_a_lock_that_was_never_written_is_taken_over(tmp_path: Path, left: str) -> None:
    (tmp_path / NAME).write_text(left)
    Lock(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_another_host_needs_force(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    with pytest.raises(LockedError, match="process 7 of host 'elsewhere'.*force-unlock"):
        Lock(tmp_path)
    assert json.loads((tmp_path / NAME).read_text())["pid"] == 7
    Lock(tmp_path, force=True).release()


def test_a_link_in_the_lock_s_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic"):
        Lock(tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"
