"""``--devices``: one command as several ranks, of which one speaks."""

from collections.abc import Callable

import torch

from chimera.cli import typed
from chimera.cli.mistake import Mistake
from chimera.scale.joined import is_rank, join
from chimera.scale.launch import RanksFailed, device_count, launch
from chimera.scale.meeting import PeerError
from chimera.scale.ranks import Ranks, current


def over_devices(
    devices: str | None, device: str | None, command: Callable[[Ranks | None], int]
) -> int:
    """Run ``command`` in this process, as one rank of several, or start the ranks; the exit code.

    Args:
        devices: ``--devices`` as it was given: a number, or auto for what the machine has.
        device: ``--device`` as it was given.
        command: what a rank does; it gets the ranks, None where it is alone.
    """
    count = _count(devices)
    if is_rank():
        return _as_rank(command)
    if count == 1:
        return command(None)
    arguments = ["-m", "chimera", *typed.without("--devices")]
    if device is None and torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
        assert accelerator is not None
        arguments += ["--device", accelerator.type]
    try:
        return launch(count, arguments)
    except RanksFailed as failed:
        return failed.code


def _as_rank(command: Callable[[Ranks | None], int]) -> int:
    join()
    ranks = current()
    assert ranks is not None
    code = 0
    try:
        with ranks.met():
            code = command(ranks)
    except PeerError as error:
        if not error.told:
            raise
        code = 1  # the rank that failed spoke
    except (KeyboardInterrupt, SystemExit) as stop:
        if _is_first(ranks):
            raise
        return getattr(stop, "code", 130)
    return code


def _is_first(ranks: Ranks) -> bool:
    try:
        return ranks.tell_first("spoke", True)
    except PeerError:
        return ranks.rank == 0


def _count(devices: str | None) -> int:
    if devices is None:
        return 1
    if devices == "auto":
        return device_count()
    if not (devices.isascii() and devices.isdecimal() and 0 < int(devices) < 10_000):
        raise Mistake(f"--devices: expected a whole number of at least 1 or auto, got {devices!r}")
    return int(devices)
