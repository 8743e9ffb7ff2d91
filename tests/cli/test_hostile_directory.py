"""A run directory in which somebody put something else in the place of a file: told, never read."""

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from chimera.cli import main
from chimera.fit.training import Training

FIT = ["fit", "digits", "--module", "mlp", "--set", "hidden=2", "--members", "2"]


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that an error stopped in its second epoch, after a checkpoint."""
    out = tmp_path_factory.mktemp("unfinished") / "run"
    before, calls = Training.epoch, []

    def epoch(self: Training) -> object:
        calls.append(self)
        if len(calls) == 2:
            raise OSError("stopped on purpose")
        return before(self)

    Training.epoch = epoch  # type: ignore[method-assign, assignment]
    try:
        assert main([*FIT, "--epochs", "2", "--checkpoint-every", "1", "--out", str(out)]) == 1
    finally:
        Training.epoch = before  # type: ignore[method-assign]
    assert list(out.glob("checkpoints/*/complete.json"))
    return out


def link(path: Path) -> None:
    kept = path.rename(path.with_name("kept"))
    path.symlink_to(kept)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (link, "is a symbolic link"),
    "loop": (loop, "is a symbolic link"),
    "zeros": (zeros, "is a symbolic link"),
    "pipe": (os.mkfifo, "is a pipe"),
    "socket": (bound, "is a socket"),
    "directory": (Path.mkdir, "is a directory"),
}
NAMES = ("config.json", "environment.json", "metrics.jsonl", "members.csv", "members.safetensors")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*NAMES, "checkpoints"])
def test_what_is_no_plain_file_is_one_line(
    name: str,
    kind: str,
    unfinished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put, said = KINDS[kind]
    if name == "checkpoints" and kind == "directory":
        pytest.skip("that is what it should be")
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    monkeypatch.chdir(run)
    place = run / name
    if kind != "link":
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    elif not place.exists():
        place.write_text("")
    put(place)
    before = stat.S_IFMT(os.lstat(place).st_mode)
    assert main(["fit", "--resume", str(run)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    expected = "a directory" if name == "checkpoints" else "a plain file"
    assert captured.err == f"chimera: {place}: {said}, expected {expected}\n"
    assert stat.S_IFMT(os.lstat(place).st_mode) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"run": ' + "9" * 10_000 + "}", "is no JSON"),
        ('{"run": "a", "run": "b"}', "holds a name twice"),
        ('{"run": NaN}', "holds NaN, which is not JSON"),
        ("[]", "is no"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "environment.json"])
def test_what_is_no_json_is_one_line(
    name: str,
    content: str,
    said: str,
    unfinished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    (run / name).write_text(content)
    assert main(["fit", "--resume", str(run)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"chimera: {run / name}: {said}")
    assert len(told.splitlines()) == 1


def test_a_file_larger_than_any_of_ours_is_not_read(
    unfinished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unfinished, run)
    with open(run / "config.json", "w") as file:
        file.truncate(1 << 40)  # without taking up room
    assert main(["fit", "--resume", str(run)]) == 1
    assert "config.json: has 1,099,511,627,776 bytes, expected at most" in capsys.readouterr().err
