"""Damaged checkpoints: never loaded in silence, never a crash, never more memory than the file."""

import json
import os
import random
import re
import shutil
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.fit import MLP, Data
from chimera.fit.checkpoint import read
from chimera.store import CheckpointError, Folders

MEMBERS = 4


def blobs() -> Data:
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return ch.data(x, (x[:, 0] > 0).long())


def nets() -> list[nn.Module]:
    made: list[nn.Module] = ch.instances(MLP, MEMBERS, 4, 2, hidden=4, seed=0)
    return made


class Stop(Exception):
    pass


def stop_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    def stop(record: dict[str, Any]) -> None:
        if record["epoch"] == epoch:
            raise Stop

    return stop


def train(out: Path | None, **options: Any) -> Any:
    given = {"epochs": 4, "batch_size": 8, "lr": 0.01, "checkpoint_every": 1}
    return ch.fit(nets(), blobs(), out=out, **{**given, **options})


def unfinished(out: Path, seed: int) -> Path:
    with pytest.raises(Stop):
        train(out, progress=stop_after(3), seed=seed)
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two different runs stopped after three epochs, checkpoints at steps 6 and 9."""
    folder = tmp_path_factory.mktemp("runs")
    return unfinished(folder / "one", 0), unfinished(folder / "two", 1)


TWO_RANKS = """
join()
x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
data = ch.data(x, (x[:, 0] > 0).long())
class Stop(Exception): pass
def stop(record):
    if record["epoch"] == 3:
        raise Stop
ch.fit(ch.instances(MLP, 4, 4, 2, hidden=4, seed=0), data, epochs=4, batch_size=8, lr=0.01,
       checkpoint_every=1, out=OUT, progress=stop, seed=SEED)
"""


@pytest.fixture(scope="module")
def runs_of_two_ranks(ranks: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same, each written by two ranks."""
    folder = tmp_path_factory.mktemp("two")
    for seed, name in enumerate(("one", "two")):
        code = f"OUT, SEED = {str(folder / name)!r}, {seed}\n{TWO_RANKS}"
        ended = ranks.run(code, 2)
        assert "Stop" in ended.err[0], ended.err
        assert (folder / name / "checkpoints/9/members-1.safetensors").exists()
    return folder / "one", folder / "two"


def look(run: Path, step: int) -> None:
    folders = Folders(run / "checkpoints", json.loads((run / "config.json").read_text())["run"])
    read(folders.check(step), [list(range(MEMBERS))], list(range(MEMBERS)))


def flip(path: Path, rng: random.Random, twin: Path) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, rng: random.Random, twin: Path) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def grow(path: Path, rng: random.Random, twin: Path) -> None:
    with open(path, "ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 200)))


def zero_a_stretch(path: Path, rng: random.Random, twin: Path) -> None:
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    stretch = slice(start, start + rng.randrange(1, 64))
    before = bytes(content)
    content[stretch] = bytes(len(content[stretch]))
    if content == before:
        content[start] = 1
    path.write_bytes(content)


def swap(path: Path, rng: random.Random, twin: Path) -> None:
    shutil.copy(twin, path)
    if path.name != "complete.json" and rng.random() < 0.5:  # the manifest with it
        shutil.copy(twin.with_name("manifest.json"), path.with_name("manifest.json"))


def missing(path: Path, rng: random.Random, twin: Path) -> None:
    path.unlink()


def other_kind(path: Path, rng: random.Random, twin: Path) -> None:
    path.unlink()
    kind = rng.randrange(5)
    if kind == 0:
        path.symlink_to(twin)
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.symlink_to("/dev/zero")
    else:
        torch.save({"weight": torch.zeros(3)}, path)


MUTATIONS = [flip, flip, truncate, grow, zero_a_stretch, swap, missing, other_kind]


def hunt(runs: tuple[Path, Path], tmp_path: Path, mutations: int, seed: int) -> None:
    """Mutate one file of a checkpoint at a time; every mutation must be seen, as one error."""
    rng = random.Random(seed)
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    folder = run / "checkpoints" / "9"
    names = sorted(os.listdir(folder))
    pristine = tmp_path / "pristine"
    shutil.copytree(folder, pristine)
    look(run, 9)
    size = sum((folder / name).stat().st_size for name in names)
    tracemalloc.start()
    for _ in range(mutations):
        name, mutate = rng.choice(names), rng.choice(MUTATIONS)
        other = runs[1] / "checkpoints" / rng.choice(["6", "9"]) / name
        mutate(folder / name, rng, other)
        tracemalloc.reset_peak()
        with pytest.raises(CheckpointError) as caught:
            look(run, 9)
        assert str(folder) in str(caught.value), mutate.__name__
        assert len(str(caught.value).splitlines()) == 1
        assert tracemalloc.get_traced_memory()[1] < 100 * size + (8 << 20)
        shutil.rmtree(folder)
        shutil.copytree(pristine, folder)
    tracemalloc.stop()
    look(run, 9)


def test_every_mutation_is_seen(runs: tuple[Path, Path], tmp_path: Path) -> None:
    hunt(runs, tmp_path, 250, seed=1)


def test_every_mutation_of_what_two_ranks_wrote_is_seen(
    runs_of_two_ranks: tuple[Path, Path], tmp_path: Path
) -> None:
    hunt(runs_of_two_ranks, tmp_path, 150, seed=2)


@pytest.mark.long
def test_a_thousand_mutations_of_what_two_ranks_wrote(
    runs_of_two_ranks: tuple[Path, Path], tmp_path: Path
) -> None:
    hunt(runs_of_two_ranks, tmp_path, 1000, seed=random.SystemRandom().randrange(1 << 30))


@pytest.mark.long
def test_every_one_of_a_thousand_mutations_is_seen(runs: tuple[Path, Path], tmp_path: Path) -> None:
    hunt(runs, tmp_path, 1000, seed=random.SystemRandom().randrange(1 << 30))


def sealed(run: Path, step: int) -> None:
    """Let the manifest and the marker of a checkpoint fit its files, whatever these hold."""
    folders = Folders(run / "checkpoints", json.loads((run / "config.json").read_text())["run"])
    folder = folders.path(step)
    held = {
        name: (folder / name).read_bytes()
        for name in os.listdir(folder)
        if name not in ("manifest.json", "complete.json")
    }

    def fill(place: Path) -> None:
        for name, content in held.items():
            (place / name).write_bytes(content)

    folders.write(step, fill)


def test_a_sealed_state_that_makes_no_sense_is_an_error_too(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    """Whoever seals what he forged meets the same error: no crash, no code, no huge allocation."""
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    path = run / "checkpoints" / "9" / "state.json"
    good = json.loads(path.read_text())
    wrong: list[Any] = [[], 7, None]
    for key in good:
        wrong.append({name: value for name, value in good.items() if name != key})
    for value in (None, "x", -1, 1.5, [], {}, [[["x"]]], "../../x"):
        wrong += [good | {key: value} for key in ("step", "epoch", "batch", "files", "format")]
    wrong += [
        good | {"files": [name]} for name in ("../../x", "members-x.safetensors", "state.json")
    ]
    wrong += [good | {"deaths": [{"member": 1}]}, good | {"calls": [0]}]
    for forged in wrong:
        path.write_text(json.dumps(forged))
        sealed(run, 9)
        with pytest.raises(CheckpointError):
            look(run, 9)


def test_a_damaged_checkpoint_is_passed_over_and_said(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = train(None)
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    file = run / "checkpoints/9/members-0.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(ch.ChimeraWarning, match=re.escape(str(file))) as told:
        result = train(run, resume=True)
    (warning,) = [w for w in told if issubclass(w.category, ch.ChimeraWarning)]
    assert "has" in str(warning.message)
    assert "going on from the checkpoint before it, of step 6" in str(warning.message)
    assert repr(result.table) == repr(whole.table)
    assert repr(result.epochs) == repr(whole.epochs)
    assert sorted(os.listdir(run / "checkpoints")) == ["12", "9", "9.damaged"]


def test_when_all_are_damaged_the_run_does_not_start_over(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    for step in ("6", "9"):
        (run / "checkpoints" / step / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="9/state.json") as caught:
        train(run, resume=True)
    (note,) = caught.value.__notes__
    assert note.startswith("none of the 2 checkpoints of this run can be read; put a copy of them")
    assert str(run / "checkpoints") in note
    assert sorted(os.listdir(run / "checkpoints")) == ["6", "9"]


def test_a_checkpoint_of_another_run_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(runs[1] / "checkpoints", run / "checkpoints")
    with pytest.raises(CheckpointError, match="complete.json: is of folder 9 of the run"):
        train(run, resume=True)


def test_checkpoints_in_a_link_are_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    (run / "checkpoints").rename(tmp_path / "elsewhere")
    (run / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="a symbolic link, expected a directory"):
        train(run, resume=True)


def test_rows_follow_the_ids_of_the_members(runs: tuple[Path, Path]) -> None:
    """State belongs to members: any order, and any share of them, is a choice of rows."""
    folder = runs[0] / "checkpoints/9"
    whole = read(folder, [[0, 1, 2, 3]], [0, 1, 2, 3])
    part = read(folder, [[3, 1]], [3, 1])
    for name, tensor in whole.groups[0].tensors.items():
        assert torch.equal(part.groups[0].tensors[name], tensor[[3, 1]])
    for name, tensor in whole.optimizer[0].items():
        same = tensor if tensor.dim() == 0 else tensor[[3, 1]]
        assert torch.equal(part.optimizer[0][name], same)
    assert torch.equal(part.figures, whole.figures[[3, 1]])
    with pytest.raises(CheckpointError, match="member 9 is not in it"):
        read(folder, [[9]], [9])


def test_no_warning_where_nothing_is_wrong(runs: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(run, resume=True)


def test_the_room_that_a_checkpoint_takes_is_said_truly(runs: tuple[Path, Path]) -> None:
    folder = runs[0] / "checkpoints/9"
    taken = sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.iterdir())
    said = read(folder, [list(range(MEMBERS))], list(range(MEMBERS))).bytes
    assert taken <= said <= 2 * taken
