"""The commands and what becomes of their errors.

``main`` returns the exit code: 0 done, 1 a failure, 2 the user's mistake, 3 a directory that is in
use, 130 interrupted, 143 terminated. Whatever goes wrong is one line on standard error; ``--debug``
shows the traceback. So is every notice of the library. A command's file is imported when the
command is called, and torch when it runs, not for ``--help``.
"""

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

from cyclopts import App, CycloptsError
from rich.console import Console

from chimera import __version__
from chimera.cli import typed
from chimera.cli.mistake import one_line
from chimera.cli.output import unbroken
from chimera.cli.verdict import verdict

app = App(
    name="chimera",
    version=__version__,
    help="Compose PyTorch modules into bigger ones and run many of them as one.",
    help_epilogue="After an error, --debug with any command shows the traceback.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
app.command("chimera.cli.fit:fit", name="fit", help="Train many instances of one network at once.")
app.command(
    "chimera.cli.check:check", name="check", help="Find the mistakes in a network before a run."
)
app.command(
    "chimera.cli.summary:summary",
    name="summary",
    help="Show a network as a tree: shapes, parameters, cost, findings.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    One of several ranks that fails ends the process at once: a collective that others left
    unfinished would hold up its end.

    Args:
        arguments: what follows ``chimera`` on the command line; ``sys.argv`` unless given.
    """
    if arguments is None:
        unbroken()
    code = _run(arguments)
    if code and int(os.environ.get("WORLD_SIZE", "1")) > 1 and arguments is None:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    typed.tokens = list(tokens)
    debug = "--debug" in tokens
    tokens = [token for token in tokens if token != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _notice
            code = app(tokens, exit_on_error=False, print_error=False, console=Console())
        sys.stdout.flush()
    except CycloptsError as error:
        if os.environ.get("RANK", "0") != "0":  # every rank was given the same: one says it
            return 2
        return _tell(error, _usage(error), 2, debug)
    except SystemExit as error:
        if not _is_ours(type(error)):
            raise
        return _tell(error, *verdict(error), debug)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  every error has its line
        return _tell(error, *verdict(error), debug)
    return code if isinstance(code, int) else 0


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("chimera.")


def _notice(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A notice of ours as one line; another's as Python writes it."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    if _is_ours(category):
        text = f"chimera: {one_line(message)}\n"
    (file or sys.stderr).write(text)


def _tell(error: BaseException, line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"chimera: {line}", file=sys.stderr)  # noqa: T201
    return code


def _usage(error: CycloptsError) -> str:
    error.verbose = False
    command = " ".join(("chimera", *(error.command_chain or ())))
    text = one_line(error).removesuffix(".")
    return f"{text}; see {command} --help"
