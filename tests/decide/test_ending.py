"""What a run on trial may not do: go on without an end, or end the process."""

import sys

import pytest
import torch

from chimera.decide import ending
from chimera.decide.ending import Ending, Exited, not_exiting
from chimera.decide.explore import DidNotEnd


def endless():
    x = torch.ones(2)
    while x.sum() < 1e9:
        x = x.tanh()


def numbers():
    x = torch.ones(2)
    while x[0].item() < 1e9:
        pass


@pytest.mark.parametrize("run", [endless, numbers])
def test_a_loop_on_data_without_an_end_is_ended(run):
    with Ending(), pytest.raises(DidNotEnd, match="after 2,000 conditions or numbers") as caught:
        run()
    assert caught.value.file == __file__
    assert caught.value.line == run.__code__.co_firstlineno + 2


def asks_nothing():
    x = torch.ones(2)
    while True:
        x = x.tanh()


def test_a_loop_that_asks_nothing_of_data_is_ended_by_time(monkeypatch):
    monkeypatch.setattr(ending, "LONGEST", 0.05)
    with Ending(), pytest.raises(DidNotEnd, match=r"after 0\.05 s of calls of torch"):
        asks_nothing()


def test_a_long_loop_that_ends_passes():
    x = torch.zeros(())
    with Ending():
        while x < 1500:
            x = x + 1
    assert x == 1500


def test_an_exit_is_an_error_with_the_frames_that_it_had_and_an_interrupt_passes():
    with (
        pytest.raises(Exited, match=r"would end the process: SystemExit\(3\)") as caught,
        not_exiting(),
    ):
        sys.exit(3)
    assert isinstance(caught.value.__cause__, SystemExit)
    with pytest.raises(KeyboardInterrupt), not_exiting():
        raise KeyboardInterrupt
