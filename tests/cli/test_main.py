"""The command line as a whole: what answers without torch, and what becomes of errors."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from chimera import __version__
from chimera.cli import main as entry
from chimera.cli import mistake

WITHOUT_TORCH = """
import sys
from chimera.cli import main
code = main({tokens!r})
assert "torch" not in sys.modules, "torch was imported"
sys.exit(code)
"""


@pytest.mark.parametrize(
    "tokens", [["--help"], ["--version"], [], ["fit", "--help"], ["check", "--help"]]
)
def test_help_and_version_do_not_import_torch(tokens: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH.format(tokens=tokens)], capture_output=True, text=True
    )
    assert done.stderr == ""
    assert done.returncode == 0
    expected = __version__ if tokens == ["--version"] else "Usage: chimera"
    assert expected in done.stdout


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "chimera", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


def test_help_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert entry(["fit", "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        (["fti"], 'Unknown command "fti". Did you mean "fit"?'),
        (["fit"], "parameter DATA requires an argument: digits, FILE.npz or X.npy,Y.npy; see"),
        (["fit", "digits"], "parameter --module requires an argument: mlp or FILE.py:NAME; see"),
        (
            ["fit", "n.py:Net"],
            "'n.py:Net' is a network; write chimera fit digits --module n.py:Net",
        ),
        (["fit", "digits", "--module", "mlp", "--memberz", "3"], "Unknown option: --memberz"),
        (
            ["fit", "digits", "--module", "mlp", "--members", "many"],
            "Invalid value for --members: expected a whole number, got 'many'",
        ),
        (
            ["fit", "digits", "--module", "mlp", "--members", "2.5"],
            "Invalid value for --members: expected a whole number, got '2.5'",
        ),
        (
            ["fit", "digits", "--module", "mlp", "--epochs", "0"],
            "Invalid value for --epochs: expected a whole number of at least 1, got 0",
        ),
    ],
)
def test_a_wrong_line_is_told_in_one_line(
    tokens: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry(tokens) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("chimera: ")
    assert told in captured.err
    assert captured.err.count("\n") == 1


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Put a function in the place of a command's work."""

    def put(work: Callable[[], Any]) -> None:
        def app(*_: object, **__: object) -> Any:
            return work()

        # The name ``chimera.cli.main`` is the function; its module is in sys.modules.
        monkeypatch.setattr(sys.modules["chimera.cli.main"], "app", app)

    return put


def fail(error: BaseException) -> Callable[[], Any]:
    def work() -> Any:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (mistake.Mistake("two\nlines"), 2, "two lines"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "x"), 1, "[Errno 28] No space left on device: 'x'"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(
    command: Callable[[Callable[[], Any]], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    told: str,
) -> None:
    command(fail(error))
    assert entry([]) == code
    assert capsys.readouterr().err == f"chimera: {told}\n"


def test_debug_shows_the_traceback(
    command: Callable[[Callable[[], Any]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(fail(mistake.Mistake("wrong")))
    assert entry(["fit", "--debug"]) == 2
    told = capsys.readouterr().err
    assert "Traceback (most recent call last)" in told
    assert told.endswith("chimera: wrong\n")


def test_an_error_of_the_user_s_code_names_its_place(
    command: Callable[[Callable[[], Any]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    command(fail(ValueError("odd")))
    assert entry([]) == 1
    assert "test_main.py, line " in (told := capsys.readouterr().err)
    assert told.endswith("in work: ValueError: odd\n")


def test_a_wrong_argument_that_the_library_refuses_is_the_user_s_mistake(
    command: Callable[[Callable[[], Any]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    from chimera.build.spec import spec

    command(lambda: spec(-1))
    assert entry([]) == 2
    assert capsys.readouterr().err.startswith("chimera: spec: axis 0 must not be negative")


def test_notes_of_an_error_stand_in_its_line(
    command: Callable[[Callable[[], Any]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    error = RuntimeError("mat1 and mat2")
    error.add_note("at net.0\n  came [2, 3]")
    command(fail(error))
    assert entry([]) == 1
    assert capsys.readouterr().err.endswith("RuntimeError: mat1 and mat2; at net.0 came [2, 3]\n")


@pytest.mark.parametrize("tokens", [["--help"], ["--version"]])
def test_a_reader_that_is_gone_is_no_error(tokens: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "chimera", *tokens], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
