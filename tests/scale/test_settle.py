"""The end of Python waits for threads that run, and not for ever."""

import subprocess
import sys
import threading
import time

from chimera.scale.settle import _others_run, settle

SPINS = """
import sys, threading, time
from chimera.scale.settle import settle_at_exit
settle_at_exit()
settle_at_exit()
def spin():
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        pass
    print("done", flush=True)
threading.Thread(target=spin, daemon=True).start()
"""


def test_a_thread_that_computes_is_waited_for():
    stop = threading.Event()

    def spin():
        while not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not _others_run():  # it waits for the lock where this thread holds it
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        stop.set()
        thread.join()


def test_the_end_of_python_waits_and_ends():
    short = subprocess.run([sys.executable, "-c", SPINS, "0.4"], capture_output=True, text=True)
    assert (short.returncode, short.stdout) == (0, "done\n")
    endless = subprocess.run([sys.executable, "-c", SPINS, "60"], capture_output=True, text=True)
    assert (endless.returncode, endless.stdout) == (0, "")


def test_with_nothing_to_wait_for_it_is_short(monkeypatch):
    naps = []
    monkeypatch.setattr("chimera.scale.settle._others_run", lambda: False)
    monkeypatch.setattr(time, "sleep", naps.append)
    settle()
    assert len(naps) == 2
