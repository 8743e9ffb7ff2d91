"""A checkpoint that several ranks write together, each the members that it holds.

Rank 0 makes the directory and tells the others, which write their files into it and say so; then
rank 0 writes what is said of the whole run, and lets the folder become whole, the marker last. A
rank that fails, or that the kernel says is gone, leaves nothing but the checkpoint before.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

from chimera.fit.checkpoint import write_members, write_state
from chimera.fit.quarantine import Death
from chimera.fit.standing import Standing
from chimera.scale.meeting import PeerError
from chimera.scale.ranks import Ranks
from chimera.store import Folders
from chimera.store.atomic import flush, noting_space

_SKIPPED = "it is there"


def write_together(
    ranks: Ranks, number: int, folders: Folders, standing: Standing, look: Callable[[], None]
) -> None:
    """Write the checkpoint of one step; called by every rank of the team, each in its thread.

    Args:
        ranks: all of them.
        number: of this checkpoint among those that the ranks wrote since they met.
        folders: of the run.
        standing: where the run stands, of the members that this rank holds.
        look: called while this rank waits for others; raises to end that.

    Raises:
        OSError: the disk refuses.
        PeerError: another rank failed, is gone or is late.
    """
    key = f"save/{number}"
    if ranks.rank == 0:
        try:
            if standing.step in folders.complete():
                ranks.tell(key, _SKIPPED)
            else:
                fill = partial(_fill, ranks, key, standing, look)
                folders.write(standing.step, fill, standing.bytes * len(ranks.team))
        except BaseException as error:
            ranks.tell(f"{key}/lost", f"{type(error).__name__}: {error}")
            raise
        ranks.tell(f"{key}/done", True)
        return
    _wait(ranks, key, look, "its directory")
    if ranks.heard(key) != _SKIPPED:
        folder = folders.path(standing.step).with_suffix(".tmp")
        try:
            with noting_space(folder.with_suffix(""), folders.root.parent, standing.bytes):
                name = write_members(folder, standing, ranks.rank)
                flush(folder / name)
            size = (folder / name).stat().st_size
        except OSError:
            _raise_lost(ranks, key)
            raise
        deaths = [dataclasses.asdict(death) for death in standing.deaths]
        ranks.tell(f"{key}/{ranks.rank}", [name, size, deaths])
    _wait(ranks, f"{key}/done", look, "its end")


def _fill(
    ranks: Ranks, key: str, standing: Standing, look: Callable[[], None], folder: Path
) -> None:
    """What rank 0 does in the folder that is to become whole."""
    ranks.tell(key, standing.step)
    files, deaths = [write_members(folder, standing, 0)], list(standing.deaths)
    for rank in ranks.team[1:]:
        _wait(ranks, f"{key}/{rank}", look, f"the file of rank {rank}", [rank])
        name, size, died = ranks.heard(f"{key}/{rank}")
        if (folder / name).stat().st_size != size:
            raise OSError(f"{folder / name}: rank {rank} wrote {size:,} bytes, which are not here")
        files.append(name)
        deaths += [Death(**death) for death in died]
    write_state(folder, standing, files, deaths)


def _wait(
    ranks: Ranks,
    key: str,
    look: Callable[[], None],
    what: str,
    missing: list[int] | None = None,
) -> None:
    lost = f"{key.rpartition('/')[0] if key.endswith('/done') else key}/lost"

    def watch() -> None:
        look()
        if ranks.rank and ranks.heard(lost) is not None:
            _raise_lost(ranks, lost.removesuffix("/lost"))

    ranks.wait_until(
        lambda: ranks.heard(key) is not None,
        lambda: [0] if missing is None else missing,
        f"a checkpoint waits for {what}",
        look=watch,
    )


def _raise_lost(ranks: Ranks, key: str) -> None:
    lost = ranks.heard(f"{key}/lost")
    if lost is not None:
        raise PeerError(f"rank 0 failed: {lost}", told=True)
